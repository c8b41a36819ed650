//! Lines on a stream that somebody reads, or not.

use std::{
    io::{BufWriter, Write},
    sync::Arc,
};

use super::worker::{Deliver, Undelivered};
use crate::{Denial, human};

/// How denials are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Human {
        /// With ANSI colours.
        color: bool,
    },
    /// One JSON object a line.
    Json,
}

/// Prints denials, one after the other.
pub(super) struct Lines<W: Write> {
    out: BufWriter<W>,
    format: Format,
}

impl<W: Write> Lines<W> {
    pub(super) fn to(writer: W, format: Format) -> Self {
        Self { out: BufWriter::new(writer), format }
    }
}

impl<W: Write + Send + 'static> Deliver for Lines<W> {
    /// As many as wait, then one flush: cheap under load, at once when there is one.
    fn deliver(&mut self, batch: &[Arc<Denial>]) -> Result<(), Undelivered> {
        let mut written = Ok(());
        for denial in batch {
            let text = match self.format {
                Format::Human { color } => human::lines(denial, color),
                Format::Json => denial.to_json() + "\n",
            };
            written = written.and_then(|()| self.out.write_all(text.as_bytes()));
        }
        // Whose reader has gone has none again.
        written.and_then(|()| self.out.flush()).map_err(|error| Undelivered {
            delivered: 0,
            refused: batch.len(),
            why: error.to_string(),
        })
    }
}

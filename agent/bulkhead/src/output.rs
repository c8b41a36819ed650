//! What the commands print, in colour where that is wanted.

use std::io::{self, Write};

use anstream::{AutoStream, ColorChoice, stream::RawStream};
use bulkhead_report::plain;
use jiff::Timestamp;
use serde::Serialize;

/// What a command that needs no agent has found.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// What it prints.
    pub(crate) text: String,
    /// Is there something to see to? Decides the exit status.
    pub(crate) finding: bool,
}

/// Does this stream want colours? A terminal does, unless NO_COLOR, CLICOLOR or TERM say otherwise.
pub(crate) fn color(stream: &impl RawStream) -> bool {
    !matches!(AutoStream::choice(stream), ColorChoice::Never)
}

/// Prints a command's result. A reader that has seen enough (`| head`) is no error.
pub(crate) fn print(result: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(result.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}

/// Text that names what somebody else has chosen, line by line fit for a terminal.
pub(crate) fn plain_lines(text: &str) -> String {
    text.lines().flat_map(|line| [plain(line), "\n".to_owned()]).collect()
}

/// `1 rule`, `2 rules`.
pub(crate) fn plural(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// `12 s`, `3 min 5 s`, `2 h 3 min`, `4 d 2 h`.
pub(crate) fn age(seconds: u64) -> String {
    match (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, s) => format!("{s} s"),
        (0, 0, m, s) => format!("{m} min {s} s"),
        (0, h, m, _) => format!("{h} h {m} min"),
        (d, h, _, _) => format!("{d} d {h} h"),
    }
}

/// How long ago something was.
pub(crate) fn ago(then: Timestamp, now: Timestamp) -> String {
    format!("{} ago", span(then, now))
}

/// How long it is from one moment to another.
pub(crate) fn span(from: Timestamp, to: Timestamp) -> String {
    age(u64::try_from(to.duration_since(from).as_secs()).unwrap_or(0))
}

/// One JSON object and its line end.
pub(crate) fn json(value: &impl Serialize) -> String {
    bulkhead_report::json(value) + "\n"
}

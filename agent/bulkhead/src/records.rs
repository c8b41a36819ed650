//! Records as the agent tells them, shown as they come.

use std::io::{self, Write};

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use crate::control::{Lines, LostLines};

/// How a line is shown.
pub(crate) enum Shown<'s> {
    /// JSON, as it is.
    AsTold,
    /// In words.
    ForPeople(&'s dyn Fn(&str) -> String),
}

/// Shows all that is told, until Ctrl-C, or until nobody reads it any more: both are a good end.
pub(crate) async fn show(mut told: Lines, shown: Shown<'_>) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    loop {
        let lines = tokio::select! {
            lines = told.next() => lines?,
            _ = interrupt.recv() => return Ok(()),
        };
        let Some(lines) = lines else { return Ok(()) };
        let text = match &shown {
            Shown::AsTold => lines,
            Shown::ForPeople(words) => lines.lines().map(|line| in_words(line, words)).collect(),
        };
        let mut out = io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            done => done.context("cannot print the result")?,
        }
    }
}

fn in_words(line: &str, words: &dyn Fn(&str) -> String) -> String {
    match serde_json::from_str(line) {
        Ok(LostLines { lost }) => {
            format!("({lost} more came faster than they were read and are not shown)\n")
        }
        Err(_) => words(line),
    }
}

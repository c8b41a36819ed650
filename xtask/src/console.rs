//! What these commands say: plain lines in a log, a little colour on a terminal.

use std::{
    env,
    fmt::Display,
    io::{IsTerminal as _, stderr},
};

const BOLD: &str = "1";
const RED: &str = "1;31";

/// A step begins.
pub(crate) fn step(text: impl Display) {
    eprintln!("{}", paint(BOLD, &format!("==> {text}")));
}

/// A remark on the step.
pub(crate) fn note(text: impl Display) {
    eprintln!("    {text}");
}

/// The command ends here.
pub(crate) fn failed(error: &anyhow::Error) {
    eprintln!("{} {error:#}", paint(RED, "error:"));
}

/// A number of things.
pub(crate) fn plural(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

fn paint(colour: &str, text: &str) -> String {
    if stderr().is_terminal() && env::var_os("NO_COLOR").is_none() {
        format!("\x1b[{colour}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

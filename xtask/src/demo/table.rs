//! What was expected and what was observed, side by side; a little colour on a terminal.

use std::{
    env,
    fmt::Display,
    io::{IsTerminal as _, stdout},
};

use super::attempt::{ATTEMPTS, Observed};

/// Prints the table.
pub(crate) fn print(dry_run: &[Observed], enforced: &[Observed]) {
    println!(
        "    {:<13} {:<14} {:<15} {:<9} {:<17} {:<18} as expected",
        "from", "to", "address", "expected", "dry run", "enforced"
    );
    for ((attempt, dry), real) in ATTEMPTS.iter().zip(dry_run).zip(enforced) {
        let (address, port) = attempt.target();
        let fits = if dry.fits && real.fits { paint(Colour::Green, "yes") } else { paint(Colour::Red, "NO") };
        println!(
            "    {:<13} {:<14} {:<15} {:<9} {:<17} {:<18} {fits}",
            attempt.from.label(),
            attempt.to.label(),
            format!("{address}:{port}"),
            attempt.expected,
            dry.outcome,
            real.outcome,
        );
    }
}

/// A colour of the terminal's.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Colour {
    Red,
    Green,
    Yellow,
}

/// The text in a colour, where standard output shows colours.
pub(crate) fn paint(colour: Colour, text: impl Display) -> String {
    if !stdout().is_terminal() || env::var_os("NO_COLOR").is_some() {
        return text.to_string();
    }
    let number = match colour {
        Colour::Red => 31,
        Colour::Green => 32,
        Colour::Yellow => 33,
    };
    format!("\x1b[{number}m{text}\x1b[0m")
}

//! `bulkhead man` and `bulkhead completions`: what the command line says of itself.

use std::io;

use clap::{Command, CommandFactory, error::ErrorKind};
use clap_complete::Shell;

use crate::cli::Cli;

/// The manual page of a command, or of all of bulkhead.
pub(crate) fn page(about: Option<&str>) -> io::Result<Vec<u8>> {
    let mut all = Cli::command();
    all.build();
    let command = match about {
        None => all,
        Some(name) => subcommand(&mut all, name),
    };
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page)?;
    Ok(page)
}

fn subcommand(all: &mut Command, name: &str) -> Command {
    if let Some(command) = all.find_subcommand(name) {
        return command.clone();
    }
    let names: Vec<_> = all.get_subcommands().map(Command::get_name).collect();
    let why = format!("there is no command `{name}`; there are {}", names.join(", "));
    all.error(ErrorKind::InvalidValue, why).exit()
}

/// What a shell reads to complete the command line.
pub(crate) fn completions(shell: Shell) -> Vec<u8> {
    let mut completions = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "bulkhead", &mut completions);
    completions
}

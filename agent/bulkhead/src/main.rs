//! Bulkhead: eBPF micro-segmentation for Linux.

#![forbid(unsafe_code)]

mod check;
mod cli;
mod control;
mod daemon;
mod lock;
mod output;
mod policy_files;
mod settings;
mod status;

use std::{io, process::ExitCode};

use anstyle::{AnsiColor, Style};
use anyhow::Context;
use clap::{CommandFactory, Parser};

use crate::{
    cli::{Cli, Command, Output},
    daemon::RunError,
    policy_files::PolicyFilesError,
    settings::{Settings, SettingsError},
};

/// Exit status where something was found, or does not work here.
const FINDING: u8 = 1;
/// Exit status of wrong usage or input.
const USAGE: u8 = 2;
const ERROR: Style = AnsiColor::Red.on_default().bold();

fn main() -> ExitCode {
    let cli = Cli::parse();
    match act(&cli) {
        Ok(code) => code,
        Err(error) => fail(&error),
    }
}

fn act(cli: &Cli) -> anyhow::Result<ExitCode> {
    let common = &cli.common;
    match &cli.command {
        Command::Run(arguments) => {
            output::log(common.output == Output::Human);
            daemon::run(&Settings::of_run(common, arguments)?, common.output)?;
        }
        Command::Status => {
            let socket = settings::control_socket(common)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let status = runtime.block_on(status::ask(&socket, common.output))?;
            print(&status)?;
        }
        Command::Check(arguments) => {
            let checked = check::check(arguments, common.output)?;
            print(&checked.findings)?;
            return Ok(if checked.compiles { ExitCode::SUCCESS } else { ExitCode::from(FINDING) });
        }
        Command::Completions { shell } => {
            let mut completions = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "bulkhead", &mut completions);
            print(&String::from_utf8(completions)?)?;
        }
        Command::Man => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut page)?;
            print(&String::from_utf8(page)?)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn print(result: &str) -> anyhow::Result<()> {
    output::print(result).context("cannot print the result")
}

/// Tells what went wrong.
fn fail(error: &anyhow::Error) -> ExitCode {
    if let Some(RunError::Policy { sources, findings }) = error.downcast_ref() {
        eprint!("{}", findings.render(sources, output::color(&io::stderr())));
    }
    anstream::eprintln!("{ERROR}error:{ERROR:#} {error:#}");
    let usage = error.is::<SettingsError>()
        || error.is::<PolicyFilesError>()
        || matches!(error.downcast_ref(), Some(RunError::Files(_)));
    ExitCode::from(if usage { USAGE } else { FINDING })
}

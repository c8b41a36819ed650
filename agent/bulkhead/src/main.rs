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

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anyhow::Context;
use clap::{CommandFactory, Parser};

use crate::{
    cli::{Cli, Command, Output},
    daemon::RunError,
    policy_files::PolicyFilesError,
    settings::{Settings, SettingsError},
};

/// Wrong usage or input.
const USAGE: u8 = 2;

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
            runtime.block_on(status::status(&socket, common.output))?;
        }
        Command::Check(arguments) => return Ok(check::check(arguments, common.output)?),
        Command::Completions { shell } => {
            clap_complete::generate(*shell, &mut Cli::command(), "bulkhead", &mut io::stdout());
        }
        Command::Man => clap_mangen::Man::new(Cli::command()).render(&mut io::stdout())?,
    }
    io::stdout().flush().context("cannot print")?;
    Ok(ExitCode::SUCCESS)
}

/// Tells what went wrong.
fn fail(error: &anyhow::Error) -> ExitCode {
    if let Some(RunError::Policy { sources, findings }) = error.downcast_ref() {
        eprint!("{}", findings.render(sources, output::color(&io::stderr())));
    }
    anstream::eprintln!("{}error:{} {error:#}", ERROR, anstyle::Reset);
    let usage = error.is::<SettingsError>()
        || error.is::<PolicyFilesError>()
        || matches!(error.downcast_ref(), Some(RunError::Files(_)));
    ExitCode::from(if usage { USAGE } else { 1 })
}

const ERROR: anstyle::Style = anstyle::AnsiColor::Red.on_default().bold();

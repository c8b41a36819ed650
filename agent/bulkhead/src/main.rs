//! Bulkhead: eBPF micro-segmentation for Linux.

#![forbid(unsafe_code)]

mod change;
mod check;
mod cli;
mod control;
mod daemon;
mod denials;
mod detach;
mod diff;
mod doctor;
mod explain;
mod flow_file;
mod flows;
mod here;
mod input;
mod lock;
mod log;
mod manual;
mod output;
mod own_cgroup;
mod policy_files;
mod records;
mod rules;
mod settings;
mod shadow;
mod simulate;
mod span;
mod state;
mod status;
mod table;
mod test;
mod top;
mod workloads;

use std::{env, io, path::Path, process::ExitCode};

use anstyle::{AnsiColor, Style};
use anyhow::Context;
use clap::Parser;

use crate::{
    cli::{Cli, Command, Common, Output},
    daemon::RunError,
    input::InputError,
    log::Log,
    output::Outcome,
    settings::{Settings, SettingsError},
};

/// Exit status where something was found, or does not work here.
const FINDING: u8 = 1;
/// Exit status of wrong usage or input.
const USAGE: u8 = 2;
const ERROR: Style = AnsiColor::Red.on_default().bold();

fn main() -> ExitCode {
    if daemon::is_canary(env::args_os()) {
        return daemon::be_canary();
    }
    let done = match doctor::visit(env::args_os()) {
        Some(visited) => visited.and_then(|outcome| print(&outcome)).map(|()| ExitCode::SUCCESS),
        None => act(&Cli::parse()),
    };
    done.unwrap_or_else(|error| fail(&error))
}

fn act(cli: &Cli) -> anyhow::Result<ExitCode> {
    let common = &cli.common;
    match &cli.command {
        Command::Run(arguments) => {
            let output = common.output();
            let (log, _written_at_last) = Log::start(output == Output::Human)?;
            daemon::run(&Settings::of_run(common, arguments)?, output, &log)?;
        }
        Command::Status => {
            print(&ask(common, async |socket| Ok(status::ask(socket, common.output()).await?))?)?;
        }
        Command::Top => {
            common.output_for_people(
                "top draws on a terminal; `bulkhead flows --follow --output json` tells the same",
            );
            print(&ask(common, async |socket| top::run(socket).await)?)?;
        }
        Command::Workloads => {
            print(&ask(common, async |socket| Ok(workloads::ask(socket, common.output()).await?))?)?;
        }
        Command::Rules(arguments) => {
            print(&ask(common, async |socket| rules::ask(socket, arguments, common.output()).await)?)?;
        }
        Command::Denials(arguments) => {
            ask(common, async |socket| denials::show(socket, arguments, common.output()).await)?;
        }
        Command::Flows(arguments) => {
            ask(common, async |socket| flows::show(socket, arguments, common.output()).await)?;
        }
        Command::Plan(arguments) => {
            return tell(&ask(common, async |socket| {
                change::plan(socket, arguments, common.output()).await
            })?);
        }
        Command::Apply(arguments) => {
            return tell(&ask(common, async |socket| {
                change::apply(socket, arguments, common.output()).await
            })?);
        }
        Command::Shadow(arguments) => {
            return tell(&ask(common, async |socket| {
                shadow::shadow(socket, arguments, common.output()).await
            })?);
        }
        Command::Confirm(arguments) => {
            return tell(&ask(common, async |socket| {
                change::confirm(socket, arguments, common.output()).await
            })?);
        }
        Command::Rollback => {
            return tell(&ask(common, async |socket| change::roll_back(socket, common.output()).await)?);
        }
        Command::Detach => print(&detach::detach(&settings::bpffs(common)?, common.output())?)?,
        Command::Doctor(arguments) => {
            let places = settings::places(common, arguments.cgroup_root.as_deref())?;
            return tell(&doctor::doctor(&places, arguments.self_test, common.output())?);
        }
        Command::Check(arguments) => {
            return tell(&check::check(arguments, common.output())?);
        }
        Command::Test(arguments) => {
            return tell(&test::test(arguments, common.output, output::color(&io::stdout()))?);
        }
        Command::Explain(arguments) => {
            return tell(&explain::explain(arguments, common.output())?);
        }
        Command::Simulate(arguments) => {
            return tell(&simulate::simulate(arguments, common.output())?);
        }
        Command::Diff(arguments) => {
            return tell(&diff::diff(arguments, common.output())?);
        }
        Command::Completions { shell } => print(&String::from_utf8(manual::completions(*shell))?)?,
        Command::Man(arguments) => {
            print(&String::from_utf8(manual::page(arguments.command.as_deref())?)?)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks the agent something.
fn ask<T>(common: &Common, question: impl AsyncFnOnce(&Path) -> anyhow::Result<T>) -> anyhow::Result<T> {
    let socket = settings::control_socket(common)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(question(&socket))
}

fn print(result: &str) -> anyhow::Result<()> {
    output::print(result).context("cannot print the result")
}

/// Tells what was found.
fn tell(outcome: &Outcome) -> anyhow::Result<ExitCode> {
    print(&outcome.text)?;
    Ok(if outcome.finding { ExitCode::from(FINDING) } else { ExitCode::SUCCESS })
}

/// Tells what went wrong.
fn fail(error: &anyhow::Error) -> ExitCode {
    let run = error.downcast_ref().and_then(|error| match error {
        RunError::Policy { sources, findings } => Some((sources, findings)),
        _ => None,
    });
    let input = error.downcast_ref().and_then(|error| match error {
        InputError::Policy { sources, findings } => Some((sources, findings)),
        _ => None,
    });
    if let Some((sources, findings)) = run.or(input) {
        eprint!("{}", findings.render(sources, output::color(&io::stderr())));
    }
    let why = output::plain_lines(&format!("{error:#}"));
    anstream::eprint!("{ERROR}error:{ERROR:#} {why}");
    let usage = error.is::<SettingsError>()
        || error.is::<InputError>()
        || matches!(error.downcast_ref(), Some(RunError::Files(_)));
    ExitCode::from(if usage { USAGE } else { FINDING })
}

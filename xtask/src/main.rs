//! Bulkhead's own commands: `cargo xtask <command>`.

#![forbid(unsafe_code)]

mod apt;
mod bench;
mod console;
mod demo;
mod dist;
mod figures;
mod fuzz;
mod graph;
mod setup;
mod test;
mod tidy;
mod vm;
mod workspace;

use std::process::ExitCode;

use clap::Parser;

/// Sets a machine up for Bulkhead, tests, fuzzes, measures, shows and packs it.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Command {
    Bench(bench::Args),
    Demo(demo::Args),
    Dist(dist::Args),
    Fuzz(fuzz::Args),
    Setup(setup::Args),
    Test(test::Args),
    Tidy(tidy::Args),
    Vm(vm::Args),
}

fn main() -> ExitCode {
    let done = match Command::parse() {
        Command::Bench(args) => bench::run(args),
        Command::Demo(args) => demo::run(args),
        Command::Dist(args) => dist::run(args),
        Command::Fuzz(args) => fuzz::run(args),
        Command::Setup(args) => setup::run(args),
        Command::Test(args) => test::run(&args),
        Command::Tidy(args) => tidy::run(args),
        Command::Vm(args) => vm::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            console::failed(&error);
            ExitCode::FAILURE
        }
    }
}

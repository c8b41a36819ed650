//! `cargo xtask bench`: how fast, and how much memory, beside what was promised.

mod lab;
mod machine;
mod policy;
mod process;
mod table;

use anyhow::Result;
use clap::ValueEnum;

use self::machine::Machine;
use crate::{figures, setup};

/// Measure and compare with what was promised; without a name, list what can be measured
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Args {
    /// What to measure
    name: Option<Bench>,
    /// Put the figures into docs/performance.md
    #[arg(long, requires = "name")]
    write: bool,
    /// Do not ask before installing what is missing
    #[arg(long, short)]
    yes: bool,
}

/// What can be measured: a module each, that gives a table.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Bench {
    /// The compiler of policies, and the commands that need no agent
    Policy,
    /// What the programs cost, beside nothing, systemd's IPAddressAllow= and nftables
    Datapath,
    /// The agent: how soon it is ready, what it takes, how soon it does what it is told
    Agent,
}

/// Fails if something cannot be measured, never because it is slow: that depends on the machine.
pub(crate) fn run(args: Args) -> Result<()> {
    let Some(bench) = args.name else {
        for bench in Bench::value_variants().iter().filter_map(ValueEnum::to_possible_value) {
            let what = bench.get_help().map(ToString::to_string).unwrap_or_default();
            println!("cargo xtask bench {:<10} {what}", bench.get_name());
        }
        return Ok(());
    };
    setup::ensure(args.yes)?;
    let machine = Machine::gather()?;
    let table = match bench {
        Bench::Policy => policy::measure()?,
        Bench::Datapath => lab::measure("datapath")?,
        Bench::Agent => lab::measure("agent")?,
    };
    let table = format!("{machine}\n\n{table}");
    println!("{table}");
    if args.write {
        let name = bench.to_possible_value().map(|name| name.get_name().to_owned()).unwrap_or_default();
        figures::write(&format!("bench {name}"), &table)?;
    }
    Ok(())
}

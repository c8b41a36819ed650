//! `cargo xtask bench`: how fast, and how much memory, beside what was promised.

mod datapath;
mod machine;
mod policy;
mod process;
mod table;

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use self::machine::Machine;
use crate::{console, setup, workspace};

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
}

/// Where the figures are kept, below the root.
const PAGE: &str = "docs/performance.md";

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
        Bench::Datapath => datapath::measure()?,
    };
    let figures = format!("{machine}\n\n{table}");
    println!("{figures}");
    if args.write {
        let name = bench.to_possible_value().map(|name| name.get_name().to_owned()).unwrap_or_default();
        write(&workspace::root().join(PAGE), &name, &figures)?;
        console::note(format!("written to {PAGE}"));
    }
    Ok(())
}

/// Replaces the figures of one bench in the page.
fn write(page: &Path, name: &str, figures: &str) -> Result<()> {
    let text = fs::read_to_string(page).with_context(|| format!("cannot read {}", page.display()))?;
    let text = replaced(&text, name, figures)
        .with_context(|| format!("{} has no place for the figures of `bench {name}`", page.display()))?;
    fs::write(page, text).with_context(|| format!("cannot write {}", page.display()))
}

/// The page with new figures between the marks of a bench.
fn replaced(page: &str, name: &str, figures: &str) -> Option<String> {
    let (before, rest) = page.split_once(&format!("<!-- bench {name} -->\n"))?;
    let (_, after) = rest.split_once(&format!("<!-- end of bench {name} -->\n"))?;
    Some(format!("{before}<!-- bench {name} -->\n{figures}\n<!-- end of bench {name} -->\n{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_replaced_in_their_place_alone() {
        let page = "# P\n<!-- bench a -->\nold\n<!-- end of bench a -->\n<!-- bench b -->\n<!-- end of bench b -->\n";
        let new = replaced(page, "a", "new\nfigures").unwrap();
        assert!(
            new.starts_with(
                "# P\n<!-- bench a -->\nnew\nfigures\n<!-- end of bench a -->\n<!-- bench b -->\n"
            )
        );
        assert_eq!(replaced(&new, "a", "new\nfigures").unwrap(), new);
        assert_eq!(replaced(page, "c", ""), None);
    }
}

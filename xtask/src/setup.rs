//! `cargo xtask setup`: from a machine with rustup's stable toolchain to one that builds and tests Bulkhead.

mod backports;
mod facts;
mod kernel;
mod packages;
mod plan;
mod step;

use std::io::{BufRead as _, IsTerminal as _, stdin};

use anyhow::{Context as _, Result, bail};
use bulkhead_toolchain::{Arch, Toolchain, Way};

use self::{
    facts::Facts,
    kernel::Kernel,
    plan::{Failed, plan},
    step::{LinkerSource, Step},
};
use crate::{console, workspace};

/// Install what building and testing Bulkhead takes, and tell why; nothing if it is all there
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Args {
    /// Only print what would be installed
    #[arg(long)]
    print: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

/// Installs what is missing and tells what there is.
pub(crate) fn run(args: Args) -> Result<()> {
    if args.print {
        let facts = Facts::gather()?;
        let steps = plan(&facts, Failed::default())?;
        announce(&steps);
        if !steps.is_empty() {
            return Ok(());
        }
    } else {
        ensure(args.yes)?;
    }
    summarize()
}

/// Installs what is missing; silent where nothing is. Asks first if there is somebody to answer and not `yes`.
pub(crate) fn ensure(yes: bool) -> Result<()> {
    let mut failed = Failed::default();
    let mut done: Vec<Step> = Vec::new();
    let mut agreed = yes;
    // What a step brings may decide what else is needed (nightly's LLVM, say), so the plan is made anew until it is
    // empty. A step that comes up again has brought nothing.
    loop {
        let facts = Facts::gather()?;
        let planned = plan(&facts, failed)?;
        if planned.is_empty() {
            return Ok(());
        }
        let steps: Vec<Step> = planned.into_iter().filter(|step| !already(&done, step)).collect();
        if steps.is_empty() {
            bail!("apt-get update brought no lists of packages: see /etc/apt/sources.list");
        }
        announce(&steps);
        if !Kernel::gather().root && steps.iter().any(Step::needs_root) {
            bail!("only root can install packages:\n{}", for_root(&steps));
        }
        if !agreed {
            agree()?;
            agreed = true;
        }
        for step in steps {
            if done.contains(&step) {
                bail!("{} was installed and is still not found or does not fit", names(&step));
            }
            if step == Step::Linker(LinkerSource::Later) {
                break;
            }
            let outcome = carry_out(&step);
            match (&step, outcome) {
                (_, Ok(())) => done.push(step),
                (Step::Nightly | Step::NightlyComponents(_), Err(error)) if !failed.nightly => {
                    console::note(format!("{error:#}: trying Debian's compiler"));
                    failed.nightly = true;
                    break;
                }
                (Step::Linker(LinkerSource::Prebuilt), Err(error)) if !failed.prebuilt => {
                    console::note(format!("{error:#}"));
                    failed.prebuilt = true;
                    break;
                }
                // Another repository's trouble need not be ours: what is missing shows when packages are installed.
                (Step::Lists, Err(error)) => {
                    console::note(format!("{error:#}"));
                    done.push(step);
                }
                (_, Err(error)) => return Err(error),
            }
        }
    }
}

/// Lists are fetched once a run; with anything else, being asked for again is a finding.
fn already(done: &[Step], step: &Step) -> bool {
    *step == Step::Lists && done.contains(step)
}

fn announce(steps: &[Step]) {
    if steps.is_empty() {
        return;
    }
    console::step("to be installed");
    for (what, why) in steps.iter().flat_map(Step::reasons) {
        console::note(format!("{what:<26} {why}"));
    }
    console::step("by");
    for line in steps.iter().flat_map(Step::lines) {
        console::note(line);
    }
}

fn for_root(steps: &[Step]) -> String {
    let lines = steps.iter().filter(|step| step.needs_root()).flat_map(Step::lines);
    let lines: Vec<String> = lines.map(|line| format!("    sudo {line}")).collect();
    format!("{}\nthen run `cargo xtask setup` again", lines.join("\n"))
}

/// Asks on a terminal. Elsewhere nobody could answer, and whoever called this wants it done.
fn agree() -> Result<()> {
    if !stdin().is_terminal() {
        return Ok(());
    }
    console::step("install this? [Y/n]");
    let mut answer = String::new();
    stdin().lock().read_line(&mut answer)?;
    match answer.trim().to_lowercase().as_str() {
        "" | "y" | "yes" => Ok(()),
        _ => bail!("nothing was installed"),
    }
}

fn carry_out(step: &Step) -> Result<()> {
    match step {
        Step::Packages(packages) => run_lines(step).or_else(|refused| backports::install(packages, &refused)),
        _ => run_lines(step),
    }
}

fn run_lines(step: &Step) -> Result<()> {
    for line in step.lines() {
        console::step(&line);
        workspace::succeed(&mut line.command()).with_context(|| format!("{} is missing", names(step)))?;
    }
    Ok(())
}

fn names(step: &Step) -> String {
    step.reasons().into_iter().map(|(what, _)| what).collect::<Vec<_>>().join(", ")
}

/// Proves by looking once more, and tells.
fn summarize() -> Result<()> {
    let Toolchain { compiler, linker } = Toolchain::find(Arch::host().target())?;
    let way = match compiler.way {
        Way::Rustup => "rustup's nightly with rust-src",
        Way::Debian => "Debian's rustc-web",
    };
    let linker_llvm =
        linker.llvm.map_or_else(|| "an LLVM of its own".to_owned(), |llvm| format!("LLVM {llvm}"));
    console::step("this machine builds and tests Bulkhead");
    console::note(format!("BPF programs  {way} (LLVM {}), bpf-linker ({linker_llvm})", compiler.llvm));
    console::note("tests         cargo-nextest and the packages they use");
    let kernel = Kernel::gather();
    let cgroup2 = kernel.cgroup2.as_ref().map(|path| format!(", cgroup v2 at {path}")).unwrap_or_default();
    console::note(format!("kernel        {}{cgroup2}", kernel.release));
    for finding in kernel.findings() {
        console::note(format!("but           {finding}"));
    }
    Ok(())
}

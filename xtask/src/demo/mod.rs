//! `cargo xtask demo`: the built agent keeps two environments apart, before one's eyes.
//!
//! Real processes, in real cgroups and network namespaces of their own, try what they may and what they may not:
//! first in a dry run, then enforced. What came of it is held against what the policy says.

mod attempt;
mod interrupt;
mod scene;
mod serve;
mod table;
mod visit;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use bulkhead_tests::{Agent, agent};

use self::{attempt::ATTEMPTS, interrupt::Interrupt, scene::Scene};
use crate::{console, setup, workspace};

/// Show two environments kept apart: real processes, real refusals, nothing left behind
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Args {
    /// Leave it running to play with
    #[arg(long)]
    keep: bool,
    /// Do not ask before installing what is missing
    #[arg(long, short)]
    yes: bool,
    /// Be one of the demo's servers
    #[arg(long, hide = true)]
    serve: Option<serve::Service>,
}

/// Shows it. An error means that something did not come out as the policy says.
pub(crate) fn run(args: Args) -> Result<()> {
    if let Some(service) = args.serve {
        return serve::serve(service);
    }
    setup::ensure(args.yes)?;
    console::step("building the agent");
    workspace::succeed(workspace::cargo().args(["build", "--package", "bulkhead"]))?;

    let interrupt = Interrupt::catch()?;
    let scene = Scene::set()?;
    let root = scene.root()?;
    console::step("two environments on one host");
    scene.introduce();

    console::step("dry run: nothing is refused, everything that would be is reported");
    let dry_run = scene.lab().agent_under(&policy()?)?.dry_run().in_own_group().start()?;
    let rehearsed = attempt::all(&scene, &dry_run, true, &interrupt);
    dry_run.stop()?;
    let rehearsed = rehearsed?;

    console::step("enforced: who has no rule is refused, the others do not notice");
    let agent = scene.lab().agent_under(&policy()?)?.in_own_group().start()?;
    let enforced = attempt::all(&scene, &agent, false, &interrupt);
    let Ok(enforced) = enforced else { return agent.stop().and_then(|_| enforced.map(drop)) };

    console::step("expected and observed");
    table::print(&rehearsed, &enforced);
    let right = rehearsed.iter().zip(&enforced).filter(|(dry, real)| dry.fits && real.fits).count();
    let all = ATTEMPTS.len();
    if args.keep {
        visit::receive(&scene, &agent, &interrupt)?;
    }
    end(scene, agent, &root)?;
    println!("\n{right} of {all} as expected; processes, cgroups, networks and BPF programs are gone again");
    ensure!(right == all, "{} of {all} did not come out as the policy says", all - right);
    Ok(())
}

/// Takes everything down and looks whether it is gone.
fn end(scene: Scene, agent: Agent, root: &Path) -> Result<()> {
    agent.stop().context("the agent did not stop cleanly")?;
    ensure!(agent::attached(root)?.is_empty(), "BPF programs are left at {}", root.display());
    drop(scene);
    ensure!(!root.exists(), "{} is left", root.display());
    Ok(())
}

/// The policy that is shown.
fn policy() -> Result<PathBuf> {
    workspace::root().join("policies/demo.toml").canonicalize().context("policies/demo.toml is missing")
}

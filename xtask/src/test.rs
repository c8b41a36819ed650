//! `cargo xtask test`: everything that must hold before a change lands, the cheapest first.

use std::{env, time::Instant};

use anyhow::{Context as _, Result};
use bulkhead_toolchain::{Arch, Programs, Toolchain};

use crate::{
    console, setup, tidy,
    workspace::{self, FUZZ, PROGRAMS, cargo, succeed},
};

/// Check and test everything, after installing what that takes
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Only run the tests whose name contains this, and none of the checks
    filter: Option<String>,
    /// Do not ask before installing what is missing
    #[arg(long, short)]
    yes: bool,
}

/// A check: what it is called, and what it does.
type Check = (&'static str, fn() -> Result<()>);

const CHECKS: [Check; 7] = [
    ("format", format),
    ("tidy", tidy::check),
    ("clippy", clippy),
    ("clippy of the BPF programs", clippy_programs),
    ("the agent alone", agent_alone),
    ("documentation", documentation),
    ("documentation's tests", documentation_tests),
];

/// The variable by which tests are told of an agent that is built already.
const AGENT: &str = "BULKHEAD_BIN";

/// For clippy: a warning is a failure.
const DENY: [&str; 3] = ["--", "-D", "warnings"];

/// Stops at the first failure. nextest comes last: its summary closes the output.
pub(crate) fn run(args: &Args) -> Result<()> {
    setup::ensure(args.yes)?;
    if args.filter.is_none() {
        for (number, (name, check)) in (1..).zip(CHECKS) {
            console::step(format!("{number}/{} {name}", CHECKS.len() + 1));
            let start = Instant::now();
            check().with_context(|| format!("{name} failed"))?;
            console::note(format!("{:.1} s", start.elapsed().as_secs_f32()));
        }
        console::step(format!("{0}/{0} tests", CHECKS.len() + 1));
    }
    tests(args.filter.as_deref())
}

fn is_ci() -> bool {
    env::var_os("CI").is_some()
}

/// How everything is built: in CI as for the emulated machines, so that nothing is built twice.
fn profile() -> &'static str {
    if is_ci() { workspace::EMULATED } else { "dev" }
}

fn format() -> Result<()> {
    succeed(cargo().args(["fmt", "--all", "--check"]))?;
    for workspace in [PROGRAMS, FUZZ] {
        succeed(cargo().args(["fmt", "--check", "--manifest-path"]).arg(format!("{workspace}/Cargo.toml")))?;
    }
    Ok(())
}

fn clippy() -> Result<()> {
    let mut clippy = cargo();
    clippy.args(["clippy", "--quiet", "--workspace", "--all-targets", "--all-features"]);
    succeed(clippy.args(["--profile", profile()]).args(DENY))
}

/// Apart from the rest: another compiler, another target, and code that differs by feature.
fn clippy_programs() -> Result<()> {
    let arch = Arch::host();
    let toolchain = Toolchain::find(arch.target())?;
    let programs = Programs {
        directory: &workspace::root().join(PROGRAMS),
        features: &[],
        target_directory: &workspace::target_directory().join("bpf"),
        arch: &arch,
    };
    for variant in ["--no-default-features", "--all-features"] {
        succeed(programs.clippy(&toolchain).args(["--quiet", variant]).args(DENY))?;
    }
    Ok(())
}

fn documentation() -> Result<()> {
    let flags = "-D warnings";
    let mut doc = cargo();
    doc.args(["doc", "--quiet", "--workspace", "--no-deps", "--profile", profile()]);
    succeed(doc.env("RUSTDOCFLAGS", flags))
}

fn documentation_tests() -> Result<()> {
    succeed(cargo().args(["test", "--quiet", "--workspace", "--doc", "--profile", profile()]))
}

/// With what the tests' libraries add to those of the agent it might build where the agent alone does not.
fn agent_alone() -> Result<()> {
    succeed(cargo().args(["check", "--quiet", "--package", "bulkhead", "--profile", profile()]))
}

fn tests(filter: Option<&str>) -> Result<()> {
    let mut nextest = cargo();
    nextest.args(["nextest", "run", "--workspace", "--cargo-profile", profile()]);
    if is_ci() {
        nextest.args(["--profile", "ci"]);
    }
    // The agent is built with them, for tests of its command line: otherwise it would be built once more.
    let built = || workspace::programs(profile()).join("bulkhead").into();
    nextest.env(AGENT, env::var_os(AGENT).unwrap_or_else(built));
    // A test's error says what was expected of whom; the harness's own frames would only bury it.
    succeed(nextest.args(filter).env("RUST_LIB_BACKTRACE", "0"))
}

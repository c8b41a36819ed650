//! What the kernel's verifier had to go through to accept the programs.

use std::{fs, process::Command};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{Case, Skip, site::Site};

pub(crate) const CASES: &[Case] = &[("verifier::every_program_is_within_its_budget", within_budget)];

/// Instructions. The kernel gives up at a million (`BPF_COMPLEXITY_LIMIT_INSNS`, include/linux/bpf.h), and what takes
/// it long to verify takes an agent long to start.
const BUDGET: u64 = 100_000;

fn within_budget(site: &Site) -> Result<()> {
    let told = check(site.agent().pid())?;
    if !told {
        bail!(Skip("the kernel does not tell before 5.16"));
    }
    Ok(())
}

/// Are the programs that a process holds within the budget? False if the kernel does not tell.
pub(crate) fn check(pid: u32) -> Result<bool> {
    let programs = programs(pid)?;
    ensure!(!programs.is_empty(), "process {pid} holds no program");
    let mut over = Vec::new();
    println!();
    for (id, verified) in programs {
        let name = name(&id)?;
        let Some(verified) = verified else { return Ok(false) };
        // Read by `cargo xtask vm`.
        println!("verified {name} {verified}");
        if verified > BUDGET {
            over.push(format!("{name}: {verified}"));
        }
    }
    ensure!(over.is_empty(), "more than {BUDGET} instructions: {}", over.join(", "));
    Ok(true)
}

/// Id of each program that a process holds, and how many instructions were verified.
fn programs(pid: u32) -> Result<Vec<(String, Option<u64>)>> {
    let mut programs = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        let text = fs::read_to_string(entry?.path()).unwrap_or_default();
        let field =
            |name: &str| text.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()));
        // Links have a program's id, too, but no such type.
        if let (Some(id), Some(_)) = (field("prog_id:"), field("prog_jited:")) {
            programs.push((id, field("verified_insns:").map(|count| count.parse()).transpose()?));
        }
    }
    programs.sort();
    programs.dedup();
    Ok(programs)
}

/// The name of a program. bpftool can tell.
fn name(id: &str) -> Result<String> {
    let output = Command::new("bpftool").args(["--json", "prog", "show", "id", id]).output()?;
    let shown: Value = serde_json::from_slice(&output.stdout)?;
    Ok(shown["name"].as_str().context("bpftool shows no name")?.to_owned())
}

//! What the programs themselves take, by the kernel's run-time statistics (kernel.bpf_stats_enabled).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use crate::{
    figure::Figure,
    ground::Stand,
    rounds::{interleaved, median},
};

const ROUNDS: usize = 15;
const SENDS: u32 = 20_000;

/// Connected UDP on loopback: each datagram leaves one socket and arrives at another.
pub(crate) fn measure(
    empty: &Stand<'_>,
    systemd: &Stand<'_>,
    bulkhead: &Stand<'_>,
    beside: &Stand<'_>,
) -> Result<()> {
    let _counting = Statistics::enable()?;
    for stand in [empty, systemd, bulkhead, beside] {
        // The first packets are decided, later ones are known.
        stand.burst(SENDS)?;
    }
    let rounds = interleaved(ROUNDS, &[empty, systemd, bulkhead, beside], |stand| {
        Costs::during(stand, || stand.burst(SENDS).map(drop))
    })?;
    let above = |round: &Vec<Costs>, which: usize, name: &str| round[which].of(name) - round[0].of("empty");
    let figure = |what: &str, which, name| {
        Figure::new(what, median(&rounds, |round| above(round, which, name)), "ns", 0).print()
    };
    let pair = |which, a, b| median(&rounds, |round| above(round, which, a) + above(round, which, b));
    let measured = median(&rounds, |round| round[0].of("empty"));
    Figure::new("an empty program, and what it costs to measure it", measured, "ns", 0).print()?;
    figure("systemd's IPAddressAllow=, egress above empty", 1, "sd_fw_egress")?;
    figure("systemd's IPAddressAllow=, ingress above empty", 1, "sd_fw_ingress")?;
    figure("Bulkhead, a known flow, egress above empty", 2, "egress")?;
    figure("Bulkhead, a known flow, ingress above empty", 2, "ingress")?;
    let systemd = pair(1, "sd_fw_egress", "sd_fw_ingress");
    let bulkhead = pair(2, "egress", "ingress");
    let beside = pair(3, "egress", "ingress");
    Figure::new("a known flow, beside systemd's pair", bulkhead / systemd, "times", 2)
        .at_most(1.0)
        .print()?;
    Figure::new("a process in no workload, beside a known flow", beside / bulkhead, "times", 2)
        .at_most(1.0)
        .print()
}

/// A program, as bpftool shows it.
#[derive(Clone, Debug, Default, Deserialize)]
struct Program {
    id: u64,
    #[serde(default)]
    name: String,
    #[serde(default)]
    run_time_ns: u64,
    #[serde(default)]
    run_cnt: u64,
}

/// The programs that a process holds, by name.
fn programs_of(pid: u32) -> Result<BTreeMap<String, Program>> {
    let output = Command::new("bpftool").args(["--json", "prog", "show"]).output()?;
    ensure!(output.status.success(), "bpftool: {}", String::from_utf8_lossy(&output.stderr));
    let all: Vec<Program> = serde_json::from_slice(&output.stdout).context("bpftool's list of programs")?;
    let held = held_by(pid)?;
    let own: BTreeMap<_, _> =
        all.into_iter().filter(|p| held.contains(&p.id)).map(|p| (p.name.clone(), p)).collect();
    ensure!(!own.is_empty(), "process {pid} holds no BPF program");
    Ok(own)
}

/// Ids of the programs that a process holds open.
fn held_by(pid: u32) -> Result<BTreeSet<u64>> {
    let mut held = BTreeSet::new();
    for file in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        // A file that has been closed since is no program.
        let text = fs::read_to_string(file?.path()).unwrap_or_default();
        let id = text.lines().find_map(|line| line.strip_prefix("prog_id:"));
        held.extend(id.and_then(|id| id.trim().parse::<u64>().ok()));
    }
    Ok(held)
}

/// Nanoseconds a run, by name of the program.
#[derive(Debug, Default)]
pub(crate) struct Costs(BTreeMap<String, f64>);

impl Costs {
    /// What a stand's programs take while something is done.
    pub(crate) fn during(stand: &Stand<'_>, act: impl FnOnce() -> Result<()>) -> Result<Self> {
        Self::of_process(stand.programs(), act)
    }

    /// What the programs take that a process holds, while something is done.
    pub(crate) fn of_process(pid: u32, act: impl FnOnce() -> Result<()>) -> Result<Self> {
        let before = programs_of(pid)?;
        act()?;
        let after = programs_of(pid)?;
        let cost = |(name, after): (String, Program)| {
            let before = before.get(&name)?;
            let runs = after.run_cnt.checked_sub(before.run_cnt).filter(|runs| *runs > 0)?;
            #[expect(clippy::cast_precision_loss, reason = "nanoseconds of a few seconds")]
            let mean = (after.run_time_ns - before.run_time_ns) as f64 / runs as f64;
            Some((name, mean))
        };
        Ok(Self(after.into_iter().filter_map(cost).collect()))
    }

    /// Of one program; nothing if it has not run.
    pub(crate) fn of(&self, name: &str) -> f64 {
        self.0.get(name).copied().unwrap_or(f64::NAN)
    }
}

/// The kernel's statistics of programs, on until this is dropped.
pub(crate) struct Statistics {
    before: String,
}

impl Statistics {
    const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";

    /// Turns them on.
    pub(crate) fn enable() -> Result<Self> {
        let before = fs::read_to_string(Self::SWITCH)?;
        fs::write(Self::SWITCH, "1").context("kernel.bpf_stats_enabled cannot be set; are you root?")?;
        Ok(Self { before })
    }

    /// Fails if they are on: taking them is work that traffic waits for. A run that was killed leaves them so.
    pub(crate) fn expect_off() -> Result<()> {
        let is_off = fs::read_to_string(Self::SWITCH)?.trim() == "0";
        ensure!(
            is_off,
            "traffic is slower while the kernel times programs: `sysctl -w kernel.bpf_stats_enabled=0` first"
        );
        Ok(())
    }
}

impl Drop for Statistics {
    fn drop(&mut self) {
        if let Err(e) = fs::write(Self::SWITCH, self.before.trim()) {
            eprintln!("kernel.bpf_stats_enabled stays on: {e}");
        }
    }
}

//! The agent: how soon it is ready, what it takes, and how soon it does what it is told.
//!
//! `cargo xtask bench agent` runs it and shows what it prints, a JSON object a line, as a table.

#![forbid(unsafe_code)]

use std::{
    fmt::Write as _,
    fs,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use bulkhead_tests::{
    Agent, Follower, Lab, Launch,
    figure::Figure,
    probe::{Family, Kind},
    rounds::median,
};

/// The unit that people run the agent by.
const SERVICE: &str = include_str!("../../../deploy/systemd/bulkhead.service");

/// A policy of this many workloads, each with a few rules.
fn policy(workloads: usize, rules: usize, port: u16) -> String {
    let mut text = String::new();
    for n in 0..workloads {
        // Writing to a string cannot fail.
        let _ = write!(text, "[workload.w{n}]\nselect = {{ cgroup = \"/site/w{n}\" }}\n");
    }
    for n in 0..rules {
        let (from, to) = (n % workloads, (n * 7 + 1) % workloads);
        let _ = write!(
            text,
            "[[allow]]\nid = \"r{n}\"\nfrom = \"w{from}\"\nto = [\"w{to}\", \"10.{}.{}.0/24\"]\nports = [\"tcp/{port}\"]\n",
            n / 256 % 256,
            n % 256
        );
    }
    text
}

/// An agent in the environment that its unit gives it.
fn as_service(lab: &Lab, policy: &str) -> Result<Launch> {
    let variables = SERVICE.lines().filter_map(|line| line.strip_prefix("Environment="));
    let set = variables.flat_map(str::split_whitespace).try_fold(lab.agent(policy)?, |launch, variable| {
        variable.split_once('=').map(|(name, value)| launch.env(name, value))
    });
    set.context("a variable without a value")
}

/// What the kernel knows of a process.
fn resident(agent: &Agent) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kilobytes: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes / 1e3)
}

/// Processor time that a process has used.
fn processor_time(agent: &Agent) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", agent.pid()))?;
    let fields = stat.rsplit_once(')').context("no command name")?.1;
    let mut ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
    let ticks = ticks.try_fold(0, |sum, field| field.map(|ticks| sum + ticks))?;
    // 100 ticks a second, as everywhere that Linux is built for users.
    Ok(Duration::from_millis(ticks * 10))
}

fn main() -> Result<()> {
    starts()?;
    idle()?;
    denials()?;
    changes()
}

/// How long each takes of so many attempts.
fn times(attempts: usize, mut attempt: impl FnMut(usize) -> Result<Duration>) -> Result<f64> {
    let rounds = (0..attempts).map(&mut attempt).collect::<Result<Vec<_>>>()?;
    Ok(median(&rounds, Duration::as_secs_f64) * 1e3)
}

fn starts() -> Result<()> {
    eprintln!("==> starts");
    let lab = Lab::new()?;
    let policy = policy(100, 1_000, 443);
    let cold = times(9, |_| {
        let launch = as_service(&lab, &policy)?;
        let began = Instant::now();
        let agent = launch.start()?;
        let took = began.elapsed();
        agent.stop()?;
        Ok(took)
    })?;
    Figure::new("from start to READY: 100 workloads, 1,000 rules", cold, "ms", 0).at_most(300.0).print()?;
    let mut before = as_service(&lab, &policy)?.kept()?.start()?;
    let warm = times(9, |_| {
        let launch = as_service(&lab, &policy)?.kept()?;
        before.kill_in_place()?;
        let began = Instant::now();
        before = launch.start()?;
        Ok(began.elapsed())
    })?;
    lab.bulkhead(&["detach"])?;
    Figure::new("the same, taking over from an agent before it", warm, "ms", 0).at_most(300.0).print()
}

fn idle() -> Result<()> {
    eprintln!("==> an idle agent");
    let lab = Lab::new()?;
    for workloads in [100, 1_000] {
        let sites = (0..workloads).map(|n| lab.cgroup(&format!("/site/w{n}"))).collect::<Result<Vec<_>>>()?;
        // Room for all that is written to it.
        let roomy = "[history]\nmax-size = \"256 MiB\"\n";
        let agent = as_service(&lab, &policy(workloads, 10 * workloads, 443))?.settings(roomy)?.start()?;
        thread::sleep(Duration::from_secs(10));
        let before = processor_time(&agent)?;
        thread::sleep(Duration::from_mins(1));
        let used = processor_time(&agent)?.saturating_sub(before).as_secs_f64() / 60.0 * 100.0;
        let what = format!("{workloads} workloads, {} rules", 10 * workloads);
        let of_memory = format!("resident memory: {what}");
        let memory = Figure::new(&of_memory, resident(&agent)?, "MB", 1);
        if workloads == 100 { memory.at_most(25.0) } else { memory }.print()?;
        Figure::new(&format!("processor time, idle: {what}"), used, "%", 2).at_most(0.2).print()?;
        if workloads == 1_000 {
            fill_history(&lab, &agent)?;
            // Before anybody reads them.
            let memory = resident(&agent)?;
            let [flows, denials] = [kept(&agent, "flows")?, kept(&agent, "denials")?];
            let what = format!("resident memory with {flows} flows and {denials} refusals of history");
            Figure::new(&what, memory, "MB", 1).at_most(60.0).print()?;
        }
        agent.stop()?;
        drop(sites);
    }
    Ok(())
}

/// Has a hundred workloads refused a hundred ports each, ten times.
fn fill_history(lab: &Lab, agent: &Agent) -> Result<()> {
    let peers: Vec<_> = (1..=100).map(|port| SocketAddr::from(([192, 0, 2, 1], port))).collect();
    for _ in 0..10 {
        for n in 0..100 {
            let caller = lab.probe(&format!("/site/w{n}"))?;
            let socket = caller.open(Kind::Udp, Family::V4)?;
            let taken = socket.repeat(&peers, vec![0; 32], u32::try_from(peers.len())?)?;
            ensure!(taken == 0, "{taken} forbidden datagrams were taken");
        }
        // Repeats that are held back are told after a second; to ask for flows has all that there are written.
        thread::sleep(Duration::from_secs(3));
        agent.tell(&["flows", "--limit", "1"])?;
    }
    Ok(())
}

/// How many records of this kind the history holds.
fn kept(agent: &Agent, kind: &str) -> Result<usize> {
    let told = agent.tell(&[kind, "--limit", "1000000", "--output", "json"])?;
    ensure!(told.status.success(), "{told:?}");
    Ok(told.stdout.split(|byte| *byte == b'\n').count() - 1)
}

/// How long it takes until somebody who follows sees a refusal.
fn denials() -> Result<()> {
    const ATTEMPTS: u16 = 1_000;
    eprintln!("==> refusals, followed");
    let lab = Lab::new()?;
    let text = "[workload.ci]\nselect = { cgroup = \"/ci\" }\n";
    let agent = as_service(&lab, text)?.start()?;
    let ci = lab.probe("/ci")?;
    let follower = Follower::start(&agent, &["denials", "--follow", "--output", "json"])?;
    // Each to another port: what is refused again is told once a second.
    let refuse = |port| ci.tcp(SocketAddr::from(([192, 0, 2, 1], port)));
    let mut port = 1;
    while !follower.tells_within(Duration::from_millis(100)) {
        refuse(port)?;
        port += 1;
    }
    while follower.tells_within(Duration::from_millis(300)) {}
    let mut delays = Vec::new();
    for port in 1_000..1_000 + ATTEMPTS {
        let before = Instant::now();
        refuse(port)?;
        let (when, record) = follower.next_record()?;
        ensure!(record["peer"]["port"] == port, "{record}");
        delays.push((when - before).as_secs_f64() * 1e3);
        // What one program may have reported of new kinds in a second is bounded.
        thread::sleep(Duration::from_millis(10));
    }
    delays.sort_by(f64::total_cmp);
    agent.stop()?;
    let of = |hundredth: usize| delays[delays.len() * hundredth / 100];
    Figure::new("a refusal in `denials --follow`, from the call on: median", of(50), "ms", 2).print()?;
    Figure::new("the same: 99 of 100", of(99), "ms", 2).at_most(50.0).print()
}

fn changes() -> Result<()> {
    eprintln!("==> another policy");
    let lab = Lab::new()?;
    let folder = tempfile::tempdir()?;
    let files = [443, 444].map(|port| (folder.path().join(format!("{port}.toml")), policy(100, 1_000, port)));
    for (path, text) in &files {
        fs::write(path, text)?;
    }
    let agent = as_service(&lab, &files[0].1)?.start()?;
    let took = times(21, |n| {
        let path = files[(n + 1) % 2].0.to_str().context("a path that is text")?;
        let began = Instant::now();
        let applied = agent.tell(&["apply", path])?;
        let took = began.elapsed();
        ensure!(applied.status.success(), "{applied:?}");
        Ok(took)
    })?;
    agent.stop()?;
    Figure::new("bulkhead apply: 1,000 rules changed, the whole command", took, "ms", 1).at_most(50.0).print()
}

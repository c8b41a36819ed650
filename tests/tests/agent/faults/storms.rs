//! Cgroups that come and go faster than anybody can follow: who is made is what its name says from the first, nobody else
//! is touched, and the agent stays small and is right afterwards.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use bulkhead_tests::{
    Agent, Lab, Probe, cost,
    pace::{stretched, until},
    probe::{Family, Kind},
};
use serde_json::Value;

use crate::{
    loopback::POLICY,
    verdicts::{allowed, at, refused},
};

/// Cgroups in all: as many in a workload as in none.
const STORM: u32 = 10_000;
/// One in so many is entered, and somebody calls from it.
const ENTERED: u32 = 5;
/// In which time.
const LASTS: Duration = Duration::from_secs(10);
/// The most memory that the agent takes more than before, in bytes.
const MEMORY: u64 = 16 << 20;
const PAUSE: Duration = Duration::from_millis(5);

/// Makes cgroups in two places, and calls from some of them at once: from those in a workload no call gets through, and
/// from the others all do.
fn storm(lab: &Lab, to: SocketAddr) -> Result<Duration> {
    let began = Instant::now();
    let calls = STORM / 2 / ENTERED;
    let places = [("/jobs", (0, calls)), ("/elsewhere", (calls, 0))].map(|(name, expected)| {
        let (parent, home, caller) = (lab.cgroup(name)?, lab.cgroup("/older")?, lab.probe("/older")?);
        let folder = parent.path().to_owned();
        let made = thread::spawn(move || -> Result<()> {
            for number in 0..STORM / 2 - calls {
                let cgroup = folder.join(format!("job-of-nobody-{number}"));
                fs::create_dir(&cgroup)?;
                fs::remove_dir(&cgroup)?;
            }
            Ok(())
        });
        let entered = thread::spawn(move || -> Result<()> {
            let (through, refused) = caller.visit((&parent, "job-", ""), calls, &home, to)?;
            let seen = (through, refused);
            ensure!(seen == expected, "below {name} {through} got through, and {refused} were refused");
            Ok(())
        });
        Ok([made, entered])
    });
    let threads = places.into_iter().collect::<Result<Vec<_>>>()?;
    threads.into_iter().flatten().try_for_each(|thread| thread.join().expect("no panic"))?;
    Ok(began.elapsed())
}

/// Traffic of those who were there before, until it is ended: what is allowed goes on, and what is forbidden never passes.
fn traffic([web, ci]: &[Probe; 2], to: SocketAddr, ended: &AtomicBool) -> Result<u32> {
    let (flow, attacker) = (web.open(Kind::Tcp, Family::V4)?, ci.open(Kind::Udp, Family::V4)?);
    allowed("web to db", flow.connect_and_exchange(to)?)?;
    let mut rounds = 0;
    while !ended.load(Ordering::Relaxed) {
        allowed("web's connection", flow.exchange(None)?)?;
        let taken = attacker.repeat(&[to], vec![0; 10], 10)?;
        ensure!(taken == 0, "{taken} forbidden datagrams of ci were taken");
        rounds += 1;
        thread::sleep(PAUSE);
    }
    Ok(rounds)
}

fn cgroups_of(agent: &Agent, workload: &str) -> Result<Vec<Value>> {
    let status = agent.status()?;
    let workloads = status["workloads"].as_array().context("no workloads")?;
    let found = workloads.iter().find(|found| found["name"] == workload).context("no such workload")?;
    Ok(found["cgroups"].as_array().context("no cgroups")?.clone())
}

#[test]
fn ten_thousand_cgroups_come_and_go() -> Result<()> {
    let policy =
        format!("{POLICY}\n[workload.job]\nenvironment = \"dev\"\nselect = {{ cgroup = \"/jobs/job-*\" }}\n");
    let lab = Lab::new()?;
    let (web, ci, db, other) =
        (lab.probe("/web")?, lab.probe("/ci")?, lab.probe("/db")?, lab.probe("/older")?);
    let to = at(lab.host().v4, 5432);
    db.serve(Kind::Tcp, to)?;
    db.serve(Kind::Udp, to)?;
    let nobody = at(Ipv4Addr::LOCALHOST, 80);
    other.serve(Kind::Tcp, nobody)?;
    let agent = lab.agent(&policy)?.start()?;
    let callers = [lab.probe("/web")?, lab.probe("/ci")?];
    let (growth, ended) = (cost::Growth::of(agent.pid())?, AtomicBool::new(false));
    let ended = &ended;
    let (took, rounds) = thread::scope(|scope| -> Result<(Duration, u32)> {
        let beside = scope.spawn(move || traffic(&callers, to, ended));
        let took = storm(&lab, nobody);
        ended.store(true, Ordering::Relaxed);
        Ok((took?, beside.join().expect("no panic")?))
    })?;
    let grown = growth.so_far()?;
    eprintln!("{STORM} cgroups in {took:.1?}, {rounds} rounds beside, {} kB more", grown >> 10);
    ensure!(took < stretched(LASTS), "no storm: {STORM} cgroups in {took:?}");
    ensure!(rounds > 20, "too little traffic beside: {rounds} rounds");
    ensure!(grown < MEMORY, "the agent has grown by {grown} bytes");

    until("the agent has seen all of them go", || Ok(cgroups_of(&agent, "job")?.is_empty()))?;
    let job = lab.probe("/jobs/job-last")?;
    refused("a job", job.tcp(nobody)?)?;
    allowed("who is in no workload", lab.probe("/elsewhere/job-last")?.tcp(nobody)?)?;
    allowed("web to db", web.tcp(to)?)?;
    refused("ci to db", ci.tcp(to)?)?;
    until("the agent knows the last job", || Ok(cgroups_of(&agent, "job")? == ["/jobs/job-last"]))?;
    agent.stop()?;
    Ok(())
}

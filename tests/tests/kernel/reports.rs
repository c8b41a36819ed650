//! What is reported of many refusals: every kind, seldom, and all of them counted.

use std::{
    collections::HashSet,
    fs,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::symlink,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use bulkhead_tests::{
    Agent, Place, Probe, artifact,
    pace::{fewer, stretched, until},
    probe::{Family, Kind},
    verdicts::at,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{Case, site::Site};

pub(crate) const CASES: &[Case] = &[
    ("reports::refused_calls_are_one_line_a_second_that_counts_them", refused_calls),
    ("reports::refused_packets_are_one_line_a_second_that_counts_them", refused_packets),
    ("reports::ports_and_programs_are_told_apart", told_apart),
    ("reports::a_flood_of_a_thousand_kinds_is_counted_in_full", a_flood),
    ("reports::nothing_hides_behind_a_scan", nothing_hides),
    ("reports::what_a_scan_leaves_out_is_counted", a_scan),
];

/// An address that nobody has, for these tests alone. Floods come from workloads of their own: each has its share of
/// kinds.
const NOBODY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);

/// How many ports a scan tries: more than a workload may begin kinds of refusals for some seconds, which is 2,048, on an
/// emulated machine, too.
fn scanned() -> u16 {
    u16::try_from(fewer(20_000)).unwrap_or(u16::MAX)
}

/// How many refusals the lines about something stand for.
fn counted(agent: &Agent, about: &Value) -> Result<u64> {
    let lines = agent.denials().matching(about)?;
    Ok(lines.iter().filter_map(|line| line.record["count"].as_u64()).sum())
}

/// Refusals that are in no line, so far.
fn dropped(agent: &Agent) -> Result<u64> {
    agent.status()?["events"]["dropped"].as_u64().context("status counts no dropped refusals")
}

/// Refuses `burst` a few times, and wants each refusal in a line about it, the last ones soon after, and few lines.
fn in_few_lines(agent: &Agent, about: &Value, burst: impl Fn() -> Result<u32>) -> Result<()> {
    let began = Instant::now();
    let mut refused = 0;
    for pause in [0, 300, 900] {
        thread::sleep(Duration::from_millis(pause));
        refused += u64::from(burst()?);
    }
    until(&format!("{refused} refusals are counted in lines about {about}"), || {
        Ok(counted(agent, about)? >= refused)
    })?;
    let lines = agent.denials().matching(about)?;
    ensure!(counted(agent, about)? == refused, "more than {refused} in {lines:?}");
    let most = began.elapsed().as_secs() + 1;
    ensure!(lines.len() as u64 <= most, "{} lines in {:?}", lines.len(), began.elapsed());
    for line in &lines {
        let (count, suppressed) = (&line.record["count"], &line.record["suppressed"]);
        ensure!(count.as_u64() == suppressed.as_u64().map(|n| n + 1), "{}", line.record);
    }
    Ok(())
}

fn refused_calls(site: &Site) -> Result<()> {
    const PORT: u16 = 4_001;
    let ci = site.lab().probe("/ci")?;
    let client = ci.open(Kind::Udp, Family::V4)?;
    let many = fewer(3_000);
    in_few_lines(site.agent(), &json!({"peer": {"address": NOBODY, "port": PORT}}), || {
        ensure!(client.repeat(&[at(NOBODY, PORT)], vec![0; 10], many)? == 0, "a datagram was taken");
        Ok(many)
    })
}

fn refused_packets(site: &Site) -> Result<()> {
    const PORT: u16 = 4_002;
    let (there, app) = (site.lab().stranger(site.stranger())?, site.lab().probe("/app")?);
    let server = app.open(Kind::Udp, Family::V4)?;
    let to = server.bind(at(site.lab().host().v4, PORT))?;
    let client = there.open(Kind::Udp, Family::V4)?;
    let many = fewer(3_000);
    in_few_lines(site.agent(), &json!({"direction": "ingress", "service": format!("udp/{PORT}")}), || {
        ensure!(client.repeat(&[to], vec![0; 10], many)? == many, "not sent");
        Ok(many)
    })
}

/// A probe in `cgroup` whose command name is `name`.
fn named(site: &Site, cgroup: &str, name: &str) -> Result<Probe> {
    let folder = TempDir::new()?;
    let program = folder.path().join(name);
    symlink(artifact::probe()?, &program)?;
    let probe = Probe::of(&program, &Place::new(site.lab().cgroup(cgroup)?, site.lab().host()))?;
    // Once it answers it runs, and its name is no longer needed.
    drop(probe.open(Kind::Udp, Family::V4)?);
    Ok(probe)
}

fn told_apart(site: &Site) -> Result<()> {
    const PORTS: [u16; 2] = [4_003, 4_004];
    let names = ["one-program", "another"];
    for name in names {
        let probe = named(site, "/ci", name)?;
        let client = probe.open(Kind::Udp, Family::V4)?;
        let to = PORTS.map(|port| at(NOBODY, port));
        ensure!(client.repeat(&to, vec![0; 10], 4)? == 0, "a datagram was taken");
    }
    for (name, port) in names.iter().flat_map(|name| PORTS.map(|port| (name, port))) {
        let about = json!({"process": {"comm": name}, "peer": {"address": NOBODY, "port": port}});
        site.agent().denials().expect(&about)?;
        until("both refusals are counted", || Ok(counted(site.agent(), &about)? == 2))?;
    }
    Ok(())
}

/// As many calls as a program can make, to a thousand addresses and ports: each has its lines, all calls are counted, and
/// the agent hardly works.
fn a_flood(site: &Site) -> Result<()> {
    const ADDRESSES: u8 = 250;
    let agent = site.agent();
    let all = (0..ADDRESSES)
        .flat_map(|last| (4_010..4_014).map(move |port| at(Ipv4Addr::new(198, 51, 100, last), port)));
    let to: Vec<_> = all.take(usize::try_from(fewer(1_000))?).collect();
    let flood = site.lab().probe("/jobs/job-flood")?;
    let client = flood.open(Kind::Udp, Family::V4)?;
    let many = fewer(300_000);
    let lost = dropped(agent)?;
    let (began, before) = (Instant::now(), processor_time(agent)?);
    ensure!(client.repeat(&to, vec![0; 10], many)? == 0, "a datagram was taken");
    let (took, worked) = (began.elapsed(), processor_time(agent)?.saturating_sub(before));
    println!("{many} refused calls in {took:?}: the agent has worked for {worked:?}");
    let about = json!({"workload": {"name": "job"}, "process": {"pid": flood.pid()}});
    until("every call is counted", || Ok(counted(agent, &about)? >= u64::from(many)))?;
    ensure!(dropped(agent)? == lost, "calls were dropped");
    ensure!(counted(agent, &about)? == u64::from(many), "more than {many} are counted");
    let lines = agent.denials().matching(&about)?;
    let kinds: HashSet<_> = lines.iter().map(|line| line.record["peer"].to_string()).collect();
    ensure!(kinds.len() == to.len(), "{} kinds of {} are reported", kinds.len(), to.len());
    ensure!(worked < stretched(took / 4 + Duration::from_millis(200)), "{worked:?} of {took:?}");
    Ok(())
}

/// Processor time that the agent has used, in steps of 10 ms (`USER_HZ`).
fn processor_time(agent: &Agent) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", agent.pid()))?;
    let fields = stat.rsplit_once(") ").context("no command name")?.1.split(' ').skip(11).take(2);
    let ticks: u64 = fields.map(str::parse::<u64>).sum::<Result<_, _>>()?;
    Ok(Duration::from_millis(10 * ticks))
}

/// Ports of [`NOBODY`] from this one on.
fn ports(first: u16) -> Vec<SocketAddr> {
    (first..first + scanned()).map(|port| at(NOBODY, port)).collect()
}

/// While one program tries port after port, another of the same workload and one of another workload are reported.
fn nothing_hides(site: &Site) -> Result<()> {
    const PORT: u16 = 4_005;
    let scanner = site.lab().probe("/six")?;
    let (beside, elsewhere) = (named(site, "/six", "beside")?, site.lab().probe("/app")?);
    let sent = 10 * u32::from(scanned());
    let all_told = Told::from_now(site.agent(), json!({"process": {"pid": scanner.pid()}}))?;
    thread::scope(|scope| {
        let scan = scope.spawn(move || -> Result<u32> {
            scanner.open(Kind::Udp, Family::V4)?.repeat(&ports(10_000), vec![0; 10], sent)
        });
        site.agent().denials().expect(&json!({"peer": {"address": NOBODY, "port": 10_000}}))?;
        for (n, (workload, probe)) in (0..).zip([("six", &beside), ("app", &elsewhere)]) {
            let to = at(NOBODY, PORT + n);
            let before = Instant::now();
            ensure!(probe.open(Kind::Udp, Family::V4)?.repeat(&[to], vec![0; 10], 1)? == 0, "taken");
            let about =
                json!({"workload": {"name": workload}, "peer": {"address": NOBODY, "port": PORT + n}});
            let lines = || site.agent().denials().matching(&about);
            until(&format!("{about} is reported"), || Ok(!lines()?.is_empty()))?;
            let line = lines()?.remove(0);
            println!("{workload} was reported after {:?}", line.seen - before);
            ensure!(line.record["count"] == 1, "{}", line.record);
        }
        let taken = scan.join().ok().context("the scan panicked")??;
        ensure!(taken == 0, "{taken} datagrams were taken");
        // Or the next test would take for its own what is counted late.
        all_told.of(sent.into()).map(drop)
    })
}

/// A scan of more kinds than a program may begin: what is in no line is counted as dropped.
fn a_scan(site: &Site) -> Result<()> {
    let scanner = site.lab().probe("/neighbour")?;
    let all_told = Told::from_now(site.agent(), json!({"workload": {"name": "neighbour"}}))?;
    let taken = scanner.open(Kind::Udp, Family::V4)?.repeat(&ports(40_000), vec![0; 10], scanned().into())?;
    ensure!(taken == 0, "{taken} datagrams were taken");
    let (told, dropped) = all_told.of(scanned().into())?;
    ensure!(told >= 1_000 && dropped > 0, "{told} told of, {dropped} dropped");
    Ok(())
}

/// What is told of refusals from some moment on.
struct Told<'a> {
    agent: &'a Agent,
    /// Those that are meant.
    about: Value,
    lines: u64,
    dropped: u64,
}

impl<'a> Told<'a> {
    fn from_now(agent: &'a Agent, about: Value) -> Result<Self> {
        let (lines, dropped) = (counted(agent, &about)?, dropped(agent)?);
        Ok(Self { agent, about, lines, dropped })
    }

    /// Waits until each of so many refusals is in a line or counted as dropped; how many are which. What is dropped is
    /// counted as soon as the counters are read, which is less often the longer that takes.
    fn of(&self, refusals: u64) -> Result<(u64, u64)> {
        let now = || {
            let Self { agent, about, lines, dropped: before } = self;
            Ok::<_, anyhow::Error>((counted(agent, about)? - lines, dropped(agent)? - before))
        };
        let waited = until("every refusal is in a line or counted as dropped", || {
            let (told, dropped) = now()?;
            Ok(told + dropped == refusals)
        });
        let (told, dropped) = now()?;
        waited.with_context(|| format!("of {refusals} refusals {told} are told of, {dropped} dropped"))?;
        Ok((told, dropped))
    }
}

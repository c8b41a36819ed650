//! More refusals than anybody reads: nothing passes, all are counted, the agent stays small, and nobody hides among them.

use std::{
    env,
    net::SocketAddr,
    os::unix::fs::symlink,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use bulkhead_tests::{
    Agent, Lab, Place, Probe, Socket, artifact, cost,
    pace::{stretched, until},
    probe::{Family, Kind},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    export::{Metrics, with_metrics},
    verdicts::{at, blocked},
};

/// Refusals in one step of a flood, and how long that takes: 50,000 a second.
const AT_ONCE: u32 = 2_500;
const STEP: Duration = Duration::from_millis(50);
/// It makes up for steps that took longer, but for no more than this.
const ARREARS: Duration = Duration::from_secs(1);
/// Kinds of them: more than one program may have told apart in some seconds, which is 1,024.
const PEERS: u8 = 100;
const PORTS: u16 = 20;

/// Names how many seconds the flood lasts.
const SECONDS: &str = "BULKHEAD_FLOOD_SECONDS";
const SECONDS_OTHERWISE: u64 = 6;

/// How soon what another program is refused is reported.
const SOON: Duration = Duration::from_secs(2);
/// How long an agent does not run here.
const AWAY: Duration = Duration::from_secs(10);
/// Longer than repeats are held back.
const QUIET: Duration = Duration::from_millis(1_500);
/// The most memory that the agent takes more than before, in bytes, and the most of a processor's time: it is built without
/// optimisation here.
const MEMORY: u64 = 16 << 20;
const SHARE: f64 = 0.8;

/// Sends datagrams that are refused, at a pace.
struct Flood<'a> {
    socket: Socket<'a>,
    peers: Vec<SocketAddr>,
    next: Instant,
    tried: u64,
}

impl<'a> Flood<'a> {
    fn of(caller: &'a Probe) -> Result<Self> {
        let peers = (0..PEERS).flat_map(|n| (0..PORTS).map(move |port| at([192, 0, 2, n], 1_000 + port)));
        let socket = caller.open(Kind::Udp, Family::V4)?;
        Ok(Self { socket, peers: peers.collect(), next: Instant::now(), tried: 0 })
    }

    /// Goes on for one step, and waits where it is ahead of its pace.
    fn go_on(&mut self) -> Result<()> {
        let taken = self.socket.repeat(&self.peers, vec![0; 32], AT_ONCE)?;
        ensure!(taken == 0, "{taken} forbidden datagrams were taken after {}", self.tried);
        self.tried += u64::from(AT_ONCE);
        // So that kinds that come late in one step come early in another.
        self.peers.rotate_left(usize::try_from(AT_ONCE)? % (usize::from(PEERS) * usize::from(PORTS)));
        let now = Instant::now();
        self.next = (self.next + STEP).max(now.checked_sub(ARREARS).unwrap_or(now));
        thread::sleep(self.next.saturating_duration_since(now));
        Ok(())
    }
}

/// A refusal by `comm` of ci at a port of its own; tells when it had happened.
fn another(lab: &Lab, comm: &str, port: u16) -> Result<Instant> {
    let folder = TempDir::new()?;
    let program = folder.path().join(comm);
    symlink(artifact::probe()?, &program)?;
    let probe = Probe::of(&program, &Place::new(lab.cgroup("/ci")?, lab.host()))?;
    blocked(comm, probe.tcp(at([198, 51, 100, 1], port))?)?;
    Ok(Instant::now())
}

fn number(status: &Value, pointer: &str) -> Result<u64> {
    status.pointer(pointer).and_then(Value::as_u64).with_context(|| format!("no {pointer} in {status}"))
}

/// Every refusal is counted by the programs, and is in a line or counted as one that is in none.
fn all_are_accounted_for(agent: &Agent, refused: u64) -> Result<()> {
    let counted = number(&agent.status()?, "/traffic/refused_calls")?;
    ensure!(counted == refused, "counted are {counted} refused calls, and not {refused}");
    let mut seen = (0, 0);
    let told = until("all are told or counted as not told", || {
        let status = agent.status()?;
        let lines = agent.denials().all()?;
        let in_lines: u64 = lines.iter().filter_map(|line| line.record["count"].as_u64()).sum();
        seen = (in_lines, number(&status, "/events/dropped")?);
        Ok(seen.0 + seen.1 == refused && number(&status, "/events/refusals")? == refused)
    });
    told.with_context(|| format!("{seen:?} are in lines and dropped, of {refused}"))
}

#[test]
fn fifty_thousand_denials_a_second_are_counted_and_hide_nobody() -> Result<()> {
    let seconds = env::var(SECONDS).ok().map(|n| n.parse()).transpose()?.unwrap_or(SECONDS_OTHERWISE);
    let lab = Lab::new()?;
    let ci = lab.probe("/ci")?;
    let agent = with_metrics(&lab)?;
    let mut flood = Flood::of(&ci)?;
    let (busy, growth) = (cost::processor_time(agent.pid())?, cost::Growth::of(agent.pid())?);
    let lasts = Duration::from_secs(seconds);
    let (began, mut others) = (Instant::now(), Vec::new());
    while began.elapsed() < lasts {
        flood.go_on()?;
        // One every three seconds.
        if began.elapsed().as_secs() / 3 >= others.len() as u64 {
            let port = u16::try_from(others.len() + 1)?;
            others.push((port, another(&lab, "another", port)?));
        }
    }
    let took = began.elapsed().as_secs_f64();
    let busy = (cost::processor_time(agent.pid())?.saturating_sub(busy)).as_secs_f64() / took;
    let grown = growth.so_far()?;
    #[expect(clippy::cast_precision_loss, reason = "millions")]
    let rate = flood.tried as f64 / took;
    eprintln!(
        "{rate:.0} denials/s for {took:.0} s: {:.0} % of a core, {} kB more",
        busy * 100.0,
        grown >> 10
    );
    for (port, refused) in &others {
        let about = json!({ "process": { "comm": "another" }, "peer": { "port": port } });
        let late = agent.denials().expect(&about)?.seen.saturating_duration_since(*refused);
        ensure!(late < stretched(SOON), "another program's refusal was reported after {late:?}");
    }
    all_are_accounted_for(&agent, flood.tried + others.len() as u64)?;
    ensure!(number(&agent.status()?, "/events/dropped")? > 0, "there were too few kinds for this test");
    ensure!(busy < SHARE, "the agent took {busy:.2} of a core");
    ensure!(grown < MEMORY, "the agent has grown by {grown} bytes");
    drop(flood);
    agent.stop()?;
    Ok(())
}

#[test]
fn what_nobody_drains_is_refused_and_counted_all_the_same() -> Result<()> {
    let lab = Lab::new()?;
    let callers = [lab.probe("/ci")?, lab.probe("/web")?, lab.probe("/db")?];
    let agent = with_metrics(&lab)?;
    let [known, web, db] = callers.each_ref().map(Flood::of);
    let (mut known, mut web, mut db) = (known?, web?, db?);
    // What ci tries is known already, and has been quiet for long enough to be looked at no more.
    known.go_on()?;
    thread::sleep(QUIET);
    let away = agent.pause()?;
    let began = Instant::now();
    while began.elapsed() < AWAY {
        web.go_on()?;
        db.go_on()?;
        // By now there is no room for another record.
        if began.elapsed() > AWAY / 2 {
            known.go_on()?;
        }
    }
    drop(away);
    let back = Instant::now();
    let mut tried = known.tried + web.tried + db.tried;
    // What finds the buffer full is counted; the same a moment later is reported, behind all that is in it.
    until("another program's refusal is reported", || {
        another(&lab, "another", 1)?;
        tried += 1;
        Ok(!agent.denials().matching(&json!({ "process": { "comm": "another" } }))?.is_empty())
    })?;
    let back = back.elapsed();
    all_are_accounted_for(&agent, tried)?;
    let late = Metrics::of(&lab)?.value("bulkhead_records_late_total")?;
    ensure!(late > 0, "no record was lost: the kernel's buffer has not been full");
    eprintln!("{tried} denials, {late} records found no room; {back:.1?} to catch up");
    agent.stop()?;
    Ok(())
}

#[test]
fn an_agent_that_is_to_stop_in_the_midst_of_a_flood_does() -> Result<()> {
    const WORKLOADS: u16 = 8;
    /// As many as one program may have told apart.
    const EACH: u16 = 1_000;
    let lab = Lab::new()?;
    let workload = |n| format!("[workload.w{n}]\nselect = {{ cgroup = \"/w{n}\" }}\n");
    let rule = |n| format!("[[allow]]\nfrom = \"w{}\"\nto = \"10.0.{n}.0/24\"\n", n % WORKLOADS);
    let policy: String = (0..WORKLOADS).map(workload).chain((0..200).map(rule)).collect();
    let agent = lab.agent(&policy)?.start()?;
    let callers = (0..WORKLOADS).map(|n| lab.probe(&format!("/w{n}"))).collect::<Result<Vec<_>>>()?;
    let peers: Vec<_> = (1..=EACH).map(|port| at([192, 0, 2, 1], port)).collect();
    // All of them wait for the agent as it is asked to stop.
    let away = agent.pause()?;
    for caller in &callers {
        let taken = caller.open(Kind::Udp, Family::V4)?.repeat(&peers, vec![0; 32], u32::from(EACH))?;
        ensure!(taken == 0, "{taken} forbidden datagrams were taken");
    }
    drop(away);
    let began = Instant::now();
    let denials = agent.stop()?.all()?.len();
    let took = began.elapsed();
    eprintln!("{denials} kinds reported, stopped after {took:.1?}");
    ensure!(denials >= usize::from(EACH), "{denials} kinds of refusals were reported");
    Ok(())
}

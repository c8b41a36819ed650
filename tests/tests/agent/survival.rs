//! What is enforced outlives the agent: killed, stopped, started again, in the midst of traffic.

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use bulkhead_tests::{
    Agent, Lab, Outcome, Probe, agent,
    pace::until,
    probe::{Family, Kind},
};

use crate::{
    loopback::{POLICY, PORT},
    verdicts::{allowed, at, refused},
};

/// Datagrams at a time.
const MANY: u32 = 50;
/// An address of the host at which nobody serves but who says so.
const OTHER_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);
/// What a processor gets done beside the traffic.
const PAUSE: Duration = Duration::from_millis(2);

/// web may reach db, ci may not.
pub(crate) struct Host {
    pub(crate) lab: Lab,
    pub(crate) web: Probe,
    pub(crate) ci: Probe,
    db: Probe,
    pub(crate) to: SocketAddr,
}

impl Host {
    pub(crate) fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let (web, ci, db) = (lab.probe("/web")?, lab.probe("/ci")?, lab.probe("/db")?);
        let to = at(lab.host().v4, PORT);
        db.serve(Kind::Tcp, to)?;
        db.serve(Kind::Udp, to)?;
        Ok(Self { lab, web, ci, db, to })
    }

    pub(crate) fn start(&self) -> Result<Agent> {
        self.lab.agent(POLICY)?.kept()?.start()
    }

    pub(crate) fn attached(&self) -> Result<usize> {
        Ok(agent::attached(self.lab.root()?.path())?.len())
    }

    pub(crate) fn detach(&self) -> Result<String> {
        let output = self.lab.bulkhead(&["detach"])?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "bulkhead detach: {}\n{said}", output.status);
        Ok(String::from_utf8(output.stdout)?)
    }
}

/// What an agent has counted of what it refused: packets and calls.
fn denied(agent: &Agent) -> Result<u64> {
    let status = agent.status()?;
    let number = |pointer: &str| {
        let number = status.pointer(pointer).and_then(serde_json::Value::as_u64);
        number.with_context(|| format!("no {pointer} in {status}"))
    };
    Ok(number("/traffic/denied/packets")? + number("/traffic/refused_calls")?)
}

#[test]
fn agents_come_and_go_and_traffic_does_not_notice() -> Result<()> {
    let host = Host::new()?;
    in_the_midst_of_traffic(&host, |first| come_and_go(&host, first))
}

/// What refuses and what allows has no gap while something happens to the host's agent.
fn in_the_midst_of_traffic(host: &Host, happens: impl FnOnce(Agent) -> Result<()>) -> Result<()> {
    let first = host.start()?;
    let (web, ci, to) = (host.lab.probe("/web")?, host.lab.probe("/ci")?, host.to);
    let ended = AtomicBool::new(false);
    let ended = &ended;
    thread::scope(|scope| -> Result<()> {
        let forbidden = scope.spawn(move || -> Result<u32> {
            let attacker = ci.open(Kind::Udp, Family::V4)?;
            let mut tries = 0;
            while !ended.load(Ordering::Relaxed) {
                let taken = attacker.repeat(&[to], vec![0; 10], MANY)?;
                ensure!(taken == 0, "{taken} forbidden datagrams were taken after {tries}");
                tries += MANY;
                thread::sleep(PAUSE);
            }
            Ok(tries)
        });
        let permitted = scope.spawn(move || -> Result<u32> {
            let flow = web.open(Kind::Tcp, Family::V4)?;
            allowed("web to db", flow.connect_and_exchange(to)?)?;
            let mut rounds = 0;
            while !ended.load(Ordering::Relaxed) {
                allowed("web's connection", flow.exchange(None)?)?;
                rounds += 1;
                thread::sleep(PAUSE);
            }
            Ok(rounds)
        });
        let done = happens(first);
        ended.store(true, Ordering::Relaxed);
        let join = |what: thread::ScopedJoinHandle<'_, Result<u32>>| what.join().expect("no panic");
        let (tries, rounds) = (join(forbidden)?, join(permitted)?);
        done?;
        ensure!(tries > 1_000 && rounds > 100, "too little traffic: {tries} and {rounds}");
        Ok(())
    })
}

fn come_and_go(host: &Host, first: Agent) -> Result<()> {
    first.kill()?;
    thread::sleep(Duration::from_millis(200));
    let second = host.start()?;
    // A new connection meets its programs as well.
    allowed("web to db under the second agent", host.web.tcp(host.to)?)?;
    second.leave()?;
    thread::sleep(Duration::from_millis(200));
    let third = host.start()?;
    third.kill()?;
    host.start()?.leave()
}

/// The pins of the agent before are moved to where those of another version are. Its programs and this agent's share
/// nothing then, as if they could not read each other's maps.
#[test]
fn another_versions_agent_takes_over_and_traffic_does_not_notice() -> Result<()> {
    let host = Host::new()?;
    let server = host.db.open(Kind::Udp, Family::V4)?;
    let to = server.bind(at(OTHER_ADDRESS, PORT))?;
    let asker = host.web.open(Kind::Udp, Family::V4)?;
    in_the_midst_of_traffic(&host, |first| {
        allowed("a question before", asker.send(Some(to))?)?;
        allowed("the question at the server", server.receive()?)?;
        first.kill()?;
        host.lab.in_office(&["sh", "-c", "mv $0/bulkhead/v* $0/bulkhead/v999"])?;
        thread::sleep(Duration::from_millis(200));
        let second = host.start()?;
        host.lab.in_office(&["sh", "-c", "! test -e $0/bulkhead/v999"])?;
        let from = at(Ipv4Addr::LOCALHOST, asker.address()?.port());
        allowed("the answer, under another version", server.send(Some(from))?)?;
        allowed("the answer where the question came from", asker.receive()?)?;
        allowed("web to db", host.web.tcp(host.to)?)?;
        refused("ci to db", host.ci.tcp(host.to)?)?;
        second.leave()
    })?;
    host.detach()?;
    ensure!(host.attached()? == 0, "{} programs are still attached", host.attached()?);
    Ok(())
}

#[test]
fn agents_that_fail_as_they_start_open_nothing_and_cut_nothing() -> Result<()> {
    while_agents_fail(|_| Ok(()))
}

#[test]
fn agents_that_fail_beside_another_versions_pins_open_nothing_and_cut_nothing() -> Result<()> {
    while_agents_fail(|host| {
        host.lab.in_office(&["sh", "-c", "mv $0/bulkhead/v* $0/bulkhead/v999"]).map(drop)
    })
}

/// Nothing is opened or cut by agents that fail, nor by the one that starts in the end. `before` has its way with what the
/// agent before them has left.
fn while_agents_fail(before: impl FnOnce(&Host) -> Result<()>) -> Result<()> {
    let host = Host::new()?;
    in_the_midst_of_traffic(&host, |first| {
        first.kill()?;
        before(&host)?;
        fail_again_and_again(&host)?;
        host.lab.in_office(&["sh", "-c", "! test -e $0/bulkhead/v999"]).map(drop)
    })?;
    host.detach()?;
    ensure!(host.attached()? == 0, "{} programs are still attached", host.attached()?);
    Ok(())
}

/// Starts agents that run out of files, each a few later than the one before, until one starts.
fn fail_again_and_again(host: &Host) -> Result<()> {
    let mut failures = 0;
    for most in (8..1_000).step_by(6) {
        match host.lab.agent(POLICY)?.kept()?.with_files(most).start() {
            Ok(agent) => {
                ensure!(failures > 8, "{failures} agents have failed");
                refused("ci to db", host.ci.tcp(host.to)?)?;
                allowed("web to db", host.web.tcp(host.to)?)?;
                return agent.kill();
            }
            Err(error) => {
                let said = format!("{error:#}");
                ensure!(!said.contains("panicked"), "with {most} files: {said}");
                failures += 1;
            }
        }
        refused(&format!("ci to db, after one with {most} files"), host.ci.tcp(host.to)?)?;
        allowed(&format!("web to db, after one with {most} files"), host.web.tcp(host.to)?)?;
    }
    anyhow::bail!("no agent has started")
}

#[test]
fn counts_go_on_over_agents_that_are_killed() -> Result<()> {
    let host = Host::new()?;
    let first = host.start()?;
    let attacker = host.ci.open(Kind::Udp, Family::V4)?;
    let send = || -> Result<()> {
        ensure!(attacker.repeat(&[host.to], vec![0; 10], MANY)? == 0, "forbidden datagrams were taken");
        Ok(())
    };
    send()?;
    ensure!(denied(&first)? == u64::from(MANY), "counted under the first agent: {}", denied(&first)?);
    first.kill()?;
    send()?;
    let second = host.start()?;
    send()?;
    ensure!(denied(&second)? == u64::from(3 * MANY), "counted under the second agent: {}", denied(&second)?);
    second.kill()?;
    // By now the first agent's tables are gone for good, and what they counted is not.
    let third = host.start()?;
    ensure!(denied(&third)? == u64::from(3 * MANY), "counted under the third agent: {}", denied(&third)?);
    third.kill()?;
    host.detach()?;
    Ok(())
}

#[test]
fn detach_needs_no_agent_and_leaves_nothing() -> Result<()> {
    let host = Host::new()?;
    ensure!(host.detach()?.contains("nothing"), "there is nothing to detach");
    host.start()?.kill()?;
    refused("ci to db", host.ci.tcp(host.to)?)?;
    let said = host.detach()?;
    ensure!(said.contains("nothing is enforced any more"), "{said}");
    ensure!(host.attached()? == 0, "programs are left attached");
    allowed("ci to db", host.ci.tcp(host.to)?)?;

    // An agent that runs attaches nothing again.
    let agent = host.start()?;
    refused("ci to db", host.ci.tcp(host.to)?)?;
    host.detach()?;
    ensure!(host.attached()? == 0, "programs are left attached");
    allowed("ci to db", host.ci.tcp(host.to)?)?;
    agent.kill()
}

#[test]
fn a_terminal_that_closes_takes_enforcement_with_it() -> Result<()> {
    let host = Host::new()?;
    let terminal = host.lab.agent(POLICY)?.kept()?.start_in_terminal()?;
    refused("ci to db", host.ci.tcp(host.to)?)?;
    drop(terminal);
    // One link goes after the other, and each has no number any more before its program is out of the way.
    until("ci reaches db", || Ok(host.ci.tcp(host.to)? == Outcome::Answered))?;
    until("no program is left attached", || Ok(host.attached()? == 0))
}

#[test]
fn a_directory_that_is_somebody_elses_is_no_place_for_pins() -> Result<()> {
    let host = Host::new()?;
    host.lab.in_office(&["sh", "-c", r#"mkdir "$0/bulkhead" && chown 65534 "$0/bulkhead""#])?;
    let ended = host.lab.agent(POLICY)?.end()?;
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    ensure!(!ended.status.success() && said.contains("others could remove what is pinned there"), "{said}");
    ensure!(host.attached()? == 0, "programs are attached");
    Ok(())
}

#[test]
fn killed_at_any_moment_of_its_start_it_starts_again() -> Result<()> {
    let host = Host::new()?;
    for n in 0..10 {
        host.lab.agent(POLICY)?.kept()?.start_and_kill(Duration::from_millis(n * 60))?;
    }
    let agent = host.start()?;
    refused("ci to db", host.ci.tcp(host.to)?)?;
    allowed("web to db", host.web.tcp(host.to)?)?;
    agent.kill()?;
    host.detach()?;
    ensure!(host.attached()? == 0, "programs are left attached");
    allowed("ci to db", host.ci.tcp(host.to)?)
}

#[test]
fn a_dry_run_after_an_agent_refuses_nothing_and_leaves_nothing() -> Result<()> {
    let host = Host::new()?;
    host.start()?.kill()?;
    refused("ci to db", host.ci.tcp(host.to)?)?;
    let dry = host.lab.agent(POLICY)?.kept()?.dry_run().start()?;
    allowed("ci to db in a dry run", host.ci.tcp(host.to)?)?;
    dry.stop()?;
    ensure!(matches!(host.ci.tcp(host.to)?, Outcome::Answered), "refused after the dry run");
    Ok(())
}

/// Tags that sockets bear are of the policy before, and their workloads may be others under the next.
#[test]
fn a_server_becomes_another_workload_under_the_next_agents_policy() -> Result<()> {
    let lab = Lab::new()?;
    let (web, ci, server) = (lab.probe("/web")?, lab.probe("/ci")?, lab.probe("/db/inner/container")?);
    let to = at(Ipv4Addr::LOCALHOST, PORT);
    server.serve(Kind::Tcp, to)?;
    let first = lab.agent(POLICY)?.kept()?.start()?;
    allowed("web to db", web.tcp(to)?)?;
    refused("ci to db", ci.tcp(to)?)?;
    first.kill()?;
    let inner = format!(
        "{POLICY}{}",
        "[workload.inner]\nenvironment = \"dev\"\nselect = { cgroup = \"/db/inner\" }\n\
         [[allow]]\nfrom = \"ci\"\nto = \"inner\"\n"
    );
    let second = lab.agent(&inner)?.kept()?.start()?;
    allowed("ci to inner, which was db", ci.tcp(to)?)?;
    refused("web to inner, which was db", web.tcp(to)?)?;
    second.kill()?;
    // And back again.
    let third = lab.agent(POLICY)?.start()?;
    allowed("web to db, which was inner", web.tcp(to)?)?;
    refused("ci to db, which was inner", ci.tcp(to)?)?;
    third.stop()?;
    Ok(())
}

/// Agents that take over from each other while jobs begin.
const TAKE_OVERS: usize = 4;
/// Jobs that live at a time.
const JOBS: usize = 12;

#[test]
fn who_is_born_while_agents_change_never_gets_through() -> Result<()> {
    let policy =
        format!("{POLICY}\n[workload.job]\nenvironment = \"dev\"\nselect = {{ cgroup = \"/job-*\" }}\n");
    let host = Host::new()?;
    let mut launches =
        (0..=TAKE_OVERS).map(|_| host.lab.agent(&policy)?.kept()).collect::<Result<Vec<_>>>()?;
    let mut agent = launches.remove(0).start()?;
    let agents = thread::spawn(move || -> Result<()> {
        for (n, next) in launches.into_iter().enumerate() {
            if n % 2 == 0 {
                agent.kill()?;
            } else {
                agent.leave()?;
            }
            agent = next.start()?;
        }
        agent.leave()
    });
    let (mut born, mut jobs) = (0, VecDeque::new());
    while !agents.is_finished() {
        jobs.push_back(host.lab.probe(&format!("/job-{born}"))?);
        born += 1;
        if jobs.len() > JOBS {
            jobs.pop_front();
        }
        // Those too that were born under the agent before.
        for job in &jobs {
            let taken = job.open(Kind::Udp, Family::V4)?.repeat(&[host.to], vec![0; 10], 10)?;
            ensure!(taken == 0, "{taken} forbidden datagrams of a job were taken, after {born} were born");
        }
    }
    agents.join().expect("no panic")?;
    ensure!(born > 30, "too few jobs: {born}");
    Ok(())
}

//! What a service manager relies on: readiness that is shown, signs of life, and an orderly end.

use std::{
    fs,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use bulkhead_tests::{
    Denial, Lab, Launch, agent,
    pace::{stretched, until},
    probe::Kind,
};
use tempfile::TempDir;

use crate::{
    loopback::{POLICY, PORT},
    verdicts::{allowed, at, refused},
};

/// How often the manager of a test wants a sign of life.
const WATCHDOG: Duration = Duration::from_millis(200);
/// Longer than any of the agent's steps.
const PATIENCE: Duration = Duration::from_secs(20);

/// A service manager, as far as it listens.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    _folder: TempDir,
}

impl Manager {
    fn new() -> Result<Self> {
        let folder = TempDir::new()?;
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path)?;
        Ok(Self { socket, path, _folder: folder })
    }

    fn of(&self, launch: Launch) -> Launch {
        let usec = WATCHDOG.as_micros().to_string();
        launch.env("NOTIFY_SOCKET", &self.path.to_string_lossy()).env("WATCHDOG_USEC", &usec)
    }

    /// The next message, or none within this time.
    fn next(&self, patience: Duration) -> Result<Option<String>> {
        let mut message = [0; 1024];
        self.socket.set_read_timeout(Some(patience))?;
        match self.socket.recv(&mut message) {
            Ok(length) => Ok(Some(String::from_utf8(message[..length].to_vec())?)),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn expect(&self, wanted: &str) -> Result<String> {
        let end = Instant::now() + stretched(PATIENCE);
        while Instant::now() < end {
            if let Some(message) = self.next(PATIENCE)?
                && message.starts_with(wanted)
            {
                return Ok(message);
            }
        }
        bail!("the service manager is not told {wanted}")
    }
}

#[test]
fn a_service_manager_is_told_of_readiness_of_life_and_of_the_end() -> Result<()> {
    let (lab, manager) = (Lab::new()?, Manager::new()?);
    let agent = manager.of(lab.agent(POLICY)?).start()?;
    let ready = manager.next(PATIENCE)?.context("nothing is said of readiness")?;
    ensure!(ready.starts_with("READY=1\nSTATUS=enforcing 3 workloads"), "the first that is said: {ready:?}");
    for _ in 0..3 {
        manager.expect("WATCHDOG=1")?;
    }
    // One that hangs gives no sign of life.
    let hung = agent.pause()?;
    while manager.next(Duration::from_millis(1))?.is_some() {}
    ensure!(manager.next(WATCHDOG * 3)?.is_none(), "an agent that does not run gives signs of life");
    drop(hung);
    manager.expect("WATCHDOG=1")?;
    agent.stop()?;
    manager.expect("STOPPING=1")?;
    Ok(())
}

#[test]
fn the_canary_is_nobodys_traffic_and_leaves_nothing() -> Result<()> {
    for dry_run in [false, true] {
        let lab = Lab::new()?;
        let (ci, db) = (lab.probe("/ci")?, lab.probe("/db")?);
        let to = at(lab.host().v4, PORT);
        db.serve(Kind::Tcp, to)?;
        let launch = lab.agent(POLICY)?;
        let agent = if dry_run { launch.dry_run() } else { launch }.start()?;
        let status = agent.status()?;
        for pointer in ["/events/refusals", "/traffic/refused_calls", "/traffic/denied/packets"] {
            let count = status.pointer(pointer).with_context(|| format!("no {pointer} in {status}"))?;
            ensure!(count == 0, "{pointer} is {count} though nobody has done anything");
        }
        ensure!(canary(lab.root()?.path())?.is_none(), "the canary's cgroup is left");
        if dry_run {
            allowed("ci to db in a dry run", ci.tcp(to)?)?;
        } else {
            refused("ci to db", ci.tcp(to)?)?;
        }
        let denials = agent.stop()?.all()?;
        let ours =
            |denial: &Denial| ["ci", "db"].iter().any(|name| denial.record["workload"]["name"] == *name);
        ensure!(
            !denials.is_empty() && denials.iter().all(ours),
            "only ci's attempt is reported: {denials:?}"
        );
    }
    Ok(())
}

/// The canary's cgroup, if it is there.
fn canary(root: &Path) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(root)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("bulkhead-canary-")) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Waits until a canary is held in its cgroup below a root that is frozen, detaches some programs, and lets it go on.
fn rob(lab: &Lab, links: &str) -> Result<()> {
    let root = lab.root()?;
    let unpin = format!(r#"rm "$0"/bulkhead/v*/*/links/{links}"#);
    let held = until("a canary enters its cgroup", || {
        let Some(cgroup) = canary(root.path())? else { return Ok(false) };
        Ok(!fs::read_to_string(cgroup.join("cgroup.procs"))?.is_empty())
    });
    let robbed = held.and_then(|()| lab.in_office(&["sh", "-c", &unpin]));
    fs::write(root.path().join("cgroup.freeze"), "0")?;
    robbed.map(drop)
}

/// Starts an agent and detaches some of its programs before its canary has done anything; what it says as it ends.
fn end_of_a_robbed_agent(lab: &Lab, launch: Launch, links: &str) -> Result<String> {
    let root = lab.root()?;
    fs::write(root.path().join("cgroup.freeze"), "1")?;
    let ending = thread::spawn(|| launch.end());
    let robbed = rob(lab, links);
    let ended = ending.join().expect("no panic")?;
    robbed?;
    let said = String::from_utf8(ended.stderr)?;
    ensure!(!ended.status.success(), "it must not run:\n{said}");
    ensure!(!said.contains("ready"), "it says that it is ready:\n{said}");
    ensure!(canary(root.path())?.is_none(), "the canary's cgroup is left");
    Ok(said)
}

#[test]
fn an_agent_whose_canary_passes_ends_and_leaves_nothing() -> Result<()> {
    for (links, passes) in [
        ("*", "a packet to 127.0.0.1"),
        ("connect4", "a connection to 127.0.0.1"),
        ("ingress", "a packet from 127.0.0.1"),
    ] {
        let (lab, manager) = (Lab::new()?, Manager::new()?);
        let said = end_of_a_robbed_agent(&lab, manager.of(lab.agent(POLICY)?.kept()?), links)?;
        for part in [passes, "bpftool cgroup tree", "doctor --self-test"] {
            ensure!(said.contains(part), "{part:?} is not in:\n{said}");
        }
        ensure!(agent::attached(lab.root()?.path())?.is_empty(), "programs are left attached");
        let told = manager.next(Duration::from_millis(100))?;
        ensure!(told.is_none(), "the service manager is told {told:?}");
    }
    Ok(())
}

#[test]
fn an_agent_whose_canary_passes_leaves_what_it_has_taken_over() -> Result<()> {
    let lab = Lab::new()?;
    let (web, ci, db) = (lab.probe("/web")?, lab.probe("/ci")?, lab.probe("/db")?);
    let to = at(lab.host().v4, PORT);
    db.serve(Kind::Udp, to)?;
    lab.agent(POLICY)?.kept()?.start()?.leave()?;
    let said = end_of_a_robbed_agent(&lab, lab.agent(POLICY)?.kept()?, "connect4")?;
    ensure!(said.contains("a connection to 127.0.0.1"), "it says:\n{said}");
    refused("ci to db, by what is left", ci.udp(to)?)?;
    allowed("web to db, by what is left", web.udp(to)?)?;
    Ok(())
}

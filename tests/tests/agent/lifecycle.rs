//! Start, stop, a second agent, a killed one, and starts that must not succeed.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::net::UnixDatagram,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use bulkhead_tests::{Lab, agent, artifact, probe::Kind};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    loopback::{POLICY, PORT},
    verdicts::{allowed, at, refused},
};

#[test]
fn a_stopped_agent_leaves_nothing_and_cuts_nothing() -> Result<()> {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let lab = Lab::new()?;
        let (web, ci, db) = (lab.probe("/web")?, lab.probe("/ci")?, lab.probe("/db")?);
        let to = at(lab.host().v4, PORT);
        db.serve(Kind::Tcp, to)?;
        let agent = lab.agent(POLICY)?.start()?;
        refused("ci to db", ci.tcp(to)?)?;
        let flow = web.open(Kind::Tcp, bulkhead_tests::probe::Family::V4)?;
        allowed("web to db", flow.connect_and_exchange(to)?)?;
        // It checks that no program is left attached.
        let denials = agent.stop_by(signal)?;
        ensure!(!denials.all()?.is_empty(), "what was refused before the stop is reported");
        allowed("web's connection after the stop", flow.exchange(None)?)?;
        allowed("ci to db after the stop", ci.tcp(to)?)?;
    }
    Ok(())
}

#[test]
fn an_agent_can_start_again_at_once() -> Result<()> {
    let lab = Lab::new()?;
    let (ci, db) = (lab.probe("/ci")?, lab.probe("/db")?);
    let to = at(lab.host().v4, PORT);
    db.serve(Kind::Tcp, to)?;
    for _ in 0..3 {
        let agent = lab.agent(POLICY)?.start()?;
        refused("ci to db", ci.tcp(to)?)?;
        agent.stop()?;
        allowed("ci to db", ci.tcp(to)?)?;
    }
    Ok(())
}

#[test]
fn a_second_agent_refuses_and_names_the_first() -> Result<()> {
    let lab = Lab::new()?;
    let (ci, db) = (lab.probe("/ci")?, lab.probe("/db")?);
    let to = at(lab.host().v4, PORT);
    db.serve(Kind::Tcp, to)?;
    let first = lab.agent(POLICY)?.start()?;
    let second = lab.agent(POLICY)?.end()?;
    let said = String::from_utf8(second.stderr)?;
    ensure!(!second.status.success(), "a second agent must not run");
    ensure!(said.contains(&first.pid().to_string()), "it names the first agent's process: {said}");
    ensure!(said.contains(&lab.root()?.path().display().to_string()), "it names the cgroup: {said}");
    refused("ci to db, the first agent being unharmed", ci.tcp(to)?)?;
    first.stop()?;

    let elsewhere = Lab::new()?;
    let (here, there) = (lab.agent(POLICY)?.start()?, elsewhere.agent(POLICY)?.start()?);
    here.stop()?;
    there.stop()?;
    Ok(())
}

#[test]
fn a_killed_agent_blocks_no_successor() -> Result<()> {
    let lab = Lab::new()?;
    let (ci, db) = (lab.probe("/ci")?, lab.probe("/db")?);
    let to = at(lab.host().v4, PORT);
    db.serve(Kind::Tcp, to)?;
    // Dropping it is a SIGKILL.
    drop(lab.agent(POLICY)?.start()?);
    let agent = lab.agent(POLICY)?.start()?;
    refused("ci to db", ci.tcp(to)?)?;
    agent.stop()?;
    Ok(())
}

#[test]
fn a_policy_with_an_error_starts_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let policy = POLICY.replace("from = \"web\"", "from = \"wbe\"");
    let ended = lab.agent(&policy)?.end()?;
    let said = String::from_utf8(ended.stderr)?;
    ensure!(!ended.status.success(), "it must not start");
    let line = policy.lines().position(|line| line.starts_with("from")).unwrap_or_default() + 1;
    for part in ["policy.toml", "wbe", "web", &line.to_string()] {
        ensure!(said.contains(part), "{part:?} is not in:\n{said}");
    }
    ensure!(agent::attached(lab.root()?.path())?.is_empty(), "programs are attached");
    Ok(())
}

#[test]
fn a_cgroup_root_that_is_none_starts_nothing() -> Result<()> {
    let lab = Lab::new()?;
    for root in ["/tmp", "/sys/fs/cgroup/there-is-no-such-cgroup"] {
        let ended = lab.agent_below(Path::new(root), POLICY)?.end()?;
        let said = String::from_utf8(ended.stderr)?;
        ensure!(!ended.status.success() && said.contains(root), "{root}: {said}");
    }
    Ok(())
}

/// The way back for who is locked out: not even a policy is needed, nor a place to pin anything.
#[test]
fn a_kernel_parameter_switches_enforcement_off() -> Result<()> {
    const BOOTED: &str = r#"mount --bind "$0" /proc/cmdline && exec "$@""#;
    let (lab, files) = (Lab::new()?, tempfile::tempdir()?);
    let line = files.path().join("cmdline");
    fs::write(&line, "root=/dev/sda1 ro bulkhead=off\n")?;
    let manager = UnixDatagram::bind(files.path().join("notify"))?;
    manager.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut agent = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", BOOTED])
        .arg(&line)
        .arg(artifact::agent()?)
        .args(["run", "--policy", "/nowhere", "--output", "json", "--cgroup-root"])
        .arg(lab.root()?.path())
        .env("NOTIFY_SOCKET", files.path().join("notify"))
        .stderr(Stdio::piped())
        .spawn()?;
    let mut said = String::new();
    BufReader::new(agent.stderr.take().context("no standard error")?).read_line(&mut said)?;
    let attached = agent::attached(lab.root()?.path())?;
    kill(Pid::from_raw(i32::try_from(agent.id())?), Signal::SIGTERM)?;
    let ended = agent.wait()?;
    ensure!(said.contains(r#""status":"off""#), "it says: {said}");
    let mut told = [0; 256];
    let length = manager.recv(&mut told).context("the service manager is not told")?;
    let told = String::from_utf8_lossy(&told[..length]);
    ensure!(told.starts_with("READY=1\nSTATUS=off"), "the service manager is told {told:?}");
    ensure!(attached.is_empty(), "programs are attached");
    ensure!(ended.success(), "it ended with {ended}");
    Ok(())
}

/// Runs the agent through `wrapper`, which ends in the agent's own words; what it says if it does not start.
fn refused_to_start(lab: &Lab, wrapper: &[&str], arguments: &[&str]) -> Result<String> {
    let state = tempfile::tempdir()?;
    let policy = state.path().join("policy.toml");
    fs::write(&policy, POLICY)?;
    let ended = Command::new(wrapper[0])
        .args(&wrapper[1..])
        .arg(artifact::agent()?)
        .args(["run", "--policy"])
        .arg(&policy)
        .arg("--control-socket")
        .arg(state.path().join("control.sock"))
        .args(arguments)
        .output()?;
    let said = String::from_utf8(ended.stderr)?;
    ensure!(!ended.status.success(), "it must not start:\n{said}");
    ensure!(agent::attached(lab.root()?.path())?.is_empty(), "programs are attached");
    Ok(said)
}

#[test]
fn without_capabilities_it_names_those_that_are_missing() -> Result<()> {
    let lab = Lab::new()?;
    let root = lab.root()?;
    let nobody = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"];
    let said = refused_to_start(&lab, &nobody, &["--cgroup-root", &root.path().to_string_lossy()])?;
    for part in ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON", "as root"] {
        ensure!(said.contains(part), "{part:?} is not in:\n{said}");
    }
    Ok(())
}

#[test]
fn without_cgroup_v2_it_says_how_to_mount_it() -> Result<()> {
    const UNMOUNT: &str =
        r#"awk '$3 == "cgroup2" { print $2 }' /proc/mounts | xargs -r -n 1 umount -l; exec "$@""#;
    let lab = Lab::new()?;
    let said = refused_to_start(&lab, &["unshare", "--mount", "sh", "-c", UNMOUNT, "sh"], &[])?;
    for part in ["cgroup v2", "mount -t cgroup2"] {
        ensure!(said.contains(part), "{part:?} is not in:\n{said}");
    }
    Ok(())
}

#[test]
fn a_start_and_a_stop_are_quick() -> Result<()> {
    let lab = Lab::new()?;
    let start = std::time::Instant::now();
    lab.agent(POLICY)?.start()?.stop()?;
    let took = start.elapsed();
    ensure!(took < Duration::from_secs(10), "start and stop took {took:?}");
    Ok(())
}

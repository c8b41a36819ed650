//! Units of a real systemd.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use bulkhead_tests::{Lab, Machine, cgroup::Cgroup, probe::Kind};
use serde_json::json;

use crate::verdicts::at;

const PORT: u16 = 5432;

/// web may reach the server on another machine, ci may not.
const POLICY: &str = r#"
[environment.prod]
[environment.dev]
[workload.web]
environment = "prod"
select = { systemd = "web.service" }
[workload.ci]
environment = "dev"
select = { systemd = "ci.service" }
[peer.server]
cidrs = ["10.77.0.2"]

[[allow]]
from = "web"
to = "server"
ports = ["tcp/5432"]
"#;

/// Connects over and over and writes down what came of it: its own process id, and a word.
const CALLER: &str = r#"
note() { echo "$$ $1" >>"/run/$name.log"; }
name=$1 to=/dev/tcp/$2/$3
note started
while :; do
    case "$( (exec 3<>"$to") 2>&1)" in
        "") note reached ;;
        *"not permitted"*) note refused ;;
        *) note failed ;;
    esac
    sleep 0.01
done
"#;

/// A unit that runs it.
fn caller(name: &str, to: SocketAddr) -> String {
    // Restarted as often as a test likes.
    format!(
        "[Unit]\nStartLimitIntervalSec=0\n[Service]\nExecStart=bash /etc/caller.sh {name} {} {}\n",
        to.ip(),
        to.port()
    )
}

/// One line of a unit's log.
#[derive(Debug)]
struct Note {
    pid: u32,
    word: String,
}

fn notes(machine: &Machine, name: &str) -> Result<Vec<Note>> {
    let text = machine.read(&format!("/run/{name}.log"))?;
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .map(|line| {
            let mut words = line.split(' ');
            let mut word = || words.next().context("a short line in the log");
            Ok(Note { pid: word()?.parse()?, word: word()?.to_owned() })
        })
        .collect()
}

/// Attempts that show how it is.
const SOME: usize = 30;

/// Waits for so many attempts after `lines`, and gives all from there.
fn wait_for_attempts(machine: &Machine, name: &str, lines: usize, count: usize) -> Result<Vec<Note>> {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let mut all = notes(machine, name)?;
        if all.len() >= lines + count {
            return Ok(all.split_off(lines));
        }
        ensure!(Instant::now() < end, "{name}.service does not try: {all:?}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// Waits for a start after `lines` and some attempts after it, and gives all from the start on.
fn wait_for_restart(machine: &Machine, name: &str, lines: usize) -> Result<Vec<Note>> {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let mut all = notes(machine, name)?.split_off(lines);
        if let Some(start) = all.iter().position(|note| note.word == "started")
            && all.len() >= start + FEW
        {
            return Ok(all.split_off(start));
        }
        ensure!(Instant::now() < end, "{name}.service does not start and try: {all:?}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// How often a unit is restarted, half of it with an agent that does not run.
const RESTARTS: usize = 50;
/// Lines of a log from a start on: that, and the first attempts.
const FEW: usize = 4;

#[test]
fn a_restarted_unit_never_gets_through() -> Result<()> {
    let lab = Lab::new()?;
    let elsewhere = lab.network()?;
    let server = lab.stranger(&elsewhere)?;
    let to = at(elsewhere.v4, PORT);
    server.serve(Kind::Tcp, to)?;
    let (web, ci) = (caller("web", to), caller("ci", to));
    let machine = Machine::boot(
        &lab,
        &[("caller.sh", CALLER), ("systemd/system/web.service", &web), ("systemd/system/ci.service", &ci)],
    )?;
    for name in ["web", "ci"] {
        let before = wait_for_attempts(&machine, name, 0, SOME)?;
        ensure!(before[1..].iter().all(|note| note.word == "reached"), "without an agent: {before:?}");
    }
    let agent = lab.agent(POLICY)?.start()?;
    let seen = notes(&machine, "ci")?.len() + 1;
    let after = wait_for_attempts(&machine, "ci", seen, SOME)?;
    ensure!(after.iter().all(|note| note.word == "refused"), "ci, once the agent is ready: {after:?}");

    let mut paused = None;
    for restart in 0..RESTARTS {
        if restart == RESTARTS / 2 {
            agent.denials().expect(&json!({
                "workload": {"name": "ci", "cgroup": "/system.slice/ci.service", "unit": "ci.service"},
                "peer": {"address": to.ip(), "name": "server"},
            }))?;
            // From here on nobody but the kernel can tell who it is.
            paused = Some(agent.pause()?);
        }
        let seen = notes(&machine, "ci")?.len();
        machine.systemctl(&["restart", "ci.service"])?;
        let again = wait_for_restart(&machine, "ci", seen)?;
        let (started, attempts) = again.split_first().context("ci did not start again")?;
        ensure!(
            attempts.iter().all(|note| note.word == "refused" && note.pid == started.pid),
            "ci after restart {restart}: {again:?}"
        );
    }
    drop(paused);
    let web = notes(&machine, "web")?;
    ensure!(web[1..].iter().all(|note| note.word == "reached"), "web is never refused: {web:?}");
    agent.stop()?;
    Ok(())
}

#[test]
fn a_machine_runs_real_units_in_the_lab() -> Result<()> {
    let lab = Lab::new()?;
    let unit = "[Service]\nExecStart=sleep infinity\n";
    let units = ["systemd/system/web.service", "systemd/system/ci.service"].map(|path| (path, unit));
    let machine = Machine::boot(&lab, &units)?;
    let cgroup = |name: &str| {
        lab.cgroup("/system.slice")?.path().join(name).canonicalize().map_err(anyhow::Error::from)
    };
    let first = Cgroup::make(cgroup("ci.service")?)?.id()?;
    machine.systemctl(&["restart", "ci.service"])?;
    ensure!(Cgroup::make(cgroup("ci.service")?)?.id()? != first, "a restarted unit has a new cgroup");
    machine.systemctl(&["stop", "web.service"])?;
    ensure!(cgroup("web.service").is_err(), "a stopped unit has no cgroup");
    Ok(())
}

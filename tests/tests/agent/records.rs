//! Refusals and flows as `bulkhead denials` and `bulkhead flows` tell them.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use bulkhead_tests::{
    Agent, Lab, artifact,
    pace::{at_once, stretched, until},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::{
    loopback::POLICY,
    verdicts::{at, blocked},
};

/// A command that goes on until it is interrupted, and the lines that it prints.
struct Follower {
    child: Child,
    lines: Receiver<(Instant, String)>,
}

impl Follower {
    fn start(agent: &Agent, arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(artifact::agent()?);
        command.args(arguments).arg("--control-socket").arg(agent.control_socket());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let out = BufReader::new(child.stdout.take().context("no standard output")?);
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if sender.send((Instant::now(), line)).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, lines })
    }

    fn next(&self) -> Result<(Instant, String)> {
        self.lines.recv_timeout(stretched(Duration::from_secs(10))).context("nothing more was told")
    }

    fn next_record(&self) -> Result<(Instant, Value)> {
        let (when, line) = self.next()?;
        Ok((when, serde_json::from_str(&line).with_context(|| line)?))
    }

    /// Ends as Ctrl-C does, which is no failure.
    fn interrupt(mut self) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.child.id())?), Signal::SIGINT)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "{status} after Ctrl-C");
        Ok(())
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn who_follows_sees_a_refusal_at_once_as_it_is_printed() -> Result<()> {
    const ATTEMPTS: u16 = 200;
    let lab = Lab::new()?;
    let (ci, web) = (lab.probe("/ci")?, lab.probe("/web")?);
    let agent = lab.agent(POLICY)?.start()?;
    let follower = Follower::start(&agent, &["denials", "--follow", "--workload", "ci", "--output", "json"])?;
    let people = Follower::start(&agent, &["denials", "--follow", "--workload", "ci"])?;
    // It follows from when it is there.
    let mut port = 1;
    until("it follows", || {
        port += 1;
        blocked("ci", ci.tcp(at([192, 0, 2, 1], port))?)?;
        Ok(follower.lines.recv_timeout(Duration::from_millis(100)).is_ok())
    })?;
    while follower.lines.recv_timeout(Duration::from_millis(300)).is_ok() {}
    let mut delays = Vec::new();
    for port in 1000..1000 + ATTEMPTS {
        blocked("web", web.tcp(at([192, 0, 2, 2], port))?)?;
        let before = Instant::now();
        blocked("ci", ci.tcp(at([192, 0, 2, 1], port))?)?;
        let (when, record) = follower.next_record()?;
        ensure!(record["peer"]["port"] == port && record["workload"]["name"] == "ci", "{record}");
        let printed = agent
            .denials()
            .expect(&serde_json::json!({"peer": {"port": port}, "workload": {"name": "ci"}}))?;
        ensure!(printed.record == record, "printed is {}, and told {record}", printed.record);
        delays.push(when - before);
    }
    delays.sort_unstable();
    let worst = delays[delays.len() * 99 / 100];
    println!("from the call to the line: median {:?}, p99 {worst:?}", delays[delays.len() / 2]);
    ensure!(worst < at_once(Duration::from_millis(50)), "p99 is {worst:?}");
    let (_, line) = people.next()?;
    ensure!(line.contains("denied") && line.contains("ci (dev) → 192.0.2.1 tcp/"), "{line}");
    people.interrupt()?;
    // The agent's end is told.
    agent.stop()?;
    let mut follower = follower;
    let status = follower.child.wait()?;
    ensure!(status.code() == Some(1), "{status} after the agent's end");
    let mut said = String::new();
    std::io::Read::read_to_string(
        &mut follower.child.stderr.take().context("no standard error")?,
        &mut said,
    )?;
    ensure!(said.contains("has ended"), "{said}");
    Ok(())
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() -> Result<()> {
    let lab = Lab::new()?;
    let ci = lab.probe("/ci")?;
    let agent = lab.agent(POLICY)?.start()?;
    let command = format!(
        "set -o pipefail; {:?} denials --follow --control-socket {:?} | head --lines 1",
        artifact::agent()?,
        agent.control_socket()
    );
    let mut head = Command::new("bash").args(["-c", &command]).stdout(Stdio::null()).spawn()?;
    let mut port = 1;
    until("it ends", || {
        port += 1;
        blocked("ci", ci.tcp(at([192, 0, 2, 1], port))?)?;
        Ok(head.try_wait()?.is_some())
    })?;
    ensure!(head.wait()?.success(), "a broken pipe is no failure");
    agent.stop()?;
    Ok(())
}

//! Commands that go on until they are interrupted.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::{Agent, artifact, pace::stretched};

/// A command that goes on until it is interrupted, and the lines that it prints.
pub struct Follower {
    child: Child,
    lines: Receiver<(Instant, String)>,
}

impl Follower {
    /// Starts `bulkhead` with these arguments, for this agent.
    pub fn start(agent: &Agent, arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(artifact::agent()?);
        command.args(arguments).arg("--control-socket").arg(agent.control_socket());
        Self::of(command)
    }

    /// Starts another's command.
    pub fn of(mut command: Command) -> Result<Self> {
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

    /// The next line, and when it came.
    pub fn next(&self) -> Result<(Instant, String)> {
        self.lines.recv_timeout(stretched(Duration::from_secs(10))).context("nothing more was told")
    }

    /// The same as JSON.
    pub fn next_record(&self) -> Result<(Instant, Value)> {
        let (when, line) = self.next()?;
        Ok((when, serde_json::from_str(&line).with_context(|| line)?))
    }

    /// Does a line come within this time?
    pub fn tells_within(&self, time: Duration) -> bool {
        self.lines.recv_timeout(time).is_ok()
    }

    /// Waits until it ends by itself; tells what it has said on standard error.
    pub fn ended(mut self) -> Result<(ExitStatus, String)> {
        let status = self.child.wait()?;
        let mut said = String::new();
        self.child.stderr.take().context("no standard error")?.read_to_string(&mut said)?;
        Ok((status, said))
    }

    /// Ends as Ctrl-C does, which is no failure.
    pub fn interrupt(mut self) -> Result<()> {
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

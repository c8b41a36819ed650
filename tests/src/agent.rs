//! The built `bulkhead`, started and stopped as an operator would.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, ExitStatus, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{artifact, cgroup, denials::Denials, pace::stretched, place::Place};

/// How long a start may take: verifying the programs on a busy machine.
const START: Duration = Duration::from_secs(30);
/// How long `bulkhead status` waits for an answer: a machine that is slower gets as many tries as it is slower.
const ANSWER: Duration = Duration::from_secs(10);
/// How long a stop may take.
const STOP: Duration = Duration::from_secs(10);

/// An agent about to be started.
#[derive(Debug)]
pub struct Launch {
    command: Command,
    /// What it writes: gone with it.
    files: TempDir,
    policy: PathBuf,
    cgroup_root: PathBuf,
    state: PathBuf,
    socket: PathBuf,
}

impl Launch {
    /// An agent in `place` for the workloads below `cgroup_root`, under the policy in a file.
    pub fn new(place: &Place<'_>, cgroup_root: &Path, bpffs: &Path, policy: &Path) -> Result<Self> {
        Self::with(place, cgroup_root, bpffs, policy.to_owned(), TempDir::new()?)
    }

    /// The same under a policy as text.
    pub fn with_text(place: &Place<'_>, cgroup_root: &Path, bpffs: &Path, policy: &str) -> Result<Self> {
        let files = TempDir::new()?;
        let path = files.path().join("policy.toml");
        fs::write(&path, policy)?;
        Self::with(place, cgroup_root, bpffs, path, files)
    }

    fn with(
        place: &Place<'_>,
        cgroup_root: &Path,
        bpffs: &Path,
        policy: PathBuf,
        files: TempDir,
    ) -> Result<Self> {
        let mut command = place.command(artifact::agent()?);
        command.arg("run").arg("--policy").arg(&policy);
        command.arg("--cgroup-root").arg(cgroup_root).arg("--bpffs").arg(bpffs);
        // Nothing of a test's is to outlive it; [`Self::kept`] is for those about just that.
        fs::write(config(&files), "[agent]\non-stop = \"detach\"\n")?;
        command.arg("--config").arg(config(&files));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let (state, socket) = (files.path().join("state"), control_socket(&files));
        Ok(Self { command, files, policy, cgroup_root: cgroup_root.to_owned(), state, socket })
    }

    /// Keeps its state in this directory, where the next agent finds it.
    pub fn with_state(mut self, folder: &Path) -> Self {
        folder.clone_into(&mut self.state);
        self
    }

    /// Answers on this socket.
    pub fn answering_at(mut self, socket: &Path) -> Self {
        socket.clone_into(&mut self.socket);
        self
    }

    fn spawn(&mut self) -> Result<Child> {
        self.add_paths();
        self.command.spawn().context("nsenter cannot be started (package util-linux)")
    }

    /// Refuse nothing, report what would be.
    pub fn dry_run(mut self) -> Self {
        self.command.arg("--dry-run");
        self
    }

    /// As by default: what it enforces outlives it.
    pub fn kept(self) -> Result<Self> {
        fs::write(config(&self.files), "")?;
        Ok(self)
    }

    /// With a variable in its environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// May open no more than so many files: where it needs another, something fails.
    pub fn with_files(self, most: u32) -> Self {
        let Self { command: alone, .. } = &self;
        let mut command = Command::new("prlimit");
        command.arg(format!("--nofile={most}")).arg(alone.get_program()).args(alone.get_args());
        command.envs(alone.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self { command, ..self }
    }

    /// With more in its agent.toml.
    pub fn settings(self, toml: &str) -> Result<Self> {
        let path = config(&self.files);
        fs::write(&path, fs::read_to_string(&path)? + toml)?;
        Ok(self)
    }

    /// Keeps the terminal's Ctrl-C from it: whoever started it stops it.
    pub fn in_own_group(mut self) -> Self {
        self.command.process_group(0);
        self
    }

    /// Starts it and waits until it says that it is ready.
    pub fn start(mut self) -> Result<Agent> {
        self.command.args(["--output", "json"]);
        let mut child = self.spawn()?;
        let denials = Denials::collect(child.stdout.take().context("no standard output")?);
        let unread = Arc::default();
        let log = read_log(child.stderr.take().context("no standard error")?, Arc::clone(&unread));
        let Self { files, policy, cgroup_root, socket, .. } = self;
        let mut agent = Agent {
            child,
            denials,
            log,
            unread,
            said: Vec::new(),
            stopped: false,
            _files: files,
            policy,
            cgroup_root,
            socket,
        };
        agent.wait_until_ready()?;
        Ok(agent)
    }

    fn add_paths(&mut self) {
        let Self { command, state, socket, .. } = self;
        command.arg("--state-dir").arg(state).arg("--control-socket").arg(socket);
    }

    /// Starts it in a terminal of its own, and waits until it says there that it is ready.
    pub fn start_in_terminal(mut self) -> Result<Terminal> {
        self.add_paths();
        let words = std::iter::once(self.command.get_program()).chain(self.command.get_args());
        let quoted = words.map(|word| format!("'{}'", word.to_string_lossy().replace('\'', r"'\''")));
        let mut child = Command::new("script")
            .args(["--quiet", "--flush", "--command", &quoted.collect::<Vec<_>>().join(" "), "/dev/null"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("script cannot be started (package bsdutils)")?;
        let mut shown = BufReader::new(child.stdout.take().context("no standard output")?).lines();
        let ready = shown.by_ref().map_while(Result::ok).any(|line| line.starts_with("ready:"));
        let terminal = Terminal { child, _files: self.files };
        ensure!(ready, "the agent ended before it was ready");
        Ok(terminal)
    }

    /// Starts it and kills it after a while, ready or not.
    pub fn start_and_kill(mut self, after: Duration) -> Result<()> {
        let mut child = self.spawn()?;
        thread::sleep(after);
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Starts it, expects that it ends by itself, and tells how.
    pub fn end(mut self) -> Result<Output> {
        let mut child = self.spawn()?;
        let Some(_) = wait(&mut child, STOP)? else {
            child.kill()?;
            let output = child.wait_with_output()?;
            bail!("the agent did not end by itself: {}", String::from_utf8_lossy(&output.stderr));
        };
        Ok(child.wait_with_output()?)
    }
}

/// A running agent. Dropping it kills it; [`Agent::stop`] is the orderly way.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    denials: Denials,
    log: Receiver<String>,
    unread: Arc<AtomicBool>,
    said: Vec<String>,
    stopped: bool,
    _files: TempDir,
    policy: PathBuf,
    cgroup_root: PathBuf,
    socket: PathBuf,
}

impl Agent {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it reports.
    pub fn denials(&self) -> &Denials {
        &self.denials
    }

    /// The policy file that it was started with.
    pub fn policy_file(&self) -> &Path {
        &self.policy
    }

    /// Where it answers.
    pub fn control_socket(&self) -> &Path {
        &self.socket
    }

    /// What `bulkhead status --output json` answers.
    pub fn status(&self) -> Result<Value> {
        let last = Instant::now() + stretched(ANSWER);
        loop {
            let output = Command::new(artifact::agent()?)
                .args(["status", "--output", "json", "--control-socket"])
                .arg(self.control_socket())
                .output()?;
            if output.status.success() {
                return Ok(serde_json::from_slice(&output.stdout)?);
            }
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(Instant::now() + ANSWER < last, "bulkhead status: {}\n{said}", output.status);
        }
    }

    /// Runs `bulkhead` as an operator on its machine would, to ask something of it.
    pub fn tell(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(artifact::agent()?);
        command.args(arguments).arg("--control-socket").arg(&self.socket);
        Ok(command.output()?)
    }

    /// Asks it to read its policy files anew.
    pub fn reload(&self) -> Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.pid())?), Signal::SIGHUP)?)
    }

    /// Stops it in its tracks until the answer is dropped: what happens meanwhile is the kernel's doing.
    pub fn pause(&self) -> Result<Paused> {
        let pid = Pid::from_raw(i32::try_from(self.pid())?);
        kill(pid, Signal::SIGSTOP)?;
        Ok(Paused(pid))
    }

    /// Asks it to stop as systemd does, and wants a clean end: exit status 0, and not one program left.
    pub fn stop(self) -> Result<Denials> {
        self.stop_by(Signal::SIGTERM)
    }

    /// Asks it to stop by a signal, and wants a clean end: exit status 0, and not one program left.
    pub fn stop_by(mut self, signal: Signal) -> Result<Denials> {
        ensure!(
            !attached(&self.cgroup_root)?.is_empty(),
            "no program is attached while the agent runs: bpftool sees nothing, or the agent does nothing"
        );
        self.end_by(signal)?;
        let left = attached(&self.cgroup_root)?;
        ensure!(left.is_empty(), "programs are left attached: {left:?}");
        self.stopped = true;
        Ok(self.denials.clone())
    }

    /// Asks one that was [kept](Launch::kept) to stop as systemd does, and wants a clean end that leaves its programs at work.
    pub fn leave(mut self) -> Result<()> {
        self.end_by(Signal::SIGTERM)?;
        ensure!(!attached(&self.cgroup_root)?.is_empty(), "the agent took its programs with it");
        self.stopped = true;
        Ok(())
    }

    /// Asks it to stop as systemd does, whatever it leaves; what it has said.
    pub fn end(mut self) -> Result<String> {
        self.end_by(Signal::SIGTERM)?;
        self.stopped = true;
        // All that it says has been read once the reader ends with it.
        self.said.extend(self.log.iter());
        Ok(self.said.join("\n"))
    }

    /// Kills it: no handler of its own runs.
    pub fn kill(mut self) -> Result<()> {
        self.kill_in_place()
    }

    /// The same of one that another will take the place of.
    pub fn kill_in_place(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        self.stopped = true;
        Ok(())
    }

    fn end_by(&mut self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.pid())?), signal)?;
        let status = wait(&mut self.child, STOP)?
            .ok_or_else(|| anyhow!("the agent is still there {STOP:?} after {signal}:\n{}", self.said()))?;
        ensure!(status.success(), "the agent ended with {status} after {signal}:\n{}", self.said());
        Ok(())
    }

    /// Reads no more of what it says on standard error, without closing it, until `read` again.
    pub fn read(&self, reads: bool) {
        self.unread.store(!reads, Ordering::Relaxed);
    }

    /// Everything that it said on standard error so far.
    pub fn said(&mut self) -> String {
        self.said.extend(self.log.try_iter());
        self.said.join("\n")
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let end = Instant::now() + stretched(START);
        loop {
            match self.log.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    let ready = is_ready(&line);
                    self.said.push(line);
                    if ready {
                        return Ok(());
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!("not ready within {:?}:\n{}", stretched(START), self.said())
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait()?;
                    bail!("the agent ended with {status} before it was ready:\n{}", self.said());
                }
            }
        }
    }
}

/// A terminal with an agent in it. Dropping it closes it.
#[derive(Debug)]
pub struct Terminal {
    child: Child,
    _files: TempDir,
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // With the process that holds its other end; the kernel tells those in it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An agent that does not run.
#[derive(Debug)]
pub struct Paused(Pid);

impl Drop for Paused {
    fn drop(&mut self) {
        // Who ended it meanwhile has been told.
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !self.stopped {
            // A test has failed: what was seen here tells why.
            eprintln!("the agent said:\n{}\nit reported:{}", self.said(), self.denials);
        }
    }
}

fn config(files: &TempDir) -> PathBuf {
    files.path().join("agent.toml")
}

fn control_socket(files: &TempDir) -> PathBuf {
    files.path().join("control.sock")
}

/// Does the agent say that every connection meets its programs from now on?
fn is_ready(line: &str) -> bool {
    serde_json::from_str::<Value>(line).is_ok_and(|said| said["status"] == "ready")
}

/// Where the kernel has programs attached by links to a cgroup or below, as another tool than ours sees it. (Not by
/// `bpftool cgroup`: a newer one sees nothing on a kernel that does not know all its hooks.)
pub fn attached(cgroup: &Path) -> Result<Vec<String>> {
    let list = || -> Result<Output> {
        let mut bpftool = Command::new("bpftool");
        bpftool
            .args(["--json", "link", "show"])
            .output()
            .context("bpftool cannot be started (package bpftool)")
    };
    // It gives up if a link goes while it lists them, and other tests come and go all the time.
    let end = Instant::now() + stretched(ANSWER);
    let mut output = list()?;
    while !output.status.success() && Instant::now() < end {
        thread::sleep(Duration::from_millis(20));
        output = list()?;
    }
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "bpftool: {}\n{said}", output.status);
    let links: Vec<Value> = serde_json::from_slice(&output.stdout)?;
    let here = cgroup::ids_below(cgroup)?;
    let links = links.iter().filter(|link| link["cgroup_id"].as_u64().is_some_and(|id| here.contains(&id)));
    Ok(links.map(|link| link["attach_type"].as_str().unwrap_or("?").to_owned()).collect())
}

/// How a process ends, or nothing if it does not in time.
fn wait(child: &mut Child, patience: Duration) -> Result<Option<ExitStatus>> {
    let end = Instant::now() + stretched(patience);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() > end {
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn read_log(from: ChildStderr, unread: Arc<AtomicBool>) -> Receiver<String> {
    let (to, log) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            while unread.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(50));
            }
            if to.send(line).is_err() {
                break;
            }
        }
    });
    log
}

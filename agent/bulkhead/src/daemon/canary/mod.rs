//! Before the agent says that it is ready, the programs at work have refused a canary: a process of the agent's own, in a cgroup
//! of its own, which the tables in force isolate for a moment. The same in a dry run, which refuses nobody else.
//!
//! The canary first opens sockets while it may do anything, so that there are some whose packets can be refused later, and so
//! that it is known to be the programs that refuse. It is sent a packet then, and another one when it is isolated, which it
//! must not get.

mod process;

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Write as _},
    net::{SocketAddr, UdpSocket},
    os::unix::{fs::MetadataExt as _, process::CommandExt as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use bulkhead_datapath::DatapathError;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use self::process::{AFTER, BEFORE, IN_PLACE, NAME, OPENED, REFUSED};
pub(crate) use self::process::{be_canary, is_canary};
use super::{enforcement::Enforcement, notify};
use crate::own_cgroup::OwnCgroup;

/// Name of the canary's cgroup, before the number of the agent's process.
const CGROUP: &str = "bulkhead-canary-";

/// How long the canary may take for one step.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why it is not shown that anything is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CanaryError {
    #[error(
        "nothing is sure to be refused on this machine: of a cgroup that the tables in force isolate, {0}. Something keeps \
         the programs from judging, such as another BPF program at this cgroup root or above (`bpftool cgroup tree`), or has \
         detached them; `bulkhead doctor --self-test` tries it again"
    )]
    Passed(String),
    #[error(
        "cannot show that the programs refuse: {0}. `bulkhead doctor` says whether this machine has what that takes"
    )]
    Unshown(&'static str, #[source] io::Error),
    #[error(transparent)]
    Datapath(#[from] DatapathError),
}

/// Shows that the programs at work refuse what the tables in force do not allow.
pub(super) fn is_refused(enforcement: &mut Enforcement) -> Result<(), CanaryError> {
    let started = Instant::now();
    let root = enforcement.root().path().to_owned();
    let cgroup =
        OwnCgroup::make(&root, CGROUP, &[]).map_err(failed("a cgroup cannot be made for a canary"))?;
    let id = fs::metadata(cgroup.path()).map_err(failed("the canary's cgroup cannot be read"))?.ino();
    let mut canary = Canary::start(&cgroup).map_err(failed("the canary cannot be started"))?;
    canary.expect(IN_PLACE)?;
    enforcement.make_canary(id, false)?;
    canary.go_on()?;
    let receivers = canary.receivers()?;
    send(&receivers, BEFORE);
    enforcement.make_canary(id, true)?;
    send(&receivers, AFTER);
    canary.go_on()?;
    canary.expect(REFUSED)?;
    drop((canary, cgroup));
    tracing::debug!(took = ?started.elapsed(), "the canary was refused");
    Ok(())
}

/// Sends each of them this, from a socket of its own. Where the machine does not let it, nothing arrives, which shows nothing.
fn send(receivers: &[SocketAddr], text: &[u8]) {
    for receiver in receivers {
        let sent = UdpSocket::bind((receiver.ip(), 0)).and_then(|socket| socket.send_to(text, receiver));
        if let Err(error) = sent {
            tracing::debug!(%receiver, %error, "the canary is not sent anything");
        }
    }
}

fn failed(what: &'static str) -> impl Fn(io::Error) -> CanaryError {
    move |source| CanaryError::Unshown(what, source)
}

/// The canary's process. Dropping it ends it.
#[derive(Debug)]
struct Canary {
    child: Child,
    orders: ChildStdin,
    said: BufReader<ChildStdout>,
}

impl Canary {
    fn start(cgroup: &OwnCgroup) -> io::Result<Self> {
        let mut child = Command::new("/proc/self/exe")
            .arg0(NAME)
            .arg(cgroup.path())
            .env_remove(notify::SOCKET)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(orders), Some(said)) => Ok(Self { child, orders, said: BufReader::new(said) }),
            _ => Err(io::Error::other("no pipes to it")),
        }
    }

    /// Waits for this word.
    fn expect(&mut self, word: &str) -> Result<(), CanaryError> {
        let said = self.line()?;
        if said == word { Ok(()) } else { Err(CanaryError::Passed(said)) }
    }

    /// Waits until it has opened its sockets, and says which of them can be sent to.
    fn receivers(&mut self) -> Result<Vec<SocketAddr>, CanaryError> {
        let said = self.line()?;
        let mut words = said.split(' ');
        if words.next() != Some(OPENED) {
            return Err(CanaryError::Passed(said));
        }
        Ok(words.filter_map(|word| word.parse().ok()).collect())
    }

    /// What it says next; something, for one that has ended says nothing.
    fn line(&mut self) -> Result<String, CanaryError> {
        let said = self.read().map_err(failed("the canary does not answer"))?;
        match said.trim_end() {
            "" => Err(failed("the canary ended at once")(io::ErrorKind::UnexpectedEof.into())),
            said => Ok(said.to_owned()),
        }
    }

    /// What it says next. It says one line at a time, whole.
    fn read(&mut self) -> io::Result<String> {
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).map_err(io::Error::other)?;
            match poll(&mut [PollFd::new(self.said.get_ref(), PollFlags::IN)], Some(&left)) {
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(_) => break,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let mut line = String::new();
        self.said.read_line(&mut line)?;
        Ok(line)
    }

    /// Lets it take its next step.
    fn go_on(&mut self) -> Result<(), CanaryError> {
        self.orders.write_all(b"\n").map_err(failed("the canary does not listen"))
    }
}

impl Drop for Canary {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

//! A process that opens sockets and uses them on command, and what a test sees of it.

mod protocol;

use std::{
    cell::RefCell,
    io::{BufRead as _, BufReader, Write as _},
    net::{IpAddr, SocketAddr},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;

pub use self::protocol::{Answer, Done, Family, Kind, Request, Setting};
use crate::{artifact, cgroup::Cgroup, pace::patience, place::Place};

/// How long a probe waits for an answer that may never come. Long for a LAN that is all memory, short for a test.
pub const PATIENCE: Duration = Duration::from_millis(700);

/// What came of trying to reach somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The other end answered.
    Answered,
    /// The caller was told EPERM, after this time.
    Refused(Duration),
    /// Nothing came back.
    Silence,
    /// The caller was told another error.
    Failed(i32),
}

impl Outcome {
    /// Did it not get through, by word or by silence?
    pub const fn is_blocked(self) -> bool {
        matches!(self, Self::Refused(_) | Self::Silence)
    }

    fn of_error(errno: i32, elapsed: Duration) -> Self {
        match errno {
            EPERM => Self::Refused(elapsed),
            EAGAIN | ETIMEDOUT => Self::Silence,
            other => Self::Failed(other),
        }
    }
}

const EPERM: i32 = 1;
const EAGAIN: i32 = 11;
const ETIMEDOUT: i32 = 110;

/// A probe process. Dropping it ends it.
#[derive(Debug)]
pub struct Probe {
    child: Child,
    lines: RefCell<(ChildStdin, BufReader<ChildStdout>)>,
    /// Where it meets other probes.
    post: TempDir,
}

impl Probe {
    /// Starts one.
    pub fn start(place: &Place<'_>) -> Result<Self> {
        Self::of(&artifact::probe()?, place)
    }

    /// Starts one by another path to its program: the file's name is its command name.
    pub fn of(program: &Path, place: &Place<'_>) -> Result<Self> {
        let mut child = place
            .command(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("nsenter cannot be started (package util-linux)")?;
        let stdin = child.stdin.take().context("no standard input")?;
        let stdout = child.stdout.take().context("no standard output")?;
        Ok(Self { child, lines: RefCell::new((stdin, BufReader::new(stdout))), post: TempDir::new()? })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Gives it one command and waits for the answer.
    pub fn ask(&self, request: &Request) -> Result<Answer> {
        let (input, output) = &mut *self.lines.borrow_mut();
        let mut line = serde_json::to_string(request)?;
        line.push('\n');
        input.write_all(line.as_bytes()).context("the probe is gone")?;
        line.clear();
        output.read_line(&mut line)?;
        ensure!(!line.is_empty(), "the probe ended while asked to {request:?}");
        serde_json::from_str(&line).with_context(|| format!("the probe said {line:?}"))
    }

    /// Makes a socket.
    pub fn open(&self, kind: Kind, family: Family) -> Result<Socket<'_>> {
        match self.ask(&Request::Open { kind, family })?.result {
            Ok(Done::Socket(number)) => Ok(Socket { probe: self, number, kind, family }),
            other => bail!("no {kind:?} socket: {other:?}"),
        }
    }

    /// Only asks for a socket: is one of this kind to be had?
    pub fn try_open(&self, kind: Kind, family: Family) -> Result<Outcome> {
        let answer = self.ask(&Request::Open { kind, family })?;
        Ok(match answer.result {
            Ok(Done::Socket(number)) => {
                drop(Socket { probe: self, number, kind, family });
                Outcome::Answered
            }
            Ok(other) => bail!("no {kind:?} socket: {other:?}"),
            Err(errno) => Outcome::of_error(errno, answer.elapsed),
        })
    }

    /// A server that answers everything with the same bytes. It ends with the probe.
    pub fn serve(&self, kind: Kind, at: impl Into<Where>) -> Result<Server> {
        let Where(to) = at.into();
        self.open(kind, Family::of(to))?.serve(to)
    }

    /// Opens a TCP connection and wants its bytes echoed.
    pub fn tcp(&self, to: SocketAddr) -> Result<Outcome> {
        self.open(Kind::Tcp, Family::of(to))?.connect_and_exchange(to)
    }

    /// Connects a UDP socket, sends a datagram and wants it echoed.
    pub fn udp(&self, to: SocketAddr) -> Result<Outcome> {
        self.open(Kind::Udp, Family::of(to))?.connect_and_exchange(to)
    }

    /// Sends a datagram from a UDP socket that is not connected and wants it echoed.
    pub fn udp_unconnected(&self, to: SocketAddr) -> Result<Outcome> {
        self.open(Kind::Udp, Family::of(to))?.exchange(Some(to))
    }

    /// Sends an ICMP echo request from a raw socket, if it gets one, and wants the reply.
    pub fn ping(&self, to: IpAddr) -> Result<Outcome> {
        let to = SocketAddr::new(to, 0);
        let (kind, family) = (Kind::RawIcmp, Family::of(to));
        match self.try_open(kind, family)? {
            Outcome::Answered => self.open(kind, family)?.exchange(Some(to)),
            refused => Ok(refused),
        }
    }

    /// Makes one cgroup after the other below `parent`, enters each and opens a TCP connection at once: how often it got
    /// through, and how often it was refused. The cgroups' names end in a number and `ending`.
    pub fn visit(
        &self,
        (parent, name, ending): (&Cgroup, &str, &str),
        count: u32,
        home: &Cgroup,
        to: SocketAddr,
    ) -> Result<(u32, u32)> {
        let request = Request::Visit {
            cgroups: parent.path().join(name),
            ending: ending.to_owned(),
            count,
            home: home.procs(),
            to,
        };
        match self.ask(&request)?.result {
            Ok(Done::Visited { through, refused }) => Ok((through, refused)),
            other => bail!("{} cannot be visited: {other:?}", parent.path().display()),
        }
    }

    /// Moves it to another cgroup. Its sockets stay those of the cgroup that made them.
    pub fn move_to(&self, cgroup: &Cgroup) -> Result<()> {
        let moved = self.ask(&Request::Move { procs: cgroup.procs() })?.result;
        ensure!(moved == Ok(Done::Nothing), "{} cannot be entered: {moved:?}", cgroup.path().display());
        Ok(())
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        // It may be gone by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address to serve at. Without a port a free one is taken.
#[derive(Clone, Copy, Debug)]
pub struct Where(SocketAddr);

impl From<SocketAddr> for Where {
    fn from(address: SocketAddr) -> Self {
        Self(address)
    }
}

impl From<IpAddr> for Where {
    fn from(address: IpAddr) -> Self {
        Self(SocketAddr::new(address, 0))
    }
}

/// A server in a probe.
#[derive(Clone, Copy, Debug)]
pub struct Server {
    /// What it speaks.
    pub kind: Kind,
    /// Where it is bound.
    pub address: SocketAddr,
}

/// A socket in a probe. Dropping it closes it.
#[derive(Debug)]
pub struct Socket<'a> {
    probe: &'a Probe,
    number: u32,
    kind: Kind,
    family: Family,
}

impl Socket<'_> {
    /// Connects it.
    pub fn connect(&self, to: SocketAddr) -> Result<Outcome> {
        // SCTP before RFC 9260 repeats a lost packet after three seconds.
        let limit = if self.kind == Kind::Sctp { 4 * PATIENCE } else { PATIENCE };
        self.outcome(&Request::Connect { socket: self.number, to, patience: patience(limit) })
    }

    /// Connects it, sends and wants an answer.
    pub fn connect_and_exchange(&self, to: SocketAddr) -> Result<Outcome> {
        match self.connect(to)? {
            Outcome::Answered => self.exchange(None),
            other => Ok(other),
        }
    }

    /// Connects it and sends in one, and wants an answer.
    pub fn connect_with_data(&self, to: SocketAddr) -> Result<Outcome> {
        let bytes = b"a question in haste".to_vec();
        let request =
            Request::ConnectWithData { socket: self.number, to, bytes, patience: patience(PATIENCE) };
        match self.outcome(&request)? {
            Outcome::Answered => self.receive(),
            other => Ok(other),
        }
    }

    /// Takes its peer away.
    pub fn disconnect(&self) -> Result<()> {
        self.succeed(&Request::Disconnect { socket: self.number })
    }

    /// Accepts connections and does nothing with them.
    pub fn listen(&self) -> Result<()> {
        self.succeed(&Request::Listen { socket: self.number })
    }

    /// Ends what it sends, receives or listens to.
    pub fn shut_down(&self) -> Result<()> {
        self.succeed(&Request::ShutDown { socket: self.number })
    }

    /// Sends with another hop limit.
    pub fn limit_hops(&self, hops: u8) -> Result<()> {
        self.succeed(&Request::HopLimit { socket: self.number, hops })
    }

    /// Sets something on it.
    pub fn set(&self, setting: Setting) -> Result<()> {
        self.succeed(&Request::Set { socket: self.number, setting })
    }

    /// Sends a datagram to each of `to` in one call; tells how many the kernel took.
    pub fn send_many(&self, to: &[SocketAddr]) -> Result<u32> {
        let bytes = b"a question to all".to_vec();
        match self.probe.ask(&Request::SendMany { socket: self.number, to: to.to_vec(), bytes })?.result {
            Ok(Done::Sent(taken)) => Ok(taken),
            Err(EPERM) => Ok(0),
            other => bail!("nothing was sent: {other:?}"),
        }
    }

    /// A server on a socket that is bound already: it answers everything with the same bytes.
    pub fn answer(self) -> Result<()> {
        self.succeed(&Request::Serve { socket: self.number })
    }

    /// Leaves the kernel no memory to note anything on it.
    pub fn fill_memory(&self) -> Result<()> {
        self.succeed(&Request::FillMemory { socket: self.number })
    }

    /// A server that answers everything with the same bytes. It ends with the probe.
    pub fn serve(self, at: impl Into<Where>) -> Result<Server> {
        let address = self.bind(at)?;
        self.succeed(&Request::Serve { socket: self.number })?;
        Ok(Server { kind: self.kind, address })
    }

    /// Binds it to an address and a free port.
    pub fn bind(&self, to: impl Into<Where>) -> Result<SocketAddr> {
        let Where(to) = to.into();
        match self.probe.ask(&Request::Bind { socket: self.number, to })?.result {
            Ok(Done::Address(address)) => Ok(address),
            other => bail!("{to} cannot be bound: {other:?}"),
        }
    }

    /// The address and port that it has.
    pub fn address(&self) -> Result<SocketAddr> {
        match self.probe.ask(&Request::Address { socket: self.number })?.result {
            Ok(Done::Address(address)) => Ok(address),
            other => bail!("the socket has no address: {other:?}"),
        }
    }

    /// Sends, and waits for an answer. `to` is for sockets that are not connected.
    pub fn exchange(&self, to: Option<SocketAddr>) -> Result<Outcome> {
        match self.send(to)? {
            Outcome::Answered => self.receive(),
            other => Ok(other),
        }
    }

    /// Only sends. `Answered` means that the kernel took it.
    pub fn send(&self, to: Option<SocketAddr>) -> Result<Outcome> {
        let bytes = match (self.kind, self.family) {
            (Kind::RawIcmp | Kind::PingSocket, Family::V4) => echo_request(8, true),
            (Kind::RawIcmp | Kind::PingSocket, Family::V6) => echo_request(128, false),
            _ => b"a question".to_vec(),
        };
        self.outcome(&Request::Send { socket: self.number, to, bytes })
    }

    /// Sends a datagram so many times, to each of `to` in turn or to whom it is connected; tells how many were taken.
    pub fn repeat(&self, to: &[SocketAddr], bytes: Vec<u8>, times: u32) -> Result<u32> {
        let request = Request::Repeat { socket: self.number, to: to.to_vec(), bytes, times };
        match self.probe.ask(&request)?.result {
            Ok(Done::Sent(taken)) => Ok(taken),
            other => bail!("nothing was sent: {other:?}"),
        }
    }

    /// Sends packets in turn, so many in all; tells how many were taken.
    pub fn repeat_each(&self, to: SocketAddr, packets: &[Vec<u8>], times: u32) -> Result<u32> {
        let request = Request::RepeatEach { socket: self.number, to, packets: packets.to_vec(), times };
        match self.probe.ask(&request)?.result {
            Ok(Done::Sent(taken)) => Ok(taken),
            other => bail!("nothing was sent: {other:?}"),
        }
    }

    /// Sends so many datagrams to a socket of the same probe, to which it is connected; tells how long the sending took.
    pub fn burst(&self, sink: &Self, times: u32) -> Result<Duration> {
        self.took(&Request::Burst { socket: self.number, sink: sink.number, times })
    }

    /// Opens, accepts and closes so many TCP connections to itself, a listener, from this port or from any (0); tells how
    /// long that took.
    pub fn churn(&self, from: u16, times: u32) -> Result<Duration> {
        self.took(&Request::Churn { listener: self.number, from, times })
    }

    /// Sends these bytes as they are.
    pub fn send_bytes(&self, to: SocketAddr, bytes: Vec<u8>) -> Result<Outcome> {
        self.outcome(&Request::Send { socket: self.number, to: Some(to), bytes })
    }

    /// Sends a datagram that bears another address of this host as its source.
    pub fn send_as(&self, source: impl Into<IpAddr>, to: impl Into<SocketAddr>) -> Result<Outcome> {
        let (source, to, bytes) = (source.into(), to.into(), b"a forged question".to_vec());
        self.outcome(&Request::SendAs { socket: self.number, source, to, bytes })
    }

    /// Only waits.
    pub fn receive(&self) -> Result<Outcome> {
        self.outcome(&Request::Receive { socket: self.number, patience: patience(PATIENCE) })
    }

    /// Takes what has come already, and hardly waits.
    pub fn receive_now(&self) -> Result<Outcome> {
        self.outcome(&Request::Receive { socket: self.number, patience: Duration::ZERO })
    }

    /// Hands the socket to another probe, over a Unix socket; this probe's own is closed.
    pub fn pass_to(self, other: &Probe) -> Result<Socket<'_>> {
        let path = other.post.path().join(format!("{}-{}", self.probe.pid(), self.number));
        let ready = other.ask(&Request::Await { path: path.clone() })?.result;
        ensure!(ready == Ok(Done::Nothing), "{} cannot be bound: {ready:?}", path.display());
        self.hand_over(&path)?;
        match other.ask(&Request::Take)?.result {
            Ok(Done::Socket(number)) => {
                Ok(Socket { probe: other, number, kind: self.kind, family: self.family })
            }
            failed => bail!("no socket came: {failed:?}"),
        }
    }

    fn hand_over(&self, path: &Path) -> Result<()> {
        let passed = self.probe.ask(&Request::Pass { socket: self.number, path: path.to_owned() })?.result;
        ensure!(passed == Ok(Done::Nothing), "the socket cannot be passed: {passed:?}");
        Ok(())
    }

    /// What may not fail.
    fn succeed(&self, request: &Request) -> Result<()> {
        let done = self.probe.ask(request)?.result;
        ensure!(done == Ok(Done::Nothing), "{request:?}: {done:?}");
        Ok(())
    }

    fn took(&self, request: &Request) -> Result<Duration> {
        match self.probe.ask(request)?.result {
            Ok(Done::Took(time)) => Ok(time),
            other => bail!("{request:?}: {other:?}"),
        }
    }

    fn outcome(&self, request: &Request) -> Result<Outcome> {
        let answer = self.probe.ask(request)?;
        Ok(match answer.result {
            // An end of file is a connection that the other end closed without a word.
            Ok(Done::Bytes(bytes)) if bytes.is_empty() => Outcome::Silence,
            Ok(_) => Outcome::Answered,
            Err(errno) => Outcome::of_error(errno, answer.elapsed),
        })
    }
}

impl Drop for Socket<'_> {
    fn drop(&mut self) {
        // The probe may be gone, and its sockets with it.
        let _ = self.probe.ask(&Request::Close { socket: self.number });
    }
}

/// An echo request (RFC 792, RFC 4443 section 4.1). The kernel computes the checksum of ICMPv6 itself.
fn echo_request(kind: u8, checksummed: bool) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, b'b', b'h', 0, 1];
    message.extend_from_slice(b"anybody there?..");
    if checksummed {
        let words = message.chunks_exact(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])));
        let sum = words.sum::<u32>();
        let folded = (sum & 0xffff) + (sum >> 16);
        let [.., high, low] = (!folded).to_be_bytes();
        (message[2], message[3]) = (high, low);
    }
    message
}

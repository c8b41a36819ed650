//! The canary itself: the agent's program once more, under another name.

use std::{
    ffi::OsString,
    fs,
    io::{self, ErrorKind, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpStream, UdpSocket},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use rustix::io::Errno;

/// What it calls itself.
pub(super) const NAME: &str = "bulkhead-canary";

/// What it says: it is in its cgroup; it has opened its sockets, and those that can be sent to, after a space each; all that it
/// then tried was refused. Anything else is what was not.
pub(super) const IN_PLACE: &str = "in place";
pub(super) const OPENED: &str = "opened";
pub(super) const REFUSED: &str = "refused";

/// What it is sent while it may be asked, and when it may not.
pub(super) const BEFORE: &[u8] = b"before";
pub(super) const AFTER: &[u8] = b"after";

const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// The port that throws away what it gets (RFC 863). Nobody need listen: nothing gets there.
const DISCARD: u16 = 9;

/// How long a connection may take that is not refused at once.
const PATIENCE: Duration = Duration::from_secs(1);

/// Is this process one, by its arguments?
pub(crate) fn is_canary(mut arguments: impl Iterator<Item = OsString>) -> bool {
    arguments.next().is_some_and(|name| name == NAME)
}

/// Does what a canary is for, in the cgroup that its first argument names.
pub(crate) fn be_canary() -> ExitCode {
    let cgroup = std::env::args_os().nth(1).unwrap_or_default();
    match sing(Path::new(&cgroup)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the canary: {error}");
            ExitCode::FAILURE
        }
    }
}

fn sing(cgroup: &Path) -> io::Result<()> {
    fs::write(cgroup.join("cgroup.procs"), "0")?;
    say(IN_PLACE)?;
    wait()?;
    let ways = LOOPBACK.into_iter().map(Way::open).collect::<io::Result<Vec<_>>>()?;
    let own = ways.iter().filter_map(|way| way.receiver.as_ref()?.local_addr().ok());
    say(&own.fold(OPENED.to_owned(), |said, own| format!("{said} {own}")))?;
    wait()?;
    say(ways.iter().find_map(Way::passed).as_deref().unwrap_or(REFUSED))
}

fn say(word: &str) -> io::Result<()> {
    // In one piece: who reads takes a line for whole.
    let mut out = io::stdout().lock();
    out.write_all(format!("{word}\n").as_bytes())?;
    out.flush()
}

fn wait() -> io::Result<()> {
    io::stdin().read_line(&mut String::new()).map(drop)
}

/// A way out, and in.
struct Way {
    address: IpAddr,
    /// Its packets go to the address; it sends nothing yet. None where the machine does not have the address.
    sender: Option<UdpSocket>,
    /// Packets that are sent to it come from the address.
    receiver: Option<UdpSocket>,
}

impl Way {
    fn open(address: IpAddr) -> io::Result<Self> {
        let sender = UdpSocket::bind((address, 0)).and_then(|socket| {
            socket.connect((address, DISCARD))?;
            Ok(socket)
        });
        let receiver = UdpSocket::bind((address, 0)).and_then(|socket| {
            socket.set_nonblocking(true)?;
            Ok(socket)
        });
        Ok(Self { address, sender: unless_refused(sender)?, receiver: unless_refused(receiver)? })
    }

    /// What was not refused, if anything was not: each way out, and then the way in. On loopback the kernel hands a packet
    /// over before the call that sends it returns (`loopback_xmit` in drivers/net/loopback.c), unless it is overloaded.
    fn passed(&self) -> Option<String> {
        let Self { address, sender, receiver } = self;
        let packet = sender.as_ref().map(|socket| ("a packet to", socket.send(b"canary").map(drop)));
        let connection = TcpStream::connect_timeout(&(*address, DISCARD).into(), PATIENCE).map(drop);
        let out = packet.into_iter().chain([("a connection to", connection)]).find_map(|(what, outcome)| {
            let how = match outcome {
                Ok(()) => "passed".to_owned(),
                Err(error) if error.kind() == ErrorKind::PermissionDenied => return None,
                // The kernel does without this family of addresses.
                Err(error) if Errno::from_io_error(&error) == Some(Errno::AFNOSUPPORT) => return None,
                Err(error) => format!("was not refused ({error})"),
            };
            Some(format!("{what} {address} {how}"))
        });
        out.or_else(|| {
            is_in(receiver.as_ref()?, AFTER).then(|| format!("a packet from {address} was received"))
        })
    }
}

/// Has this arrived?
fn is_in(socket: &UdpSocket, text: &[u8]) -> bool {
    let mut buffer = [0; BEFORE.len()];
    // What was sent before is at most one packet, and others may send some: it is not read for ever.
    for _ in 0..16 {
        match socket.recv(&mut buffer) {
            Ok(length) if buffer[..length] == *text => return true,
            Ok(_) => {}
            Err(_) => return false,
        }
    }
    false
}

/// Before it is isolated: others would be taken for the programs.
fn unless_refused<T>(opened: io::Result<T>) -> io::Result<Option<T>> {
    match opened {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(error),
        opened => Ok(opened.ok()),
    }
}

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

/// What it says: it is in its cgroup; it has opened its sockets; all that it then tried was refused. Anything else is what was
/// not.
pub(super) const IN_PLACE: &str = "in place";
pub(super) const OPENED: &str = "opened";
pub(super) const REFUSED: &str = "refused";

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
    let mut ways = Vec::new();
    for address in LOOPBACK {
        ways.push((address, open(address)?));
    }
    say(OPENED)?;
    wait()?;
    say(passed(&ways).as_deref().unwrap_or(REFUSED))
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

/// A socket whose packets go to this address, which sends nothing yet; none where the machine does not have the address.
fn open(address: IpAddr) -> io::Result<Option<UdpSocket>> {
    let opened = UdpSocket::bind((address, 0)).and_then(|socket| {
        socket.connect((address, DISCARD))?;
        Ok(socket)
    });
    match opened {
        // Before it is isolated: others would be taken for the programs.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(error),
        opened => Ok(opened.ok()),
    }
}

/// What was not refused, if anything was not: each way out, by each family of addresses.
fn passed(ways: &[(IpAddr, Option<UdpSocket>)]) -> Option<String> {
    ways.iter().find_map(|(address, socket)| {
        let packet = socket.as_ref().map(|socket| ("a packet to", socket.send(b"canary").map(drop)));
        let connection = TcpStream::connect_timeout(&(*address, DISCARD).into(), PATIENCE).map(drop);
        packet.into_iter().chain([("a connection to", connection)]).find_map(|(what, outcome)| {
            let how = match outcome {
                Ok(()) => "passed".to_owned(),
                Err(error) if error.kind() == ErrorKind::PermissionDenied => return None,
                // The kernel does without this family of addresses.
                Err(error) if Errno::from_io_error(&error) == Some(Errno::AFNOSUPPORT) => return None,
                Err(error) => format!("was not refused ({error})"),
            };
            Some(format!("{what} {address} {how}"))
        })
    })
}

//! Syslog: messages as of RFC 5424, to a local socket, by UDP (RFC 5426) or by TCP (RFC 6587, counted octets).

use std::{
    fmt::{self, Display, Write as _},
    io::{self, Write as _},
    net::{Ipv4Addr, Ipv6Addr, TcpStream, ToSocketAddrs as _, UdpSocket},
    os::unix::net::UnixDatagram,
    path::PathBuf,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use rustix::io::Errno;

use super::{
    fields::{flat, text},
    worker::{Deliver, Undelivered},
};
use crate::{Denial, human};

/// How long a receiver may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// `daemon` of RFC 5424, section 6.2.1.
const FACILITY: u8 = 3;

/// Name of the structured data. The number is the one kept for examples (RFC 5612): Bulkhead has none of its own.
const STRUCTURE: &str = "bulkhead@32473";

/// Where a syslog listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A Unix datagram socket.
    Local(PathBuf),
    /// Host and port.
    Udp(String),
    /// Host and port.
    Tcp(String),
}

/// Why a text is no [`Address`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It begins like none.
    #[error(
        "`{0}` is no address of a syslog: give a socket's path such as `/dev/log`, `udp://HOST:514` or `tcp://HOST:601`"
    )]
    Unknown(String),
    /// It asks for encryption.
    #[error("syslog over TLS is not supported: send to a syslog on this machine that forwards it")]
    Tls,
    /// It has no host, or no port.
    #[error("`{0}` needs a host and a port, such as `192.0.2.1:514` or `[2001:db8::1]:514`")]
    Incomplete(String),
}

impl Default for Address {
    fn default() -> Self {
        Self::Local("/dev/log".into())
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        match text.split_once("://") {
            Some(("udp", host)) => end(host).map(Self::Udp),
            Some(("tcp", host)) => end(host).map(Self::Tcp),
            Some(("tls" | "tcps", _)) => Err(AddressError::Tls),
            None if text.starts_with('/') => Ok(Self::Local(text.into())),
            _ => Err(AddressError::Unknown(text.to_owned())),
        }
    }
}

fn end(text: &str) -> Result<String, AddressError> {
    let text = text.trim_end_matches('/');
    let whole = text.rsplit_once(':').is_some_and(|(host, port)| {
        let bracketed = host.starts_with('[') && host.ends_with(']');
        !host.is_empty()
            && (bracketed || !host.contains(':'))
            && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if whole { Ok(text.to_owned()) } else { Err(AddressError::Incomplete(text.to_owned())) }
}

impl Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(path) => write!(f, "{}", path.display()),
            Self::Udp(end) => write!(f, "udp://{end}"),
            Self::Tcp(end) => write!(f, "tcp://{end}"),
        }
    }
}

/// A syslog, and the way there once it is found.
pub(super) struct Syslog {
    address: Address,
    hostname: String,
    way: Option<Way>,
}

enum Way {
    Local(UnixDatagram),
    Udp(UdpSocket),
    Tcp(TcpStream),
}

impl Syslog {
    pub(super) fn at(address: Address) -> Self {
        Self { address, hostname: hostname(), way: None }
    }

    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        let way = match &mut self.way {
            Some(way) => way,
            none => none.insert(Way::to(&self.address)?),
        };
        way.send(message)
    }
}

impl Way {
    fn to(address: &Address) -> io::Result<Self> {
        match address {
            Address::Local(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(path)?;
                socket.set_write_timeout(Some(PATIENCE))?;
                Ok(Self::Local(socket))
            }
            Address::Udp(end) => first_of(end, |to| {
                let any =
                    if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
                let socket = UdpSocket::bind::<(std::net::IpAddr, u16)>((any, 0))?;
                socket.connect(to)?;
                Ok(Self::Udp(socket))
            }),
            Address::Tcp(end) => first_of(end, |to| {
                let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
                stream.set_write_timeout(Some(PATIENCE))?;
                stream.set_nodelay(true)?;
                Ok(Self::Tcp(stream))
            }),
        }
    }

    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        match self {
            Self::Local(socket) => socket.send(message).map(drop),
            Self::Udp(socket) => socket.send(message).map(drop),
            Self::Tcp(stream) => {
                if has_ended(stream)? {
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
                let mut frame = format!("{} ", message.len()).into_bytes();
                frame.extend_from_slice(message);
                stream.write_all(&frame)
            }
        }
    }
}

/// Has the receiver closed it? Writing would tell a message too late.
fn has_ended(stream: &TcpStream) -> io::Result<bool> {
    stream.set_nonblocking(true)?;
    let seen = stream.peek(&mut [0]);
    stream.set_nonblocking(false)?;
    match seen {
        Ok(read) => Ok(read == 0),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

/// Tries all addresses that a host has.
fn first_of(end: &str, go: impl Fn(std::net::SocketAddr) -> io::Result<Way>) -> io::Result<Way> {
    let mut last = io::Error::other("the host has no address");
    for to in end.to_socket_addrs()? {
        match go(to) {
            Ok(way) => return Ok(way),
            Err(error) => last = error,
        }
    }
    Err(last)
}

impl Deliver for Syslog {
    fn deliver(&mut self, batch: &[Arc<Denial>]) -> Result<(), Undelivered> {
        for (n, denial) in batch.iter().enumerate() {
            let message = message(denial, &self.hostname);
            if let Err(error) = self.send(message.as_bytes()) {
                // The next attempt begins anew: a connection may have taken half a message.
                self.way = None;
                let too_large = Errno::from_io_error(&error) == Some(Errno::MSGSIZE);
                let why = format!("{}: {error}", self.address);
                return Err(Undelivered { delivered: n, refused: usize::from(too_large), why });
            }
        }
        Ok(())
    }
}

fn message(denial: &Denial, hostname: &str) -> String {
    let severity = if denial.verdict == "denied" { 4 } else { 5 };
    let mut out = String::with_capacity(1024);
    // Writing to a string cannot fail.
    let _ = write!(
        out,
        "<{}>1 {:.6} {hostname} bulkhead {} denial [{STRUCTURE}",
        FACILITY * 8 + severity,
        denial.time,
        std::process::id()
    );
    for (path, value) in flat(denial) {
        let _ = write!(out, " {path}=\"{}\"", Escaped(&human::plain(&text(&value))));
    }
    // Section 6.4: a message in UTF-8 begins with the byte order mark.
    let _ = write!(out, "] \u{feff}{}", human::line(denial));
    out
}

/// Section 6.3.3.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            if matches!(c, '"' | '\\' | ']') {
                f.write_char('\\')?;
            }
            f.write_char(c)?;
        }
        Ok(())
    }
}

/// As section 6.2.4 wants it: printable, and not nothing.
fn hostname() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let fits = !name.is_empty() && name.len() <= 255 && name.bytes().all(|b| b.is_ascii_graphic());
    if fits { name } else { "-".to_owned() }
}

#[cfg(test)]
mod tests;

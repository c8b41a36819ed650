//! The sockets of this probe.

use std::{
    collections::HashMap,
    fs,
    io::{self, IoSlice},
    net::{IpAddr, Shutdown, SocketAddr},
    os::{fd::AsRawFd as _, unix::net::UnixListener},
    thread,
    time::{Duration, Instant},
};

use bulkhead_tests::probe::{Done, Family, Kind, Request, Setting};
use nix::{
    libc::{
        AF_PACKET, AF_TIPC, AF_VSOCK, AF_XDP, IPPROTO_MPTCP, IPPROTO_RAW, IPPROTO_SCTP, IPPROTO_UDPLITE,
        MSG_FASTOPEN, in_addr, in_pktinfo, in6_addr, in6_pktinfo,
    },
    sys::socket::{
        ControlMessage, MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg, sendmsg, setsockopt, sockopt,
    },
};
use rustix::net::connect_unspec;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::{echo, load, memory, pass, visit::Visits};

/// Include/linux/socket.h; libc does not know it.
const AF_SMC: i32 = 43;
/// More than any answer is long.
const BUFFER: usize = 2048;

/// All of them, by number.
#[derive(Default)]
pub(crate) struct Sockets {
    open: HashMap<u32, Held>,
    next: u32,
    post: Option<UnixListener>,
}

struct Held {
    socket: Socket,
    /// What its packets are, where that is ICMP.
    icmp: Option<Family>,
}

impl Sockets {
    /// Does what a test asks.
    pub(crate) fn perform(&mut self, request: Request) -> io::Result<Done> {
        match request {
            Request::Open { kind, family } => {
                let (socket, icmp) = open(kind, family)?;
                Ok(self.hold(Held { socket, icmp }))
            }
            Request::Bind { socket, to } => {
                let socket = &self.held(socket)?.socket;
                if socket.r#type()? == Type::STREAM {
                    // Connections that an earlier test has closed may still be waiting for their last packets.
                    socket.set_reuse_address(true)?;
                }
                bind(socket, &to.into())?;
                Ok(Done::Address(local(socket)?))
            }
            Request::Address { socket } => Ok(Done::Address(local(&self.held(socket)?.socket)?)),
            Request::Serve { socket } => {
                echo::serve(self.take(socket)?.socket)?;
                Ok(Done::Nothing)
            }
            Request::Connect { socket, to, patience } => {
                self.held(socket)?.socket.connect_timeout(&to.into(), patience)?;
                Ok(Done::Nothing)
            }
            Request::ConnectWithData { socket, to, bytes, patience } => {
                let socket = &self.held(socket)?.socket;
                socket.set_write_timeout(Some(patience))?;
                socket.send_to_with_flags(&bytes, &to.into(), MSG_FASTOPEN)?;
                Ok(Done::Nothing)
            }
            Request::Disconnect { socket } => {
                connect_unspec(&self.held(socket)?.socket)?;
                Ok(Done::Nothing)
            }
            Request::Listen { socket } => {
                self.held(socket)?.socket.listen(1)?;
                Ok(Done::Nothing)
            }
            Request::ShutDown { socket } => {
                self.held(socket)?.socket.shutdown(Shutdown::Both)?;
                Ok(Done::Nothing)
            }
            Request::HopLimit { socket, hops } => {
                let socket = &self.held(socket)?.socket;
                socket.set_unicast_hops_v6(hops.into())?;
                socket.set_multicast_hops_v6(hops.into())?;
                Ok(Done::Nothing)
            }
            Request::Set { socket, setting } => {
                set(&self.held(socket)?.socket, setting)?;
                Ok(Done::Nothing)
            }
            Request::SendMany { socket, to, bytes } => {
                send_many(&self.held(socket)?.socket, &to, &bytes).map(Done::Sent)
            }
            Request::FillMemory { socket } => {
                memory::fill(&self.held(socket)?.socket)?;
                Ok(Done::Nothing)
            }
            Request::Send { socket, to, bytes } => {
                let socket = &self.held(socket)?.socket;
                match to {
                    Some(to) => socket.send_to(&bytes, &to.into())?,
                    None => socket.send(&bytes)?,
                };
                Ok(Done::Nothing)
            }
            Request::Repeat { socket, to, bytes, times } => {
                let socket = &self.held(socket)?.socket;
                let to: Vec<SockAddr> = to.into_iter().map(Into::into).collect();
                let mut next = to.iter().cycle();
                let taken = (0..times).filter(|_| match next.next() {
                    Some(to) => socket.send_to(&bytes, to).is_ok(),
                    None => socket.send(&bytes).is_ok(),
                });
                Ok(Done::Sent(u32::try_from(taken.count()).unwrap_or(u32::MAX)))
            }
            Request::RepeatEach { socket, to, packets, times } => {
                let (socket, to) = (&self.held(socket)?.socket, SockAddr::from(to));
                let times = usize::try_from(times).unwrap_or(usize::MAX);
                let sent =
                    packets.iter().cycle().take(times).filter(|bytes| socket.send_to(bytes, &to).is_ok());
                Ok(Done::Sent(u32::try_from(sent.count()).unwrap_or(u32::MAX)))
            }
            Request::Burst { socket, sink, times } => {
                load::burst(&self.held(socket)?.socket, &self.held(sink)?.socket, times).map(Done::Took)
            }
            Request::Churn { listener, from, times } => {
                load::churn(&self.held(listener)?.socket, from, times).map(Done::Took)
            }
            Request::SendAs { socket, source, to, bytes } => {
                send_as(&self.held(socket)?.socket, source, to, &bytes)?;
                Ok(Done::Nothing)
            }
            Request::Receive { socket, patience } => self.held(socket)?.receive(patience).map(Done::Bytes),
            Request::Close { socket } => {
                // A socket that serves belongs to its thread by now.
                self.open.remove(&socket);
                Ok(Done::Nothing)
            }
            Request::Move { procs } => {
                fs::write(procs, "0")?;
                Ok(Done::Nothing)
            }
            Request::Visit { cgroups, ending, count, home, to } => {
                Visits { cgroups: &cgroups, ending: &ending, home: &home, to }.make(count)
            }
            Request::Await { path } => {
                self.post = Some(UnixListener::bind(path)?);
                Ok(Done::Nothing)
            }
            Request::Take => {
                let listener = self.post.take().ok_or(io::ErrorKind::NotConnected)?;
                let socket = pass::receive(&listener)?;
                let icmp = (socket.protocol()?).and_then(|protocol| match protocol {
                    Protocol::ICMPV4 => Some(Family::V4),
                    Protocol::ICMPV6 => Some(Family::V6),
                    _ => None,
                });
                Ok(self.hold(Held { socket, icmp }))
            }
            Request::Pass { socket, path } => {
                pass::send(&self.held(socket)?.socket, &path)?;
                Ok(Done::Nothing)
            }
        }
    }

    fn hold(&mut self, held: Held) -> Done {
        self.next += 1;
        self.open.insert(self.next, held);
        Done::Socket(self.next)
    }

    fn held(&self, number: u32) -> io::Result<&Held> {
        self.open.get(&number).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn take(&mut self, number: u32) -> io::Result<Held> {
        self.open.remove(&number).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Held {
    /// The next bytes; of ICMP the next echo reply, since a raw socket also hears its own requests on loopback.
    fn receive(&self, patience: Duration) -> io::Result<Vec<u8>> {
        let end = Instant::now() + patience;
        loop {
            // A time-out of zero would mean none at all.
            let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            self.socket.set_read_timeout(Some(left))?;
            let bytes = receive(&self.socket)?;
            if self.icmp.is_none_or(|family| is_echo_reply(family, &bytes)) {
                return Ok(bytes);
            }
        }
    }
}

fn open(kind: Kind, family: Family) -> io::Result<(Socket, Option<Family>)> {
    let (domain, icmp) = match family {
        Family::V4 => (Domain::IPV4, Protocol::ICMPV4),
        Family::V6 => (Domain::IPV6, Protocol::ICMPV6),
    };
    let beyond_ip = |family: i32, r#type| Socket::new(Domain::from(family), r#type, None);
    Ok(match kind {
        Kind::Packet => (beyond_ip(AF_PACKET, Type::RAW)?, None),
        Kind::Xdp => (beyond_ip(AF_XDP, Type::RAW)?, None),
        Kind::Vsock => (beyond_ip(AF_VSOCK, Type::STREAM)?, None),
        Kind::Smc => (beyond_ip(AF_SMC, Type::STREAM)?, None),
        Kind::Tipc => (beyond_ip(AF_TIPC, Type::SEQPACKET)?, None),
        Kind::Sctp => (Socket::new(domain, Type::STREAM, Some(Protocol::from(IPPROTO_SCTP)))?, None),
        Kind::RawUdp => (Socket::new(domain, Type::RAW, Some(Protocol::UDP))?, None),
        Kind::Tcp => (Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?, None),
        Kind::Mptcp => (Socket::new(domain, Type::STREAM, Some(Protocol::from(IPPROTO_MPTCP)))?, None),
        Kind::UdpLite => (Socket::new(domain, Type::DGRAM, Some(Protocol::from(IPPROTO_UDPLITE)))?, None),
        Kind::Udp => (Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?, None),
        Kind::RawTcp => (Socket::new(domain, Type::RAW, Some(Protocol::TCP))?, None),
        Kind::RawIp => (Socket::new(domain, Type::RAW, Some(Protocol::from(IPPROTO_RAW)))?, None),
        Kind::RawIcmp => (Socket::new(domain, Type::RAW, Some(icmp))?, Some(family)),
        Kind::PingSocket => (Socket::new(domain, Type::DGRAM, Some(icmp))?, Some(family)),
    })
}

/// ip(7), `IP_PKTINFO`, and ipv6(7), `IPV6_PKTINFO`: the kernel takes any address of this host for the source.
fn send_as(socket: &Socket, source: IpAddr, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
    let (to, bytes) = (SockaddrStorage::from(to), [IoSlice::new(bytes)]);
    let send = |message| sendmsg(socket.as_raw_fd(), &bytes, &[message], MsgFlags::empty(), Some(&to));
    match source {
        IpAddr::V4(source) => send(ControlMessage::Ipv4PacketInfo(&in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: in_addr { s_addr: u32::from_ne_bytes(source.octets()) },
            ipi_addr: in_addr { s_addr: 0 },
        })),
        IpAddr::V6(source) => send(ControlMessage::Ipv6PacketInfo(&in6_pktinfo {
            ipi6_addr: in6_addr { s6_addr: source.octets() },
            ipi6_ifindex: 0,
        })),
    }?;
    Ok(())
}

/// How many the kernel took; an error if it took none.
fn send_many(socket: &Socket, to: &[SocketAddr], bytes: &[u8]) -> io::Result<u32> {
    let to: Vec<_> = to.iter().map(|to| Some(SockaddrStorage::from(*to))).collect();
    let slices = vec![[IoSlice::new(bytes)]; to.len()];
    let mut headers = MultiHeaders::preallocate(to.len(), None);
    let sent = sendmmsg(socket.as_raw_fd(), &mut headers, &slices, &to, [], MsgFlags::empty())?;
    Ok(u32::try_from(sent.count()).unwrap_or(u32::MAX))
}

/// An agent that starts beside this test looks at every socket of the machine: one that is closed in this very moment
/// keeps its port until the agent has let go of it, too.
fn bind(socket: &Socket, to: &SockAddr) -> io::Result<()> {
    let until = Instant::now() + Duration::from_secs(1);
    loop {
        match socket.bind(to) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < until => {
                thread::sleep(Duration::from_millis(5));
            }
            done => return done,
        }
    }
}

fn set(socket: &Socket, setting: Setting) -> io::Result<()> {
    let v4 = socket.domain()? == Domain::IPV4;
    match setting {
        Setting::SharedPort => socket.set_reuse_port(true),
        Setting::Broadcast => socket.set_broadcast(true),
        Setting::ForeignAddress if v4 => socket.set_freebind_v4(true),
        Setting::ForeignAddress => socket.set_freebind_v6(true),
        Setting::Transparent if v4 => socket.set_ip_transparent_v4(true),
        Setting::Transparent => socket.set_ip_transparent_v6(true),
        Setting::LongValue => {
            // The kernel reads a name, up to the first zero.
            let name = ["reno", &"\0".repeat(10_000)].concat();
            Ok(setsockopt(socket, sockopt::TcpCongestion, &name.into())?)
        }
        Setting::Group(IpAddr::V4(group), interface) => socket.join_multicast_v4(&group, &interface),
        Setting::Group(IpAddr::V6(group), _) => socket.join_multicast_v6(&group, 0),
    }
}

fn local(socket: &Socket) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The next bytes; none if the other end closed the connection, or the datagram was empty.
fn receive(mut socket: &Socket) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; BUFFER];
    let length = io::Read::read(&mut socket, &mut buffer)?;
    buffer.truncate(length);
    Ok(buffer)
}

/// A raw IPv4 socket hands over the IP header too, a ping socket and ICMPv6 do not.
fn is_echo_reply(family: Family, bytes: &[u8]) -> bool {
    let icmp = match bytes.first() {
        Some(first) if family == Family::V4 && first >> 4 == 4 => bytes.get(usize::from(first & 0xf) * 4..),
        _ => Some(bytes),
    };
    let reply = if family == Family::V4 { 0 } else { 129 };
    icmp.and_then(<[u8]>::first) == Some(&reply)
}

//! What a test says to a probe and what the probe answers: one JSON object a line each.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// A kind of socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A TCP stream.
    Tcp,
    /// A TCP stream that may use several paths (RFC 8684).
    Mptcp,
    /// UDP datagrams.
    Udp,
    /// UDP datagrams with a checksum of less than all (RFC 3828).
    UdpLite,
    /// An SCTP association that is used as a stream (RFC 6458 section 4).
    Sctp,
    /// A raw socket for TCP segments.
    RawTcp,
    /// A raw socket for UDP datagrams.
    RawUdp,
    /// A raw socket for whole IP packets, headers included.
    RawIp,
    /// A raw socket for ICMP or ICMPv6.
    RawIcmp,
    /// A datagram socket for ICMP echoes ("ping socket").
    PingSocket,
    /// A socket for link-layer frames (packet(7)).
    Packet,
    /// A socket for frames by way of shared memory (`AF_XDP`).
    Xdp,
    /// A stream to another virtual machine or its host (vsock(7)).
    Vsock,
    /// A stream that may go by remote memory access (`AF_SMC`).
    Smc,
    /// Messages between machines of a cluster (`AF_TIPC`).
    Tipc,
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6, and IPv4 in its mapped form.
    V6,
}

impl Family {
    /// The family of an address.
    pub const fn of(address: SocketAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// What can be set on a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Setting {
    /// Others may bind the same address and port, and share what comes (`SO_REUSEPORT`).
    SharedPort,
    /// It may send to everybody on a network (`SO_BROADCAST`).
    Broadcast,
    /// It may be bound to addresses that are not this host's (`IP_FREEBIND`).
    ForeignAddress,
    /// It may also send from them over IPv4 (`IP_TRANSPARENT`).
    Transparent,
    /// TCP's congestion control, by a value that is longer than a page.
    LongValue,
    /// It hears what is sent to a group, on the interface that has this address or on any.
    Group(IpAddr, Ipv4Addr),
}

/// One command. Sockets are known by the number that [`Request::Open`] or [`Request::Take`] answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Make a socket and do nothing with it.
    Open {
        /// What kind.
        kind: Kind,
        /// For which family.
        family: Family,
    },
    /// Bind a socket.
    Bind {
        /// Which.
        socket: u32,
        /// Port 0 takes a free one.
        to: SocketAddr,
    },
    /// Tell the address and port of a socket.
    Address {
        /// Which.
        socket: u32,
    },
    /// Answer everything that comes in with the same bytes, from now on: accepts connections if it is TCP.
    Serve {
        /// Which.
        socket: u32,
    },
    /// Connect a socket.
    Connect {
        /// Which.
        socket: u32,
        /// To whom.
        to: SocketAddr,
        /// How long to wait.
        patience: Duration,
    },
    /// Connect a TCP socket and send bytes at once (TCP Fast Open, RFC 7413).
    ConnectWithData {
        /// Which.
        socket: u32,
        /// To whom.
        to: SocketAddr,
        /// What.
        bytes: Vec<u8>,
        /// How long to wait.
        patience: Duration,
    },
    /// Take a connected socket's peer away (connect(2), `AF_UNSPEC`).
    Disconnect {
        /// Which.
        socket: u32,
    },
    /// Accept connections, in the backlog.
    Listen {
        /// Which.
        socket: u32,
    },
    /// Neither send nor receive any more; what listens does so no more.
    ShutDown {
        /// Which.
        socket: u32,
    },
    /// Send with this hop limit (IPv6).
    HopLimit {
        /// Which.
        socket: u32,
        /// How far.
        hops: u8,
    },
    /// Set something on a socket.
    Set {
        /// Which.
        socket: u32,
        /// What.
        setting: Setting,
    },
    /// Use up the memory that the kernel grants for a socket's options.
    FillMemory {
        /// Which.
        socket: u32,
    },
    /// Send bytes.
    Send {
        /// Through which socket.
        socket: u32,
        /// To whom; left out: to whom it is connected.
        to: Option<SocketAddr>,
        /// What.
        bytes: Vec<u8>,
    },
    /// Send a datagram again and again, and go on if it is refused.
    Repeat {
        /// Through which socket.
        socket: u32,
        /// To whom, in turn; none: to whom it is connected.
        to: Vec<SocketAddr>,
        /// What.
        bytes: Vec<u8>,
        /// How often.
        times: u32,
    },
    /// Send packets in turn, so many in all, and go on if one is refused.
    RepeatEach {
        /// Through which socket.
        socket: u32,
        /// To whom.
        to: SocketAddr,
        /// What.
        packets: Vec<Vec<u8>>,
        /// How often.
        times: u32,
    },
    /// Send datagrams to whom it is connected, a few at a time, and take them out of the socket where they arrive.
    Burst {
        /// Through which socket.
        socket: u32,
        /// Where they arrive: another socket of this probe.
        sink: u32,
        /// How often.
        times: u32,
    },
    /// Open a TCP connection, accept it and close both ends, again and again.
    Churn {
        /// Where it listens: a socket of this probe.
        listener: u32,
        /// From which port; 0: from any.
        from: u16,
        /// How often.
        times: u32,
    },
    /// Send a datagram to each of several in one call (sendmmsg(2)).
    SendMany {
        /// Through which socket.
        socket: u32,
        /// To whom.
        to: Vec<SocketAddr>,
        /// What.
        bytes: Vec<u8>,
    },
    /// Send bytes in a datagram that bears another source address (`IP_PKTINFO`, `IPV6_PKTINFO`).
    SendAs {
        /// Through which socket.
        socket: u32,
        /// An address of this host, or of anybody if the socket may.
        source: IpAddr,
        /// To whom, of the same family.
        to: SocketAddr,
        /// What.
        bytes: Vec<u8>,
    },
    /// Wait for bytes.
    Receive {
        /// From which socket.
        socket: u32,
        /// How long to wait.
        patience: Duration,
    },
    /// Close a socket.
    Close {
        /// Which.
        socket: u32,
    },
    /// Enter another cgroup.
    Move {
        /// Its `cgroup.procs`.
        procs: PathBuf,
    },
    /// Make one cgroup after the other, enter each and open a TCP connection at once; then leave and remove it.
    Visit {
        /// The paths of the cgroups, but for a number at the end of the name.
        cgroups: PathBuf,
        /// What comes after the number.
        ending: String,
        /// How many.
        count: u32,
        /// Where to go afterwards: a `cgroup.procs`.
        home: PathBuf,
        /// To whom.
        to: SocketAddr,
    },
    /// Wait at a Unix socket for another probe's socket.
    Await {
        /// Where.
        path: PathBuf,
    },
    /// The socket that [`Request::Await`] waits for.
    Take,
    /// Send a socket to the probe that waits at a Unix socket.
    Pass {
        /// Which.
        socket: u32,
        /// Where the other waits.
        path: PathBuf,
    },
}

/// What came of a command.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Answer {
    /// What came of it, or the error number.
    pub result: Result<Done, i32>,
    /// How long it took.
    pub elapsed: Duration,
}

/// What a command that succeeded yields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Done {
    /// So many datagrams were taken by the kernel.
    Sent(u32),
    /// Nothing to tell.
    Nothing,
    /// A socket's number.
    Socket(u32),
    /// A socket's own address.
    Address(SocketAddr),
    /// How often a connection was opened, and how often it was refused.
    Visited {
        /// Opened.
        through: u32,
        /// Refused.
        refused: u32,
    },
    /// What was received.
    Bytes(Vec<u8>),
    /// How long it took, but for what was only preparation.
    Took(Duration),
}

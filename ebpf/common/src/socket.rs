use bytemuck::{Pod, Zeroable};

use crate::Address;

/// Who opened a connection, as far as the programs saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Origin {
    /// Nothing seen. Never taken for accepted: either orientation will do only for a connection that is older than
    /// the programs.
    Unknown = 0,
    /// The connect hook saw this socket call connect().
    Initiator = 1,
    /// A SYN reached this listener, or the listener that this socket was accepted from.
    Listener = 2,
}

/// A command name, NUL-padded (`TASK_COMM_LEN`). Words, since for bytes LLVM calls a function to clear or copy them, and
/// calls take stack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(transparent)]
pub struct Command(pub [u64; 2]);

impl Command {
    /// The name's bytes.
    pub fn bytes(&self) -> &[u8; 16] {
        bytemuck::cast_ref(&self.0)
    }
}

/// A process, as the kernel knows it while it calls.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Process {
    /// Process id (of the thread group) in the initial pid namespace; 0: not known.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// Its command name.
    pub comm: Command,
}

/// Value of the socket storage: what the programs know of one socket.
///
/// It is cloned from a listener to the sockets accepted from it (`BPF_F_CLONE`).
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct SocketState {
    /// Cgroup id of the socket's owner: the creator's cgroup. Connect hooks cannot ask the kernel for the cgroup of
    /// a socket that they looked up, so it is noted as the socket is made. 0: not noted.
    pub owner: u64,
    /// Cgroup id of the nearest ancestor of `owner` that was identified when the socket was made, `owner` itself
    /// included; 0: none. It stands in where `owner` is a nested cgroup that has no entry of its own.
    pub anchor: u64,
    /// Cgroup id of the workload last seen at the other end on this host; 0: none. It stands in when the other end's
    /// socket is already gone while this one still closes.
    pub peer: u64,
    /// Vouches for `peer` in what is accepted from a listener: see [`Self::introduction`]. 0: nobody does.
    pub introduced: u64,
    /// [`Origin`] as a number.
    pub origin: u16,
    /// Who lets it name the source of what it sends: `SocketState::BY_*`.
    pub names_source: u16,
    /// Generation in which a would-be refusal of this connection has been reported; 0: none.
    pub reported: u32,
    /// Who created or connected the socket.
    pub process: Process,
    /// Vouches for `anchor`: see [`Self::seal`]. 0: nobody does.
    pub seal: u64,
    /// All packets of the socket's one connection pass, or all of a socket that is in no workload, as the programs'
    /// `cached` writes it; 0: no.
    pub passes: u64,
    /// By [`crate::Direction`] of the packet: the last datagram that passed without a report, or on a listener the last segment
    /// either way, as the programs' `cached` writes it; 0: none.
    pub passed: [u64; 2],
}

impl SocketState {
    /// Anybody may: `IP_FREEBIND` and `IPV6_FREEBIND` (ip(7), ipv6(7)).
    pub const BY_ANYBODY: u16 = 1;
    /// Whoever has `CAP_NET_RAW` or `CAP_NET_ADMIN` over the network namespace: `IP_TRANSPARENT`, `IPV6_TRANSPARENT`, raw
    /// sockets.
    pub const BY_PRIVILEGE: u16 = 2;

    /// What vouches for an anchor that was found while cgroups were what [`crate::GenerationInfo::places`] says. It depends on
    /// both: two CPUs that write a storage at once leave the anchor of one and the seal of the other, which do not fit.
    #[inline(always)]
    pub const fn seal(anchor: u64, places: u32) -> u64 {
        anchor.wrapping_add((places as u64) << 30)
    }

    /// What vouches that `peer` is at the other end of the connection of which a listener keeps the word `passed`. It
    /// depends on both: a listener has many peers, and what is accepted from it may be given the word of one and the peer
    /// of another.
    #[inline(always)]
    pub const fn introduction(peer: u64, passed: u64) -> u64 {
        peer.wrapping_add(passed)
    }
}

/// How many 32-bit words of a packet a verdict kept with a hash depends on: addresses (8), ports, and protocol.
pub const HASH_INPUTS: usize = 10;

/// How many random 64-bit keys the hash of a kept verdict takes: user space draws them, nobody else knows them.
pub const HASH_KEYS: usize = 2 * (HASH_INPUTS + 1);

/// Key of the table of peers that a datagram socket talks to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct PeerFlowKey {
    /// Socket cookie.
    pub cookie: u64,
    /// The peer's address.
    pub address: Address,
    /// The peer's port in the machine's order; the ICMP identifier has no part in it (0).
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Reserved, 0.
    pub reserved: [u8; 5],
}

/// Value of the table of peers that a datagram socket talks to: what opened the exchange. With another layout of it or of
/// its key the table needs another name: agents of other versions read it.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct PeerFlow {
    /// Nanoseconds of `CLOCK_BOOTTIME` of the last packet.
    pub last_seen: u64,
    /// Cgroup id of the workload at the other end on this host as the exchange was opened; 0: none.
    pub peer: u64,
    /// The service port of the opening packet (see [`crate::Flow::port`]).
    pub port: u16,
    /// [`crate::Direction`] of the opening packet.
    pub direction: u8,
    /// 1: the opening packet stayed in its network namespace, and so do its answers, on loopback; 0: it came from elsewhere or
    /// went there, or an agent noted it that did not tell them apart.
    pub on_loopback: u8,
    /// Reserved, 0.
    pub reserved: [u8; 4],
}

impl PeerFlow {
    /// How long an exchange of datagrams may pause before its next packet must be allowed by itself. The kernel's
    /// own tracker forgets an answered UDP stream after the same time (`nf_conntrack_udp_timeout_stream`).
    pub const IDLE_NS: u64 = 120 * 1_000_000_000;
}

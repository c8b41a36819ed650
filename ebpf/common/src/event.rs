use bytemuck::{Pod, Zeroable};

use crate::{Address, Command};

/// The hook family that a record comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Hook {
    /// cgroup/connect4, connect6: the caller is known.
    Connect = 0,
    /// cgroup/sendmsg4, sendmsg6: the caller is known.
    Sendmsg = 1,
    /// `cgroup_skb`: the packet's socket is known.
    Packet = 2,
    /// cgroup/sock_create and the security hooks: the caller is known, and there is no peer yet. The protocol is the
    /// socket's; with [`crate::Reason::UnseenSocket`] the port is an [`crate::Unseen`].
    Create = 3,
}

/// A record of the other ring buffer: a program that a process has begun.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Started {
    /// Cgroup id of the process.
    pub cgroup: u64,
    /// Process id (of the thread group) in the initial pid namespace.
    pub pid: u32,
    /// Reserved, 0.
    pub reserved: u32,
}

/// A record of a ring buffer of its own: a process that is moved out of its workload.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Departure {
    /// Id of the cgroup that it was in.
    pub from: u64,
    /// Id of the cgroup that it is in from now on.
    pub to: u64,
    /// The workload that it was in.
    pub from_subject: u32,
    /// The workload that it is in from now on; 0: none.
    pub to_subject: u32,
    /// Process id (of the thread group) in the initial pid namespace.
    pub pid: u32,
    /// Process id of whoever moves it.
    pub by: u32,
    /// Its command name.
    pub comm: Command,
    /// The command name of whoever moves it.
    pub by_comm: Command,
    /// Number of the generation that names both workloads.
    pub generation: u32,
    /// Reserved, 0.
    pub reserved: u32,
}

/// A record of the ring buffer: one refusal, and how many of its kind there were.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Event {
    /// Nanoseconds of `CLOCK_BOOTTIME`.
    pub time: u64,
    /// Cgroup id of the subject: the caller's, or the socket's.
    pub cgroup: u64,
    /// Cgroup id of the workload at the other end, if it is a socket on this host; else 0.
    pub peer_cgroup: u64,
    /// Socket cookie.
    pub cookie: u64,
    /// When the entry in the table of refusals was made that counts this kind (see [`crate::Refusal`]); 0: there was no
    /// room for one, and the record stands for itself alone.
    pub born: u64,
    /// Refusals of this kind since then, this one included.
    pub total: u64,
    /// The other end's address.
    pub peer_address: Address,
    /// The subject.
    pub subject: u32,
    /// The workload at the other end; 0: none.
    pub peer_subject: u32,
    /// Class of the other end's workload, or of its address; 0: none.
    pub peer_class: u32,
    /// The rule, or `u32::MAX`.
    pub rule: u32,
    /// Number of the generation that decided.
    pub generation: u32,
    /// Process id (of the thread group) in the initial pid namespace; 0: not known.
    pub pid: u32,
    /// The process's user; means nothing where `pid` is 0.
    pub uid: u32,
    /// The service port (see [`crate::Flow::port`]).
    pub port: u16,
    /// The other end's own port; equal to `port` for egress.
    pub peer_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// [`crate::Direction`] as a number.
    pub direction: u8,
    /// [`crate::Verdict`] as a number.
    pub verdict: u8,
    /// [`crate::Reason`] as a number.
    pub reason: u8,
    /// [`Hook`] as a number.
    pub hook: u32,
    /// The process's command name.
    pub comm: Command,
}

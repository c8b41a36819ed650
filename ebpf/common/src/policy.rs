use bytemuck::{Pod, Zeroable};

use crate::{Direction, Protocol};

/// Number of a subject within one generation. 0 is nobody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(transparent)]
pub struct SubjectId(pub u32);

impl SubjectId {
    /// No workload of ours.
    pub const NONE: Self = Self(0);
    /// Stands for every cgroup that must be in a workload but could not be told which.
    pub const UNIDENTIFIED: Self = Self(u32::MAX);
    /// The cgroup by which an agent shows, as it starts, that its programs refuse: nobody's traffic. It has no rule.
    pub const CANARY: Self = Self(u32::MAX - 1);
}

/// Number of a class of peers within one generation: peers that no rule tells apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(transparent)]
pub struct PeerId(pub u32);

impl PeerId {
    /// No class of its own: nothing but a rule for [`PeerId::ANY`] matches.
    pub const NONE: Self = Self(0);
    /// Key of rules that hold for every peer.
    pub const ANY: Self = Self(u32::MAX);
}

/// Number of a rule within one generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(transparent)]
pub struct RuleId(pub u32);

impl RuleId {
    /// No rule.
    pub const NONE: Self = Self(u32::MAX);
}

/// A local end: value of the table cgroup id (`u64`) -> endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct Endpoint {
    /// Whose allowlist is asked.
    pub subject: SubjectId,
    /// The class that others see this end as.
    pub peer: PeerId,
    /// `Endpoint::ISOLATE_*`, `Endpoint::AUDIT`, `Endpoint::RAW_*`.
    pub flags: u32,
}

impl Endpoint {
    /// What it opens needs a rule.
    pub const ISOLATE_EGRESS: u32 = 1;
    /// What is opened to it needs a rule.
    pub const ISOLATE_INGRESS: u32 = 2;
    /// Refuse nothing; mark what would be refused.
    pub const AUDIT: u32 = 4;

    /// Nobody's end: never isolated.
    pub const UNMATCHED: Self = Self { subject: SubjectId::NONE, peer: PeerId::NONE, flags: 0 };

    /// Does this end need a rule for flows in `direction`?
    #[inline(always)]
    pub const fn isolates(&self, direction: Direction) -> bool {
        let flag = match direction {
            Direction::Egress => Self::ISOLATE_EGRESS,
            Direction::Ingress => Self::ISOLATE_INGRESS,
        };
        self.flags & flag != 0
    }

    /// Is nothing refused here, only marked?
    #[inline(always)]
    pub const fn audits(&self) -> bool {
        self.flags & Self::AUDIT != 0
    }
}

/// What an address stands for: value of the longest-prefix table address -> peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct PeerEntry {
    /// Class of the address.
    pub class: PeerId,
    /// The workload that has this address to itself (a network namespace of its own), or [`SubjectId::NONE`].
    pub subject: SubjectId,
    /// `PeerEntry::LOCAL`, `PeerEntry::AUDITED`.
    pub flags: u32,
}

impl PeerEntry {
    /// An address of this machine: a socket here may own it, and then the socket tells who it is.
    pub const LOCAL: u32 = 1;
    /// Nothing is refused to the workload that has it to itself, only marked: see [`Endpoint::AUDIT`].
    pub const AUDITED: u32 = 2;

    /// An address that no entry covers.
    pub const UNKNOWN: Self = Self { class: PeerId::NONE, subject: SubjectId::NONE, flags: 0 };
}

/// Key of the policy table, a longest-prefix trie: everything up to `direction` must be equal, then protocol and
/// port are a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct PolicyKey {
    /// Whose allowlist.
    pub subject: SubjectId,
    /// Towards whom; [`PeerId::ANY`] for everybody.
    pub peer: PeerId,
    /// [`Direction`] as a number.
    pub direction: u8,
    /// IP protocol number.
    pub protocol: u8,
    /// Service port in network order, so that an aligned range is a bit prefix.
    pub port: [u8; 2],
    /// 0, and never part of a prefix: it aligns the trie's values, which follow the key in the kernel's node
    /// (kernel/bpf/lpm_trie.c).
    pub reserved: [u8; 4],
}

impl PolicyKey {
    /// Prefix length of an entry for every protocol and port.
    pub const ANY_PROTOCOL: u32 = 72;
    /// Prefix length of an entry for one protocol, every port. Add the length of a port prefix, at most 16.
    pub const ANY_PORT: u32 = 80;
    /// Prefix length of an entry for one port, and of every lookup.
    pub const FULL: u32 = 96;

    /// The key to look up for one connection.
    #[inline(always)]
    pub const fn new(
        subject: SubjectId,
        peer: PeerId,
        direction: Direction,
        protocol: Protocol,
        port: u16,
    ) -> Self {
        Self {
            subject,
            peer,
            direction: direction as u8,
            protocol: protocol.0,
            port: port.to_be_bytes(),
            reserved: [0; 4],
        }
    }
}

/// Value of the policy table.
///
/// The compiler sees to it that a longer prefix never holds less than a shorter one that covers it: the entry found
/// is the last word for its peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct PolicyValue {
    /// The rule that allows, or [`RuleId::NONE`] for what is always allowed.
    pub rule: RuleId,
    /// Reserved, 0.
    pub flags: u32,
    /// Nanoseconds on the tables' clock at which the entry ends; 0: never. The clock is `CLOCK_BOOTTIME` in the
    /// kernel's tables and the Unix epoch in compiled ones.
    pub expires: u64,
}

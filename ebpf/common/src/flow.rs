use crate::{PeerId, SubjectId};

/// Which way a connection was opened, seen from the subject. Replies belong to the flow that they answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Direction {
    /// The subject opened it.
    Egress = 0,
    /// The peer opened it.
    Ingress = 1,
}

impl Direction {
    /// The other way.
    #[inline(always)]
    pub const fn reverse(self) -> Self {
        match self {
            Self::Egress => Self::Ingress,
            Self::Ingress => Self::Egress,
        }
    }
}

/// An IP protocol number (IANA "Protocol Numbers").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Protocol(pub u8);

impl Protocol {
    /// ICMP for IPv4.
    pub const ICMP: Self = Self(1);
    /// TCP. MPTCP's subflows are TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);
    /// ICMP for IPv6.
    pub const ICMPV6: Self = Self(58);
    /// SCTP.
    pub const SCTP: Self = Self(132);
    /// UDP-Lite.
    pub const UDPLITE: Self = Self(136);

    /// Do packets of this protocol begin with a 16-bit source and a 16-bit destination port?
    #[inline(always)]
    pub const fn has_ports(self) -> bool {
        matches!(self, Self::TCP | Self::UDP | Self::SCTP | Self::UDPLITE)
    }

    /// Is this ICMP of either family?
    #[inline(always)]
    pub const fn is_icmp(self) -> bool {
        matches!(self, Self::ICMP | Self::ICMPV6)
    }
}

/// The other end of a flow, as far as it is known.
///
/// A workload on this host is known by its socket, whatever address it uses there; everybody else by the address. An address
/// that a workload has to itself, in a network namespace of its own, is that workload besides what else names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// The workload at the other end; [`SubjectId::NONE`] if it is none of ours or not known.
    pub subject: SubjectId,
    /// Class of that workload, or of the other end's address; [`PeerId::NONE`] if no rule names either.
    pub class: PeerId,
}

/// What a verdict is asked for: one connection, named from the subject's point of view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Who opened it.
    pub direction: Direction,
    /// IP protocol.
    pub protocol: Protocol,
    /// The service port, in the machine's order: the port of the end that did not open the connection. For ICMP
    /// type << 8 | code. 0 for protocols without ports.
    pub port: u16,
    /// The other end.
    pub peer: Peer,
}

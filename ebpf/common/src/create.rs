use crate::{Decision, Direction, Endpoint, Protocol, Reason, RuleId, SubjectId};

/// What a process asks the kernel for with socket(), as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewSocket {
    /// A socket for whole packets of one IP protocol. With `IP_HDRINCL` it writes their headers itself, and no hook
    /// sees where they really go.
    Raw(Protocol),
    /// A socket or device whose packets pass none of the packet programs.
    Unseen(Unseen),
    /// Any other.
    Ordinary,
}

/// A way to the network that passes none of the packet programs: an address family (include/linux/socket.h), or a
/// number beyond those.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unseen(pub u16);

impl Unseen {
    /// `AF_SMC`, and TCP sockets with `IPPROTO_SMC` (Linux 6.11), which become one.
    pub const SMC: Self = Self(43);
    /// `IPPROTO_MPTCP`: before Linux 5.11 its further subflows belong to the kernel's cgroup.
    pub const MPTCP: Self = Self(262);
    /// A TUN or TAP device.
    pub const TUN: Self = Self(1024);

    /// Families whose sockets reach nobody beyond this host, or whose packets the programs see. All others are refused, so
    /// that a family to come is none that was forgotten.
    pub const fn of_family(family: u16) -> Option<Self> {
        match family {
            // AF_UNSPEC (which does not exist), AF_UNIX, AF_INET, AF_INET6, AF_KEY, AF_NETLINK, AF_ALG.
            0 | 1 | 2 | 10 | 15 | 16 | 38 => None,
            other => Some(Self(other)),
        }
    }

    /// The name that reports use; none for what is known by its number only.
    pub const fn name(self) -> Option<&'static str> {
        Some(match self {
            Self(17) => "packet",
            Self(20) => "llc",
            Self(21) => "rds",
            Self(24) => "pppox",
            Self(29) => "can",
            Self(30) => "tipc",
            Self(31) => "bluetooth",
            Self(33) => "rxrpc",
            Self(40) => "vsock",
            Self(42) => "qipcrtr",
            Self::SMC => "smc",
            Self(44) => "xdp",
            Self::MPTCP => "mptcp",
            Self::TUN => "tun",
            _ => return None,
        })
    }
}

/// Raw sockets that rules allow.
impl Endpoint {
    /// Some rule allows ICMP.
    pub const RAW_ICMP: u32 = 1 << 8;
    /// Some rule allows ICMPv6.
    pub const RAW_ICMPV6: u32 = 1 << 9;
    /// Some rule allows TCP.
    pub const RAW_TCP: u32 = 1 << 10;
    /// Some rule allows UDP.
    pub const RAW_UDP: u32 = 1 << 11;
    /// Some rule allows UDP-Lite.
    pub const RAW_UDPLITE: u32 = 1 << 12;
    /// Some rule allows SCTP.
    pub const RAW_SCTP: u32 = 1 << 13;
    /// Some rule allows every protocol.
    pub const RAW_ANY: u32 = 1 << 14;

    /// The flag for one protocol. Those that have none of their own need a rule for every protocol.
    #[inline(always)]
    pub const fn raw_flag(protocol: Protocol) -> u32 {
        match protocol {
            Protocol::ICMP => Self::RAW_ICMP,
            Protocol::ICMPV6 => Self::RAW_ICMPV6,
            Protocol::TCP => Self::RAW_TCP,
            Protocol::UDP => Self::RAW_UDP,
            Protocol::UDPLITE => Self::RAW_UDPLITE,
            Protocol::SCTP => Self::RAW_SCTP,
            _ => Self::RAW_ANY,
        }
    }
}

/// May a process of `local` make this socket?
///
/// Who may open connections to everybody anyway may send raw packets, too; what they are is judged when they are sent.
/// What no program sees nobody who is isolated may have.
#[inline(always)]
pub const fn decide_socket(local: &Endpoint, socket: NewSocket) -> Decision {
    let isolated = match socket {
        NewSocket::Ordinary => false,
        NewSocket::Raw(_) => local.isolates(Direction::Egress),
        NewSocket::Unseen(_) => local.isolates(Direction::Egress) || local.isolates(Direction::Ingress),
    };
    let reason = match socket {
        _ if !isolated => Reason::NotIsolated,
        _ if local.subject.0 == SubjectId::UNIDENTIFIED.0 => Reason::Unidentified,
        NewSocket::Raw(protocol) => {
            let needed = Endpoint::raw_flag(protocol) | Endpoint::RAW_ANY;
            if local.flags & needed == 0 { Reason::RawSocket } else { Reason::Rule }
        }
        NewSocket::Unseen(_) => Reason::UnseenSocket,
        NewSocket::Ordinary => Reason::NotIsolated,
    };
    Decision::new(local, reason, RuleId::NONE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PeerId, Verdict};

    const BOTH: u32 = Endpoint::ISOLATE_EGRESS | Endpoint::ISOLATE_INGRESS;
    const PACKET: NewSocket = NewSocket::Unseen(Unseen(17));

    fn end(flags: u32) -> Endpoint {
        Endpoint { subject: SubjectId(1), peer: PeerId(1), flags }
    }

    #[track_caller]
    fn expect(local: &Endpoint, socket: NewSocket, verdict: Verdict, reason: Reason) {
        assert_eq!(decide_socket(local, socket), Decision { verdict, reason, rule: RuleId::NONE });
    }

    #[test]
    fn a_raw_socket_needs_a_rule_for_its_protocol_or_for_all() {
        let icmp = end(BOTH | Endpoint::RAW_ICMP);
        expect(&icmp, NewSocket::Raw(Protocol::ICMP), Verdict::Allowed, Reason::Rule);
        expect(&icmp, NewSocket::Raw(Protocol::ICMPV6), Verdict::Denied, Reason::RawSocket);
        for protocol in (0..=u8::MAX).map(Protocol) {
            let raw = NewSocket::Raw(protocol);
            expect(&end(BOTH), raw, Verdict::Denied, Reason::RawSocket);
            expect(&end(BOTH | Endpoint::AUDIT), raw, Verdict::WouldDeny, Reason::RawSocket);
            expect(&end(BOTH | Endpoint::RAW_ANY), raw, Verdict::Allowed, Reason::Rule);
            expect(&end(Endpoint::ISOLATE_INGRESS), raw, Verdict::Allowed, Reason::NotIsolated);
        }
    }

    #[test]
    fn what_nobody_sees_no_rule_allows() {
        expect(&end(BOTH | Endpoint::RAW_ANY), PACKET, Verdict::Denied, Reason::UnseenSocket);
        expect(&end(Endpoint::ISOLATE_INGRESS), PACKET, Verdict::Denied, Reason::UnseenSocket);
        expect(&end(Endpoint::ISOLATE_EGRESS), PACKET, Verdict::Denied, Reason::UnseenSocket);
        expect(&end(BOTH | Endpoint::AUDIT), PACKET, Verdict::WouldDeny, Reason::UnseenSocket);
        expect(&end(0), PACKET, Verdict::Allowed, Reason::NotIsolated);
    }

    #[test]
    fn whoever_is_not_identified_may_have_neither() {
        let nobody = Endpoint { subject: SubjectId::UNIDENTIFIED, ..end(BOTH) };
        for socket in [NewSocket::Raw(Protocol::ICMP), PACKET] {
            expect(&nobody, socket, Verdict::Denied, Reason::Unidentified);
        }
        expect(&nobody, NewSocket::Ordinary, Verdict::Allowed, Reason::NotIsolated);
    }

    #[test]
    fn unix_and_ip_sockets_are_seen_and_packet_sockets_are_not() {
        for family in [1, 2, 10, 16] {
            assert_eq!(Unseen::of_family(family), None, "{family}");
        }
        for (family, name) in [(17, "packet"), (40, "vsock"), (43, "smc"), (44, "xdp")] {
            assert_eq!(Unseen::of_family(family).and_then(Unseen::name), Some(name));
        }
        assert_eq!(Unseen::of_family(99), Some(Unseen(99)));
    }
}

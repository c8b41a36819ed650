use crate::{Address, Direction, Protocol};

/// An ICMP message, seen from a local end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// ICMP, or anything else: then it is never essential.
    pub protocol: Protocol,
    /// Type << 8 | code.
    pub kind: u16,
    /// Whether it leaves or arrives.
    pub way: Direction,
    /// The other end's address.
    pub remote: Address,
    /// The hop limit (IPv6) in its header.
    pub hop_limit: u8,
    /// Does the kernel send it by itself, from no process's socket?
    pub is_kernels: bool,
}

impl Message {
    const V4_FRAGMENTATION_NEEDED: u16 = 3 << 8 | 4;
    const V6_PACKET_TOO_BIG: u16 = 2;

    /// The message of this kind that arrives as the network sends it: neighbour discovery with the hop limit that proves it.
    pub fn arriving(protocol: Protocol, kind: u16) -> Self {
        let way = Direction::Ingress;
        Self { protocol, kind, way, remote: Address::default(), hop_limit: u8::MAX, is_kernels: false }
    }

    /// Does IP not work without it (RFC 1191, RFC 4861 section 4, RFC 8201)? Path-MTU errors on their way in, and neighbour
    /// discovery, which never crosses a router and proves it by its hop limit. Only the kernel's own on its way out: a process
    /// could send anything as such.
    #[inline(always)]
    pub fn is_essential(&self) -> bool {
        let arrives = matches!(self.way, Direction::Ingress);
        match self.protocol {
            Protocol::ICMP => arrives && self.kind == Self::V4_FRAGMENTATION_NEEDED,
            Protocol::ICMPV6 => {
                let discovery = matches!(self.kind >> 8, 133..=137) && self.hop_limit == 255;
                let on_link = matches!(self.remote.octets(), [0xfe, 0x80..=0xbf, ..] | [0xff, 0x02, ..]);
                let kernels = arrives || (on_link && self.is_kernels);
                (discovery && kernels) || (arrives && self.kind >> 8 == Self::V6_PACKET_TOO_BIG)
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_mtu_errors_arrive_and_no_others_do() {
        let passes = |protocol, kind| Message::arriving(protocol, kind).is_essential();
        assert!(passes(Protocol::ICMP, 0x0304) && passes(Protocol::ICMPV6, 0x0200));
        assert!(
            !passes(Protocol::ICMP, 0x0303)
                && !passes(Protocol::ICMP, 0x0b00)
                && !passes(Protocol::TCP, 0x0304)
        );
        let leaves = Message { way: Direction::Egress, ..Message::arriving(Protocol::ICMP, 0x0304) };
        assert!(!leaves.is_essential());
    }

    #[test]
    fn discovery_stays_on_the_link_and_leaves_by_the_kernel_alone() {
        let solicitation = Message::arriving(Protocol::ICMPV6, 135 << 8);
        assert!(solicitation.is_essential());
        assert!(!Message { hop_limit: 254, ..solicitation }.is_essential());
        let link = Address::from_octets([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 1]);
        let leaves = Message { way: Direction::Egress, is_kernels: true, remote: link, ..solicitation };
        assert!(leaves.is_essential());
        assert!(!Message { is_kernels: false, ..leaves }.is_essential());
        assert!(!Message { remote: Address::v4([192, 0, 2, 1]), ..leaves }.is_essential());
    }
}

use core::cmp::Ordering;

use bytemuck::{Pod, Zeroable};

/// An IP address: 16 bytes in network order, IPv4 as IPv4-mapped IPv6 (`::ffff:a.b.c.d`, RFC 4291 section 2.5.5.2).
///
/// One form for both families makes an IPv4-mapped IPv6 address and the IPv4 address that it stands for the same
/// peer, which they are: an `AF_INET6` socket reaches an IPv4 peer by the mapped form.
///
/// Held as the four words that it has in memory: of bytes that nobody knows to be aligned, LLVM would copy and compare one
/// at a time, and the verifier follow each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(transparent)]
pub struct Address([u32; 4]);

impl Address {
    /// Length of the prefix that all IPv4 addresses share.
    pub const V4_PREFIX: u32 = 96;

    /// From its bytes.
    #[inline(always)]
    pub const fn from_octets(o: [u8; 16]) -> Self {
        Self([
            u32::from_ne_bytes([o[0], o[1], o[2], o[3]]),
            u32::from_ne_bytes([o[4], o[5], o[6], o[7]]),
            u32::from_ne_bytes([o[8], o[9], o[10], o[11]]),
            u32::from_ne_bytes([o[12], o[13], o[14], o[15]]),
        ])
    }

    /// Its bytes.
    #[inline(always)]
    pub fn octets(self) -> [u8; 16] {
        bytemuck::cast(self.0)
    }

    /// From the four octets of an IPv4 address.
    #[inline(always)]
    pub const fn v4(octets: [u8; 4]) -> Self {
        Self([0, 0, 0xffff_u32.to_be(), u32::from_ne_bytes(octets)])
    }

    /// From the four 32-bit words of `struct bpf_sock_addr` or an IPv6 header, as they lie in memory.
    #[inline(always)]
    pub const fn from_words(words: [u32; 4]) -> Self {
        Self(words)
    }

    /// The four 32-bit words as they lie in memory (network order bytes).
    #[inline(always)]
    pub const fn words(self) -> [u32; 4] {
        self.0
    }

    /// Is this an IPv4 address?
    #[inline(always)]
    pub fn is_v4(self) -> bool {
        let w = self.words();
        w[0] == 0 && w[1] == 0 && w[2] == 0xffff_u32.to_be()
    }

    /// Does a packet for this address stay in its network namespace: 127.0.0.0/8, `::1`, or the unspecified
    /// address, which connect() takes for loopback (`net/ipv4/route.c: ip_route_output_key_hash_rcu`)?
    #[inline(always)]
    pub fn is_loopback(self) -> bool {
        let w = self.words();
        if self.is_v4() {
            return w[3].to_ne_bytes()[0] == 127 || w[3] == 0;
        }
        w[0] == 0 && w[1] == 0 && w[2] == 0 && (w[3] == 0 || w[3] == 1_u32.to_be())
    }
}

impl Ord for Address {
    /// As numbers: in the order of their bytes.
    fn cmp(&self, other: &Self) -> Ordering {
        self.octets().cmp(&other.octets())
    }
}

impl PartialOrd for Address {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl From<core::net::IpAddr> for Address {
    fn from(ip: core::net::IpAddr) -> Self {
        match ip {
            core::net::IpAddr::V4(v4) => Self::v4(v4.octets()),
            core::net::IpAddr::V6(v6) => Self::from_octets(v6.octets()),
        }
    }
}

impl From<Address> for core::net::IpAddr {
    fn from(a: Address) -> Self {
        core::net::Ipv6Addr::from(a.octets()).to_canonical()
    }
}

#[cfg(test)]
mod tests {
    use core::net::IpAddr;

    use super::*;

    fn address(s: &str) -> Address {
        s.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn ipv4_and_its_mapped_form_are_one_address() {
        assert_eq!(address("10.0.3.7"), address("::ffff:10.0.3.7"));
        assert_eq!(IpAddr::from(address("::ffff:10.0.3.7")), "10.0.3.7".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn loopback_is_what_never_leaves_the_namespace() {
        for a in ["127.0.0.1", "127.255.0.9", "::1", "0.0.0.0", "::"] {
            assert!(address(a).is_loopback(), "{a}");
        }
        for a in ["128.0.0.1", "10.0.0.1", "::2", "1::1", "::127.0.0.1", "fe80::1"] {
            assert!(!address(a).is_loopback(), "{a}");
        }
    }
}

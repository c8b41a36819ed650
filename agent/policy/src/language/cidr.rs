use std::{fmt, net::IpAddr, str::FromStr};

use bulkhead_common::Address;

/// A range of addresses of one family.
///
/// It never spans families: `::/0` is every IPv6 address and no IPv4 address, although IPv4 lies inside it in the
/// form that the kernel's tables use (see [`Address`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    first: Address,
    len: u8,
}

/// What is wrong with the text of an address range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CidrError {
    /// It is no address at all.
    NotAnAddress,
    /// The prefix is longer than the address; the longest that can be.
    TooLong(u8),
    /// Bits after the prefix are set; the range that was probably meant.
    HostBits(Cidr),
    /// An IPv4 range in IPv6 clothes, if it can be told, as IPv4.
    Mapped(Option<Cidr>),
}

impl Cidr {
    /// All IPv4 addresses, and all of IPv6.
    pub(crate) const ALL: [Self; 2] =
        [Self::of(Address::v4([0; 4]), 96), Self::of(Address::from_words([0; 4]), 0)];

    /// The range of `ip` alone.
    pub fn single(ip: IpAddr) -> Self {
        Self { first: ip.into(), len: 128 }
    }

    /// Would somebody who writes this mean an address, right or wrong? No name has `:` or `/`, and hardly one is numbers
    /// between dots.
    pub(crate) fn is_meant_by(text: &str) -> bool {
        let is_numbers = text.contains('.') && text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        is_numbers || text.contains(['/', ':'])
    }

    /// From the address's first bits, in the form of [`Address`]: an IPv4 prefix is longer by 96.
    pub(crate) const fn of(first: Address, len: u8) -> Self {
        Self { first, len }
    }

    /// The range around it whose prefix has this length, which is not longer.
    pub(crate) fn widened(self, len: u8) -> Self {
        Self { first: address(bits(self.first) & mask(len)), len }
    }

    /// The lowest address.
    pub fn first(self) -> Address {
        self.first
    }

    /// The highest address.
    pub fn last(self) -> Address {
        address(bits(self.first) | !mask(self.len))
    }

    /// Length of the prefix in bits of an [`Address`]: an IPv4 prefix counts 96 more than it is written with.
    pub fn prefix_len(self) -> u8 {
        self.len
    }

    /// Is this a range of IPv4 addresses?
    pub fn is_v4(self) -> bool {
        u32::from(self.len) >= Address::V4_PREFIX && self.first.is_v4()
    }

    /// Is `other` inside this range?
    pub fn covers(self, other: Self) -> bool {
        self.len <= other.len
            && self.is_v4() == other.is_v4()
            && (bits(self.first) ^ bits(other.first)) & mask(self.len) == 0
    }

    /// Is the address inside this range?
    pub fn holds(self, address: Address) -> bool {
        self.covers(Self { first: address, len: 128 })
    }

    /// The fewest ranges that hold the addresses from `first` to `last`, both of one family.
    pub(crate) fn between(first: Address, last: Address) -> Vec<Self> {
        let (mut next, last) = (bits(first), bits(last));
        let mut ranges = Vec::new();
        loop {
            // As large as the alignment of its first address and the rest permit.
            let rest = last - next;
            let size = next.trailing_zeros().min(128).min(rest.checked_add(1).map_or(128, u128::ilog2));
            ranges.push(Self { first: address(next), len: 128 - u8::try_from(size).unwrap_or(128) });
            let used = u128::MAX.checked_shr(128 - size).unwrap_or(0);
            match next.checked_add(used).and_then(|n| n.checked_add(1)) {
                Some(after) if after <= last => next = after,
                _ => return ranges,
            }
        }
    }

    /// What is left without `hole`, as ranges.
    pub(crate) fn without(self, hole: Self) -> Vec<Self> {
        if !self.covers(hole) {
            return if hole.covers(self) { Vec::new() } else { vec![self] };
        }
        // At each step towards the hole the half that it is not in is left.
        let halves = (self.len + 1..=hole.len).map(|len| {
            let sibling = bits(hole.first) & mask(len) ^ 1 << (128 - len);
            Self { first: address(sibling), len }
        });
        halves.collect()
    }

    /// Have both an address in common?
    pub fn meets(self, other: Self) -> bool {
        self.covers(other) || other.covers(self)
    }
}

/// The address as a number whose high bits come first.
pub(crate) fn bits(address: Address) -> u128 {
    u128::from_be_bytes(address.octets())
}

/// The address with these bits.
pub(crate) fn address(bits: u128) -> Address {
    Address::from_octets(bits.to_be_bytes())
}

/// The first `len` bits set.
pub(crate) fn mask(len: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0)
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(s: &str) -> Result<Self, CidrError> {
        let (ip, written) = match s.split_once('/') {
            Some((ip, len)) => (ip, Some(len)),
            None => (s, None),
        };
        let ip: IpAddr = ip.parse().map_err(|_| CidrError::NotAnAddress)?;
        let (longest, offset) = if ip.is_ipv4() { (32, 96) } else { (128, 0) };
        let len: u8 = match written {
            None => longest,
            // "+1" and "" are numbers to `parse` or nearly so, and no prefix length.
            Some(l) if l.is_empty() || !l.bytes().all(|b| b.is_ascii_digit()) => {
                return Err(CidrError::NotAnAddress);
            }
            Some(l) => l.parse().unwrap_or(u8::MAX),
        };
        if len > longest {
            return Err(CidrError::TooLong(longest));
        }
        let first = Address::from(ip);
        if ip.is_ipv6() && first.is_v4() {
            let v4 = (len >= 96).then(|| Self { first: address(bits(first) & mask(len)), len });
            return Err(CidrError::Mapped(v4));
        }
        let range = Self { first: address(bits(first) & mask(len + offset)), len: len + offset };
        if range.first == first { Ok(range) } else { Err(CidrError::HostBits(range)) }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `IpAddr::from` would turn the IPv6 range ::/0 into itself, and nothing but IPv4 into IPv4.
        let (ip, len, longest) = if self.is_v4() {
            (IpAddr::from(self.first), self.len - 96, 32)
        } else {
            (IpAddr::V6(self.first.octets().into()), self.len, 128)
        };
        if len == longest { write!(f, "{ip}") } else { write!(f, "{ip}/{len}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(s: &str) -> Cidr {
        s.parse().unwrap_or_else(|e| panic!("{s}: {e:?}"))
    }

    #[test]
    fn ranges_are_written_as_they_are_read() {
        for s in ["10.20.0.0/24", "0.0.0.0/0", "::/0", "fd00:40::/64", "192.0.2.7", "2001:db8::1", "::/64"] {
            assert_eq!(cidr(s).to_string(), s);
        }
        assert_eq!(cidr("10.0.0.1/32").to_string(), "10.0.0.1");
    }

    #[test]
    fn no_range_spans_families() {
        assert!(!cidr("::/0").holds("10.0.0.1".parse::<IpAddr>().unwrap().into()));
        assert!(!cidr("::/0").covers(cidr("0.0.0.0/0")));
        assert!(cidr("::/0").covers(cidr("fd00::/8")));
        assert!(cidr("0.0.0.0/0").covers(cidr("10.0.0.0/8")));
        assert!(!cidr("10.0.0.0/8").covers(cidr("0.0.0.0/0")));
    }

    #[test]
    fn mistakes_are_told_apart() {
        let error = |s: &str| s.parse::<Cidr>().expect_err(s);
        assert_eq!(error("10.20.0.7/24"), CidrError::HostBits(cidr("10.20.0.0/24")));
        assert_eq!(error("fd00::1/64"), CidrError::HostBits(cidr("fd00::/64")));
        assert_eq!(error("10.0.0.0/33"), CidrError::TooLong(32));
        assert_eq!(error("::/129"), CidrError::TooLong(128));
        assert_eq!(error("10.0.0.0/999"), CidrError::TooLong(32));
        assert_eq!(error("::ffff:10.0.0.0/104"), CidrError::Mapped(Some(cidr("10.0.0.0/8"))));
        assert_eq!(error("::ffff:0:0/95"), CidrError::Mapped(None));
        for s in ["", "10.0.0", "10.0.0.0/", "10.0.0.0/+8", "10.0.0.0/8/8", "web", "010.0.0.1"] {
            assert_eq!(error(s), CidrError::NotAnAddress, "{s}");
        }
    }

    #[test]
    fn a_range_without_a_hole_is_the_rest() {
        let rest = cidr("10.0.0.0/8").without(cidr("10.64.0.0/10"));
        let rest: Vec<_> = rest.iter().map(Cidr::to_string).collect();
        assert_eq!(rest, ["10.128.0.0/9", "10.0.0.0/10"]);
        assert_eq!(cidr("10.0.0.0/8").without(cidr("192.0.2.0/24")), [cidr("10.0.0.0/8")]);
        assert_eq!(cidr("10.0.0.0/8").without(cidr("10.0.0.0/8")), []);
        assert_eq!(cidr("::/0").without(cidr("10.0.0.0/8")), [cidr("::/0")]);
    }

    #[test]
    fn first_and_last_enclose_the_range() {
        let ip = |a: Address| IpAddr::from(a).to_string();
        assert_eq!(ip(cidr("10.20.0.0/24").last()), "10.20.0.255");
        assert_eq!(ip(cidr("192.0.2.7").last()), "192.0.2.7");
        assert_eq!(ip(cidr("0.0.0.0/0").last()), "255.255.255.255");
    }
}

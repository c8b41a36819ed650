use bulkhead_common::Address;

use crate::language::Cidr;

/// What kind of addresses a range holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Zone {
    /// Routed within an organisation or on a link: `private` in a rule.
    Private,
    /// Routed on the internet: `internet` in a rule.
    Internet,
    /// Neither: loopback, multicast, reserved.
    Special,
}

/// The kinds of addresses; of nested ranges the narrower one counts. docs/policy.md has the same list.
const ZONES: [(&str, Zone); 17] = [
    ("0.0.0.0/0", Zone::Internet),
    ("0.0.0.0/8", Zone::Special),      // "this network", RFC 1122
    ("10.0.0.0/8", Zone::Private),     // RFC 1918
    ("100.64.0.0/10", Zone::Private),  // carrier-grade NAT, RFC 6598
    ("127.0.0.0/8", Zone::Special),    // loopback
    ("169.254.0.0/16", Zone::Private), // link-local, RFC 3927; metadata services of clouds
    ("172.16.0.0/12", Zone::Private),  // RFC 1918
    ("192.168.0.0/16", Zone::Private), // RFC 1918
    ("224.0.0.0/4", Zone::Special),    // multicast
    ("240.0.0.0/4", Zone::Special),    // reserved, and the broadcast address
    ("::/0", Zone::Special),
    ("64:ff9b::/96", Zone::Internet), // NAT64: IPv4 addresses of the internet, RFC 6052
    ("64:ff9b:1::/48", Zone::Private), // NAT64 within an organisation, RFC 8215
    ("2000::/3", Zone::Internet),     // global unicast
    ("fc00::/7", Zone::Private),      // unique local, RFC 4193
    ("fe80::/10", Zone::Private),     // link-local
    ("ff00::/8", Zone::Special),      // multicast
];

impl Zone {
    /// The addresses of this kind as ranges.
    pub(crate) fn disjoint(self) -> Vec<Cidr> {
        let mut ranges = Vec::new();
        for (cidr, _) in Self::ranges().filter(|(_, zone)| *zone == self) {
            let holes =
                Self::ranges().map(|(hole, _)| hole).filter(|hole| *hole != cidr && cidr.covers(*hole));
            ranges.extend(holes.fold(vec![cidr], |parts, hole| {
                parts.into_iter().flat_map(|part| part.without(hole)).collect()
            }));
        }
        ranges
    }

    /// The kind of one address.
    pub(crate) fn of(address: Address) -> Self {
        let holding = Self::ranges().filter(|(cidr, _)| cidr.holds(address));
        holding.max_by_key(|(cidr, _)| cidr.prefix_len()).map_or(Self::Special, |(_, zone)| zone)
    }

    /// All ranges with their kind.
    pub(crate) fn ranges() -> impl Iterator<Item = (Cidr, Self)> {
        ZONES.iter().filter_map(|(text, zone)| Some((text.parse().ok()?, *zone)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_range_is_well_written() {
        assert_eq!(Zone::ranges().count(), ZONES.len());
    }
}

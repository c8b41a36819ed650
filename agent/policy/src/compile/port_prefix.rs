//! Ranges of ports as prefixes.

use crate::language::{PortSpan, Ports};

/// Protocol and port as one number of 24 bits, of which the first `len` count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PortPrefix {
    pub(super) bits: u32,
    pub(super) len: u8,
}

impl PortPrefix {
    /// Every protocol and port.
    const EVERYTHING: Self = Self { bits: 0, len: 0 };

    /// The fewest prefixes that make up what `ports` of a rule opens: none are all of them.
    pub(crate) fn of(ports: &[Ports]) -> Vec<Self> {
        if ports.is_empty() {
            return vec![Self::EVERYTHING];
        }
        let mut all: Vec<_> = ports.iter().flat_map(Ports::spans).flat_map(|span| aligned(*span)).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// How many bits count.
    pub(crate) fn len(self) -> u8 {
        self.len
    }

    /// The same of which only the first `len` bits count.
    pub(crate) fn widened(self, len: u8) -> Self {
        let mask = u32::MAX.checked_shl(24 - u32::from(len)).unwrap_or(0);
        Self { bits: self.bits & mask, len }
    }

    pub(super) fn covers(self, other: Self) -> bool {
        self.len <= other.len && other.widened(self.len) == self
    }
}

/// The fewest prefixes that make up a range of ports.
fn aligned(span: PortSpan) -> Vec<PortPrefix> {
    let mut prefixes = Vec::new();
    let (mut next, last) = (u32::from(span.first), u32::from(span.last));
    while next <= last {
        // As large as the alignment of its first port and the rest of the range permit.
        let alignment = next.trailing_zeros().min(16);
        let size = alignment.min((last - next + 1).ilog2());
        prefixes.push(PortPrefix { bits: u32::from(span.protocol.0) << 16 | next, len: 24 - size as u8 });
        next += 1 << size;
    }
    prefixes
}

#[cfg(test)]
mod tests {
    use bulkhead_common::Protocol;

    use super::*;

    #[test]
    fn a_range_is_the_fewest_prefixes_that_hold_exactly_its_ports() {
        for (first, last, count) in
            [(0, 65535, 1), (443, 443, 1), (8000, 8100, 4), (1, 65535, 16), (1024, 65535, 6), (1, 65534, 30)]
        {
            let prefixes = aligned(PortSpan { protocol: Protocol::TCP, first, last });
            assert_eq!(prefixes.len(), count, "{first}-{last}");
            for port in 0..=u16::MAX {
                let full = PortPrefix { bits: 6 << 16 | u32::from(port), len: 24 };
                let holding = prefixes.iter().filter(|p| p.covers(full)).count();
                assert_eq!(holding, usize::from((first..=last).contains(&port)), "{first}-{last}: {port}");
            }
        }
    }
}

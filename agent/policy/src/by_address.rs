//! A value for every address, found in a few steps however many ranges there are.

use bulkhead_common::Address;

use crate::{
    language::{address, bits},
    steps::Steps,
};

/// What [`Steps`] over [`bits`] say, with IPv4 laid out to be searched: most addresses are.
#[derive(Clone, Debug)]
pub(crate) struct ByAddress<T> {
    all: Steps<T>,
    /// Where the steps of IPv4 begin, and first of all every [`Self::BLOCK`]th of them: few enough to stay in a
    /// processor's own cache, so that a search waits for memory only once or twice.
    blocks: Vec<u32>,
    starts: Vec<u32>,
    values: Vec<T>,
}

impl<T: Copy + PartialEq> From<Steps<T>> for ByAddress<T> {
    fn from(all: Steps<T>) -> Self {
        let [first, last] = [[0; 4], [0xff; 4]].map(|octets| bits(Address::v4(octets)));
        let v4 = || all.ranges(u128::MAX).filter(|(start, end, _)| *end >= first && *start <= last);
        let starts: Vec<_> = v4().map(|(start, ..)| number(address(start.max(first)))).collect();
        let blocks = starts.iter().copied().step_by(Self::BLOCK).collect();
        let values = v4().map(|(.., value)| value).collect();
        Self { all, blocks, starts, values }
    }
}

impl<T> ByAddress<T> {
    /// Four lines of a processor's cache.
    const BLOCK: usize = 64;
}

impl<T: Copy + PartialEq> ByAddress<T> {
    /// The value of one address.
    pub(crate) fn at(&self, address: Address) -> T {
        if !address.is_v4() {
            return self.all.at(bits(address));
        }
        let number = number(address);
        let is_before = |start: &u32| *start <= number;
        // The first block begins with the lowest address.
        let before = Self::BLOCK * (self.blocks.partition_point(is_before) - 1);
        let block = &self.starts[before..self.starts.len().min(before + Self::BLOCK)];
        self.values[before + block.partition_point(is_before) - 1]
    }
}

/// An IPv4 address as a number.
fn number(address: Address) -> u32 {
    let [.., last] = address.words();
    u32::from_be(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::ip;

    #[test]
    fn every_address_has_the_value_of_its_step() {
        let at = |text: &str| bits(ip(text).into());
        let ranges = [
            (at("::"), at("ffff::"), 'a'),
            (at("10.0.0.0"), at("10.255.255.255"), 'b'),
            (at("10.1.0.0"), at("10.1.255.255"), 'c'),
            (at("10.1.0.7"), at("10.1.0.7"), 'd'),
            (at("10.1.255.255"), at("10.1.255.255"), 'e'),
            (at("255.255.255.255"), at("255.255.255.255"), 'f'),
            (at("2001:db8::"), at("2001:db8::ffff"), 'g'),
        ];
        let many = (0..1_000).map(|n| (at("192.0.2.0") + 3 * n, at("192.0.2.0") + 3 * n, 'h'));
        let mut ranges = [ranges.to_vec(), many.collect()].concat();
        ranges.sort_by_key(|(first, last, _)| (*first, !*last));
        let steps = Steps::new('-', ranges);
        let by_address = ByAddress::from(steps.clone());
        for start in steps.ranges(u128::MAX).flat_map(|(first, last, _)| [first, last]) {
            for near in [start.saturating_sub(1), start, start.saturating_add(1)] {
                assert_eq!(by_address.at(address(near)), steps.at(near), "{:?}", address(near));
            }
        }
    }
}

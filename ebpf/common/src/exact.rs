//! Entries of the tables for one address and for one port: most of what a policy comes to. They lie in hash tables, which
//! are asked first, since a look-up takes as many steps however large the policy is; address ranges, port ranges and what
//! does not fit here lie in tries.
//!
//! An entry is one 64-bit word, which nothing tears, and part of it vouches for its key: user space edits these tables
//! while programs read them, and the kernel gives the memory of an entry that has gone to the next one at once
//! (`bpf_mem_cache_free` in kernel/bpf/hashtab.c). Whoever has just found it may read what is another key's by then. Such a
//! word counts as nothing known, which allows nothing.

use bytemuck::{Pod, Zeroable};

use crate::{Address, PeerEntry, PeerId, PolicyKey, PolicyValue, RuleId, SubjectId};

/// What one address stands for: a [`PeerEntry`] in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub struct HostEntry(pub u64);

#[expect(clippy::cast_possible_truncation, reason = "each part is cut out of the word")]
impl HostEntry {
    /// Class and subject have so many bits here, and what vouches for the address the rest of the word.
    const NUMBER_BITS: u32 = 24;
    /// Where the flags of a [`PeerEntry`] lie.
    const FLAGS: u32 = 48;
    const VOUCHES: u32 = 50;

    /// None: the entry does not fit.
    pub fn new(address: Address, entry: &PeerEntry) -> Option<Self> {
        let PeerEntry { class, subject, flags } = *entry;
        let fits = |number: u32| number >> Self::NUMBER_BITS == 0;
        if !fits(class.0) || !fits(subject.0) || flags >> (Self::VOUCHES - Self::FLAGS) != 0 {
            return None;
        }
        let numbers = u64::from(class.0) | u64::from(subject.0) << Self::NUMBER_BITS;
        Some(Self(numbers | u64::from(flags) << Self::FLAGS | voucher(address.words(), Self::VOUCHES)))
    }

    /// The entry, if it is that of `address`.
    #[inline(always)]
    pub fn of(self, address: Address) -> PeerEntry {
        if (self.0 ^ voucher(address.words(), Self::VOUCHES)) >> Self::VOUCHES != 0 {
            return PeerEntry::UNKNOWN;
        }
        let mask = (1 << Self::NUMBER_BITS) - 1;
        // Two constants, which the verifier of Linux 6.1 goes through in half the steps that it takes for a bit cut out.
        let local = if self.0 & (1 << Self::FLAGS) == 0 { 0 } else { PeerEntry::LOCAL };
        PeerEntry {
            class: PeerId(self.0 as u32 & mask),
            subject: SubjectId((self.0 >> Self::NUMBER_BITS) as u32 & mask),
            flags: local | (self.0 >> Self::FLAGS) as u32 & PeerEntry::AUDITED,
        }
    }
}

/// The rule for one port: a [`PolicyValue`] that never expires, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub struct PortEntry(pub u64);

#[expect(clippy::cast_possible_truncation, reason = "each part is cut out of the word")]
impl PortEntry {
    const VOUCHES: u32 = 32;

    /// None: the value does not fit.
    pub fn new(key: &PolicyKey, value: &PolicyValue) -> Option<Self> {
        let PolicyValue { rule, flags, expires } = *value;
        let fits = flags == 0 && expires == 0;
        fits.then(|| Self(u64::from(rule.0) | voucher(words(key), Self::VOUCHES)))
    }

    /// The value, if it is that of `key`.
    #[inline(always)]
    pub fn of(self, key: &PolicyKey) -> Option<PolicyValue> {
        let is_its = (self.0 ^ voucher(words(key), Self::VOUCHES)) >> Self::VOUCHES == 0;
        is_its.then_some(PolicyValue { rule: RuleId(self.0 as u32), flags: 0, expires: 0 })
    }
}

#[inline(always)]
fn words(key: &PolicyKey) -> [u32; 4] {
    bytemuck::cast(*key)
}

/// The bits of a word from `from` upwards, which differ for keys that are alike (multiplication by the golden ratio, Knuth,
/// The Art of Computer Programming, section 6.4). No two keys are taken for each other here but those that user space swaps
/// within nanoseconds, so nobody can choose them.
#[inline(always)]
fn voucher([a, b, c, d]: [u32; 4], from: u32) -> u64 {
    let mixed = (u64::from(a) << 32 | u64::from(b)) ^ (u64::from(c) << 32 | u64::from(d)).rotate_left(23);
    mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> from << from
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Direction, Protocol};

    fn address(last: u8) -> Address {
        Address::v4([10, 0, 0, last])
    }

    fn key(port: u16) -> PolicyKey {
        PolicyKey::new(SubjectId(7), PeerId(9), Direction::Egress, Protocol::TCP, port)
    }

    #[test]
    fn what_an_address_stands_for_is_read_as_it_was_written() {
        let largest = (1 << 24) - 1;
        for (class, subject, flags) in [(0, 0, 0), (1, 2, PeerEntry::LOCAL), (largest, largest, 3)] {
            let entry = PeerEntry { class: PeerId(class), subject: SubjectId(subject), flags };
            assert_eq!(HostEntry::new(address(1), &entry).map(|e| e.of(address(1))), Some(entry));
        }
    }

    #[test]
    fn what_does_not_fit_a_word_is_left_to_the_trie() {
        let of = |class, subject| PeerEntry { class: PeerId(class), subject: SubjectId(subject), flags: 0 };
        assert_eq!(HostEntry::new(address(1), &of(1 << 24, 0)), None);
        assert_eq!(HostEntry::new(address(1), &of(0, 1 << 24)), None);
        let expiring = PolicyValue { rule: RuleId(1), flags: 0, expires: 5 };
        assert_eq!(PortEntry::new(&key(443), &expiring), None);
    }

    #[test]
    fn anothers_address_is_unknown() {
        let entry = PeerEntry { class: PeerId(3), subject: SubjectId(4), flags: 0 };
        let word = HostEntry::new(address(1), &entry).expect("small numbers fit");
        for other in 2..=255 {
            assert_eq!(word.of(address(other)), PeerEntry::UNKNOWN, "{other}");
        }
    }

    #[test]
    fn a_rule_is_read_as_it_was_written_and_for_its_port_alone() {
        for rule in [RuleId(0), RuleId(12), RuleId::NONE] {
            let value = PolicyValue { rule, flags: 0, expires: 0 };
            let word = PortEntry::new(&key(443), &value).expect("it never expires");
            assert_eq!(word.of(&key(443)), Some(value));
            for port in (0..=u16::MAX).filter(|port| *port != 443) {
                assert_eq!(word.of(&key(port)), None, "{port}");
            }
            let inbound = PolicyKey { direction: Direction::Ingress as u8, ..key(443) };
            assert_eq!(word.of(&inbound), None);
        }
    }
}

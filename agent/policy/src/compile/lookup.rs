//! Longest-prefix lookups in the compiled tables, as the kernel's tries answer them.

use bulkhead_common::{
    Address, Direction, Endpoint, PeerEntry, PeerId, PolicyKey, PolicyValue, Protocol, SubjectId, Tables,
};

use super::Compiled;
use crate::{
    language::{bits, mask},
    steps::Steps,
};

impl Compiled {
    /// The tables as they answer at `now_ns`, in nanoseconds since the Unix epoch.
    pub fn at(&self, now_ns: u64) -> impl Tables {
        At { compiled: self, now_ns }
    }

    /// Who an address is: the longest entry that covers it.
    pub fn peer(&self, address: Address) -> PeerEntry {
        self.addresses.at(bits(address))
    }

    /// Until when a local end's allowlist lets each protocol and port through towards `class`, as the verdict function asks it:
    /// 0 where it does not, [`u64::MAX`] where there is no end. The number of a step is protocol << 16 | port.
    pub(crate) fn access(&self, local: &Endpoint, direction: Direction, class: PeerId) -> Steps<u64> {
        if !local.isolates(direction) {
            return Steps::new(u64::MAX, []);
        }
        let until = |peer| {
            let key = PolicyKey::new(local.subject, peer, direction, Protocol(0), 0);
            let entries = self.allowlists.allowlist(&self.policy, &key).iter().map(|(len, key, value)| {
                let first = u128::from(ports(key));
                let expires = if value.expires == 0 { u64::MAX } else { value.expires };
                (first, first | 0x00ff_ffff >> (len - PolicyKey::ANY_PROTOCOL), expires)
            });
            Steps::new(0, entries)
        };
        let everybody = until(PeerId::ANY);
        if class == PeerId::NONE { everybody } else { everybody.with(&until(class), u64::max) }
    }
}

struct At<'c> {
    compiled: &'c Compiled,
    now_ns: u64,
}

impl Tables for At<'_> {
    fn policy(&self, key: &PolicyKey) -> Option<PolicyValue> {
        self.compiled.allowlists.find(&self.compiled.policy, key)
    }

    fn now(&self) -> u64 {
        self.now_ns
    }
}

/// The table of addresses without overlaps: one binary search answers.
pub(super) fn address_steps(table: &[(Address, u32, PeerEntry)]) -> Steps<PeerEntry> {
    let ranges = table.iter().map(|(first, len, entry)| {
        #[expect(clippy::cast_possible_truncation, reason = "prefixes are at most 128 bits long")]
        let last = bits(*first) | !mask(*len as u8);
        (bits(*first), last, *entry)
    });
    Steps::new(PeerEntry::UNKNOWN, ranges)
}

/// Where each subject's part of the policy table begins.
#[derive(Clone, Debug, Default)]
pub(super) struct PolicyIndex {
    starts: Vec<u32>,
}

type Entry = (u32, PolicyKey, PolicyValue);

impl PolicyIndex {
    /// `table` is sorted by key and length.
    pub(super) fn new(table: &[Entry]) -> Self {
        let subjects = table.last().map_or(0, |(_, key, _)| key.subject.0 as usize);
        let mut starts = vec![0_u32; subjects + 2];
        for (_, key, _) in table {
            starts[key.subject.0 as usize + 1] += 1;
        }
        for n in 1..starts.len() {
            starts[n] += starts[n - 1];
        }
        Self { starts }
    }

    fn find(&self, table: &[Entry], key: &PolicyKey) -> Option<PolicyValue> {
        let allowlist = self.allowlist(table, key);
        // Entries that cover the key come before it in the order of the table, the longest last.
        let before = allowlist.partition_point(|(_, k, _)| (k.protocol, k.port) <= (key.protocol, key.port));
        longest(&allowlist[..before], ports(key))
    }

    /// The entries for the key's subject, peer and direction.
    fn allowlist<'t>(&self, table: &'t [Entry], key: &PolicyKey) -> &'t [Entry] {
        let SubjectId(subject) = key.subject;
        let start = |n: usize| self.starts.get(n).map(|s| *s as usize);
        let (Some(first), Some(last)) = (start(subject as usize), start(subject as usize + 1)) else {
            return &[];
        };
        let own = &table[first..last];
        let towards = |k: &PolicyKey| (k.peer, k.direction);
        let begin = own.partition_point(|(_, k, _)| towards(k) < towards(key));
        let end = begin + own[begin..].partition_point(|(_, k, _)| towards(k) == towards(key));
        &own[begin..end]
    }
}

/// The last of `entries` that covers `ports`. Of the ranges on the way none overlaps another without holding it, so
/// that each miss rules out everything of its size in between.
fn longest(entries: &[Entry], ports: u32) -> Option<PolicyValue> {
    const NEAR: usize = 16;
    let covers = |(len, key, _): &Entry| {
        let len = len - PolicyKey::ANY_PROTOCOL;
        (self::ports(key) ^ ports).checked_shr(24 - len).unwrap_or(0) == 0
    };
    let (far, near) = entries.split_at(entries.len().saturating_sub(NEAR));
    if let Some(found) = near.iter().rev().find(|e| covers(e)) {
        return Some(found.2);
    }
    (0..=24_u32).rev().find_map(|len| {
        let wanted = ports & u32::MAX.checked_shl(24 - len).unwrap_or(0);
        let order = |e: &Entry| (self::ports(&e.1), e.0 - PolicyKey::ANY_PROTOCOL);
        far.binary_search_by_key(&(wanted, len), order).ok().map(|at| far[at].2)
    })
}

/// Protocol and port as one number of 24 bits.
fn ports(key: &PolicyKey) -> u32 {
    u32::from_be_bytes([0, key.protocol, key.port[0], key.port[1]])
}

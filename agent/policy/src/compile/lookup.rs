//! Longest-prefix lookups in the compiled tables, as the kernel's tries answer them.

use std::net::IpAddr;

use bulkhead_common::{Address, PeerEntry, PolicyKey, PolicyValue, SubjectId, Tables};

use super::Compiled;
use crate::language::{address, bits, mask};

impl Compiled {
    /// The tables as they answer at `now_ns`, in nanoseconds since the Unix epoch.
    pub fn at(&self, now_ns: u64) -> impl Tables {
        At { compiled: self, now_ns }
    }

    /// Who an address is: the longest entry that covers it.
    pub fn peer(&self, address: Address) -> PeerEntry {
        self.addresses.find(address)
    }

    /// Who an address is.
    pub fn peer_of(&self, ip: IpAddr) -> PeerEntry {
        self.peer(ip.into())
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

/// The table of addresses as ranges without overlaps: one binary search answers.
#[derive(Clone, Debug, Default)]
pub(super) struct AddressIndex {
    /// From this address on, up to the next.
    starts: Vec<(Address, PeerEntry)>,
}

impl AddressIndex {
    /// `table` is sorted by address and length.
    pub(super) fn new(table: &[(Address, u32, PeerEntry)]) -> Self {
        let mut starts: Vec<(Address, PeerEntry)> = Vec::new();
        let mut start = |first: Address, entry: PeerEntry| {
            // A range that begins where the one around it does replaces it.
            match starts.last_mut() {
                Some(last) if last.0 == first => last.1 = entry,
                _ => starts.push((first, entry)),
            }
        };
        start(Address([0; 16]), PeerEntry::UNKNOWN);
        let mut open: Vec<(u128, PeerEntry)> = Vec::new();
        for (first, len, entry) in table {
            close(&mut open, Some(bits(*first)), &mut start);
            start(*first, *entry);
            #[expect(clippy::cast_possible_truncation, reason = "prefixes are at most 128 bits long")]
            open.push((bits(*first) | !mask(*len as u8), *entry));
        }
        close(&mut open, None, &mut start);
        Self { starts }
    }

    fn find(&self, address: Address) -> PeerEntry {
        let after = self.starts.partition_point(|(first, _)| *first <= address);
        self.starts[after - 1].1
    }
}

/// Ends the open ranges that lie before `next`: what is around them goes on.
fn close(open: &mut Vec<(u128, PeerEntry)>, next: Option<u128>, start: &mut impl FnMut(Address, PeerEntry)) {
    while let Some((last, _)) = open.last().copied() {
        if next.is_some_and(|next| next <= last) {
            return;
        }
        open.pop();
        if let Some(after) = last.checked_add(1) {
            start(address(after), open.last().map_or(PeerEntry::UNKNOWN, |(_, around)| *around));
        }
    }
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
        let SubjectId(subject) = key.subject;
        let first = *self.starts.get(subject as usize)? as usize;
        let last = *self.starts.get(subject as usize + 1)? as usize;
        let own = &table[first..last];
        let towards = |k: &PolicyKey| (k.peer, k.direction);
        let begin = own.partition_point(|(_, k, _)| towards(k) < towards(key));
        let end = begin + own[begin..].partition_point(|(_, k, _)| towards(k) == towards(key));
        let allowlist = &own[begin..end];
        // Entries that cover the key come before it in the order of the table, the longest last.
        let before = allowlist.partition_point(|(_, k, _)| (k.protocol, k.port) <= (key.protocol, key.port));
        longest(&allowlist[..before], ports(key))
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

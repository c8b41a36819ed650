//! Longest-prefix lookups in the compiled tables, as the kernel's tries answer them.

use bulkhead_common::{
    Address, Direction, Endpoint, PeerEntry, PeerId, PolicyKey, PolicyValue, Protocol, Tables,
};

use super::Compiled;
use crate::{
    by_address::ByAddress,
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
        self.addresses.at(address)
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

/// The table of addresses without overlaps, to be searched.
pub(super) fn by_address(table: &[(Address, u32, PeerEntry)]) -> ByAddress<PeerEntry> {
    without_overlaps(table).into()
}

/// The table of addresses without overlaps.
pub(super) fn without_overlaps(table: &[(Address, u32, PeerEntry)]) -> Steps<PeerEntry> {
    let ranges = table.iter().map(|(first, len, entry)| {
        #[expect(clippy::cast_possible_truncation, reason = "prefixes are at most 128 bits long")]
        let last = bits(*first) | !mask(*len as u8);
        (bits(*first), last, *entry)
    });
    Steps::new(PeerEntry::UNKNOWN, ranges)
}

/// Where each allowlist begins and ends in the policy table.
#[derive(Clone, Debug, Default)]
pub(super) struct PolicyIndex {
    /// By subject and direction: where its part of `peers` begins. One more than there are.
    sides: Vec<u32>,
    /// Towards whom it has an allowlist, in ascending order.
    peers: Vec<PeerId>,
    /// By the same number, where the allowlist is.
    allowlists: Vec<(u32, u32)>,
}

type Entry = (u32, PolicyKey, PolicyValue);

impl PolicyIndex {
    /// `table` is sorted by key and length.
    pub(super) fn new(table: &[Entry]) -> Self {
        let of = |(_, key, _): &Entry| (key.subject, key.peer, key.direction);
        let groups = || table.chunk_by(|a, b| of(a) == of(b));
        let subjects = table.last().map_or(0, |(_, key, _)| key.subject.0 as usize);
        let mut sides = vec![0_u32; 2 * subjects + 4];
        for group in groups() {
            sides[side(&group[0].1) + 2] += 1;
        }
        for n in 1..sides.len() {
            sides[n] += sides[n - 1];
        }
        let count = sides.last().map_or(0, |count| *count as usize);
        let (mut peers, mut allowlists) = (vec![PeerId::NONE; count], vec![(0, 0); count]);
        let mut end = 0;
        for group in groups() {
            let key = &group[0].1;
            let begin = end;
            end += u32::try_from(group.len()).unwrap_or(u32::MAX);
            // What is counted for the next side is where this one's next goes; in the end, where the next one begins.
            let at = &mut sides[side(key) + 1];
            peers[*at as usize] = key.peer;
            allowlists[*at as usize] = (begin, end);
            *at += 1;
        }
        Self { sides, peers, allowlists }
    }

    fn find(&self, table: &[Entry], key: &PolicyKey) -> Option<PolicyValue> {
        let allowlist = self.allowlist(table, key);
        // Entries that cover the key come before it in the order of the table, the longest last.
        let before = allowlist.partition_point(|(_, k, _)| (k.protocol, k.port) <= (key.protocol, key.port));
        longest(&allowlist[..before], ports(key))
    }

    /// The entries for the key's subject, peer and direction.
    fn allowlist<'t>(&self, table: &'t [Entry], key: &PolicyKey) -> &'t [Entry] {
        let Some([first, last]) = self.sides.get(side(key)..).and_then(|sides| sides.first_chunk()) else {
            return &[];
        };
        let first = *first as usize;
        let peers = &self.peers[first..*last as usize];
        let at = peers.partition_point(|peer| *peer < key.peer);
        if peers.get(at) != Some(&key.peer) {
            return &[];
        }
        let (begin, end) = self.allowlists[first + at];
        &table[begin as usize..end as usize]
    }
}

/// Number of a subject's direction.
fn side(key: &PolicyKey) -> usize {
    2 * key.subject.0 as usize + usize::from(key.direction)
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
    if far.is_empty() {
        return None;
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

//! Longest-prefix lookups in the compiled tables, as the kernel's tries answer them.

use bulkhead_common::{
    Address, Direction, Endpoint, Peer, PeerEntry, PeerId, PolicyKey, PolicyValue, SubjectId, Tables,
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

    /// The classes towards which a local end has an allowlist beside the one towards everybody.
    pub(crate) fn classes(&self, local: &Endpoint, direction: Direction) -> &[PeerId] {
        let side = self.allowlists.side(side(local.subject, direction as u8));
        &self.allowlists.peers[side.first as usize..side.end as usize]
    }

    /// The entries of a local end's allowlist: class, length of the prefix, protocol and port, until when (0: for good).
    pub(crate) fn allowlist(
        &self,
        local: &Endpoint,
        direction: Direction,
    ) -> impl Iterator<Item = (PeerId, u32, u32, u64)> {
        let side = self.allowlists.side(side(local.subject, direction as u8));
        let own = side.first as usize..side.end as usize;
        let towards = self.allowlists.peers[own.clone()].iter().zip(&self.allowlists.allowlists[own]);
        let all = towards.map(|(peer, list)| (*peer, *list)).chain([(PeerId::ANY, side.everybody)]);
        all.flat_map(|(peer, list)| {
            list.of(&self.policy).iter().map(move |(len, key, value)| (peer, *len, ports(key), value.expires))
        })
    }

    /// Until when a local end's allowlist lets each protocol and port through towards `class`, as the verdict function asks it:
    /// 0 where it does not, [`u64::MAX`] where there is no end. The number of a step is protocol << 16 | port.
    pub(crate) fn access(&self, local: &Endpoint, direction: Direction, class: PeerId) -> Steps<u64> {
        if !local.isolates(direction) {
            return Steps::new(u64::MAX, []);
        }
        let everybody = self.towards(local, direction, PeerId::ANY);
        if class == PeerId::NONE {
            return everybody;
        }
        everybody.with(&self.towards(local, direction, class), u64::max)
    }

    /// The same of the allowlist towards this class alone.
    fn towards(&self, local: &Endpoint, direction: Direction, class: PeerId) -> Steps<u64> {
        let side = self.allowlists.side(side(local.subject, direction as u8));
        let entries =
            self.allowlists.towards(side, class).of(&self.policy).iter().map(|(len, key, value)| {
                let first = u128::from(ports(key));
                let expires = if value.expires == 0 { u64::MAX } else { value.expires };
                (first, first | 0x00ff_ffff >> (len - PolicyKey::ANY_PROTOCOL), expires)
            });
        Steps::new(0, entries)
    }
}

struct At<'c> {
    compiled: &'c Compiled,
    now_ns: u64,
}

impl Tables for At<'_> {
    fn policy(&self, key: &PolicyKey) -> Option<PolicyValue> {
        let Compiled { allowlists, policy, .. } = self.compiled;
        find(allowlists.towards(allowlists.side(side_of(key)), key.peer).of(policy), key)
    }

    fn now(&self) -> u64 {
        self.now_ns
    }
}

/// The tables as far as one flow asks them, for who looks many flows up at once: a step further for each of them, then the
/// next, so that all of them wait for memory at the same time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ahead {
    side: Side,
    /// Whom the flow goes to or comes from, and the allowlist towards them.
    peer: (PeerId, Allowlist),
}

impl Ahead {
    /// Nothing is looked up.
    pub(crate) const NOTHING: Self = Self { side: Side::NONE, peer: (PeerId::NONE, Allowlist::EMPTY) };

    /// The first step.
    #[inline(always)]
    pub(crate) fn of(compiled: &Compiled, subject: SubjectId, direction: Direction) -> Self {
        Self { side: compiled.allowlists.side(side(subject, direction as u8)), ..Self::NOTHING }
    }

    /// The second and last one.
    #[inline(always)]
    pub(crate) fn towards(&mut self, compiled: &Compiled, peer: Peer) {
        if peer.class != PeerId::NONE {
            self.peer = (peer.class, compiled.allowlists.towards(self.side, peer.class));
        }
    }

    /// The tables as they answer this flow at `now_ns`.
    #[inline(always)]
    pub(crate) fn at(self, compiled: &Compiled, now_ns: u64) -> impl Tables {
        AheadAt { ahead: self, policy: &compiled.policy, now_ns }
    }
}

struct AheadAt<'c> {
    ahead: Ahead,
    policy: &'c [Entry],
    now_ns: u64,
}

impl Tables for AheadAt<'_> {
    #[inline(always)]
    fn policy(&self, key: &PolicyKey) -> Option<PolicyValue> {
        let Ahead { side, peer: (peer, towards) } = self.ahead;
        let allowlist = if key.peer == peer { towards } else { side.everybody };
        find(allowlist.of(self.policy), key)
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

/// Where each allowlist is in the policy table.
#[derive(Clone, Debug, Default)]
pub(super) struct PolicyIndex {
    /// By [`side`]: where its part of `peers` begins. One more than there are.
    sides: Vec<u32>,
    /// Towards whom it has an allowlist, everybody aside, in ascending order.
    peers: Vec<PeerId>,
    /// By the same number: which one.
    allowlists: Vec<Allowlist>,
    /// By [`side`]: the allowlist towards everybody. Shorter, or empty, if the rest has none.
    everybody: Vec<Allowlist>,
}

/// Where the entries for one subject, direction and peer are in the policy table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Allowlist {
    begin: u32,
    end: u32,
}

impl Allowlist {
    const EMPTY: Self = Self { begin: 0, end: 0 };

    #[inline(always)]
    fn of(self, table: &[Entry]) -> &[Entry] {
        &table[self.begin as usize..self.end as usize]
    }
}

/// Where the allowlists of one subject and direction are in the index.
#[derive(Clone, Copy, Debug)]
struct Side {
    first: u32,
    end: u32,
    everybody: Allowlist,
}

impl Side {
    const NONE: Self = Self { first: 0, end: 0, everybody: Allowlist::EMPTY };
}

type Entry = (u32, PolicyKey, PolicyValue);

impl PolicyIndex {
    /// `table` is sorted by key and length.
    pub(super) fn new(table: &[Entry]) -> Self {
        let of = |(_, key, _): &Entry| (key.subject, key.peer, key.direction);
        let groups = || table.chunk_by(|a, b| of(a) == of(b));
        let subjects = table.last().map_or(0, |(_, key, _)| key.subject.0 as usize);
        let mut sides = vec![0_u32; 2 * subjects + 4];
        for group in groups().filter(|group| group[0].1.peer != PeerId::ANY) {
            sides[side_of(&group[0].1) + 2] += 1;
        }
        for n in 1..sides.len() {
            sides[n] += sides[n - 1];
        }
        let count = sides.last().map_or(0, |count| *count as usize);
        let (mut peers, mut allowlists) = (vec![PeerId::NONE; count], vec![Allowlist::EMPTY; count]);
        let mut everybody = Vec::new();
        let mut end = 0;
        for group in groups() {
            let key = &group[0].1;
            let begin = end;
            end += u32::try_from(group.len()).unwrap_or(u32::MAX);
            let allowlist = Allowlist { begin, end };
            if key.peer == PeerId::ANY {
                let length = everybody.len().max(side_of(key) + 1);
                everybody.resize(length, Allowlist::EMPTY);
                everybody[side_of(key)] = allowlist;
                continue;
            }
            // What is counted for the next side is where this one's next goes; in the end, where the next one begins.
            let at = &mut sides[side_of(key) + 1];
            peers[*at as usize] = key.peer;
            allowlists[*at as usize] = allowlist;
            *at += 1;
        }
        Self { sides, peers, allowlists, everybody }
    }

    #[inline(always)]
    fn side(&self, number: usize) -> Side {
        let Some([first, end]) = self.sides.get(number..).and_then(|sides| sides.first_chunk()) else {
            return Side::NONE;
        };
        let everybody = self.everybody.get(number).copied().unwrap_or_default();
        Side { first: *first, end: *end, everybody }
    }

    #[inline(always)]
    fn towards(&self, side: Side, peer: PeerId) -> Allowlist {
        if peer == PeerId::ANY {
            return side.everybody;
        }
        let first = side.first as usize;
        let peers = &self.peers[first..side.end as usize];
        let at = peers.partition_point(|other| *other < peer);
        if peers.get(at) != Some(&peer) {
            return Allowlist::EMPTY;
        }
        self.allowlists[first + at]
    }
}

/// Number of a subject's direction.
#[inline(always)]
fn side(subject: SubjectId, direction: u8) -> usize {
    2 * subject.0 as usize + usize::from(direction)
}

fn side_of(key: &PolicyKey) -> usize {
    side(key.subject, key.direction)
}

/// What the longest entry of an allowlist says that covers the key.
fn find(allowlist: &[Entry], key: &PolicyKey) -> Option<PolicyValue> {
    // Entries that cover the key come before it in the order of the table, the longest last.
    let before = allowlist.partition_point(|(_, k, _)| (k.protocol, k.port) <= (key.protocol, key.port));
    longest(&allowlist[..before], ports(key))
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

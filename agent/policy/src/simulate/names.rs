//! Names as numbers, so that a record that names nobody new allocates nothing.

use std::{collections::HashMap, hash::BuildHasher};

use bulkhead_common::Address;
use foldhash::fast::RandomState;
use hashbrown::HashTable;

use crate::{
    by_address::ByAddress,
    language::{Cidr, Policy, WorkloadId, bits},
    steps::Steps,
};

/// Number of a name in [`Names`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Name(u32);

/// A table whose keys come from records. Its hashes are seeded at random, so that no file can be made up whose keys
/// collide; that is all that the standard library's slower ones have over them here, since each table is bounded.
pub(super) type Table<K, V> = HashMap<K, V, RandomState>;

/// Everybody who is named. Laid out to be small: a large site's names stay in a processor's own cache.
pub(super) struct Names {
    /// Those of short texts, which are most of them: found with one look into memory.
    short: HashTable<(Short, Name)>,
    /// The others, by the hash of their texts.
    long: HashTable<Name>,
    hasher: RandomState,
    texts: Texts,
    /// How many workloads the policy has that is simulated: the first names after [`Names::OTHERS`] are theirs.
    workloads: u32,
    /// By name: the workload of this name in the policy that it is compared with.
    old: Vec<Option<WorkloadId>>,
    addresses: ByAddress<Name>,
    /// How many names records may add to those of the policies.
    room: usize,
}

/// A text of less than 16 bytes: it, zeros, and last its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Short([u8; 16]);

impl Short {
    #[inline(always)]
    fn new(text: &[u8]) -> Option<Self> {
        let mut short = [0; 16];
        let (length, bytes) = short.split_last_mut()?;
        bytes.get_mut(..text.len())?.copy_from_slice(text);
        *length = u8::try_from(text.len()).ok()?;
        Some(Self(short))
    }

    #[inline(always)]
    fn hash(self, hasher: &RandomState) -> u64 {
        hasher.hash_one(u128::from_ne_bytes(self.0))
    }
}

/// Texts by their number, one behind the other.
#[derive(Default)]
struct Texts {
    all: Vec<u8>,
    /// Where each of them ends.
    ends: Vec<usize>,
}

impl Texts {
    fn push(&mut self, text: &[u8]) {
        self.all.extend_from_slice(text);
        self.ends.push(self.all.len());
    }

    fn get(&self, Name(number): Name) -> &[u8] {
        let number = number as usize;
        let start = number.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.all[start..self.ends[number]]
    }
}

impl Names {
    /// Stands for names beyond [`Names::MOST`].
    pub(super) const OTHERS: Name = Name(0);
    /// The most names that records add.
    const MOST: usize = 1 << 16;
    /// The longest name that is remembered, in bytes. A policy's have at most 63 letters.
    const LONGEST: usize = 255;

    pub(super) fn new(policy: &Policy, against: Option<&Policy>) -> Self {
        let mut names = Self {
            short: HashTable::new(),
            long: HashTable::new(),
            hasher: RandomState::default(),
            texts: Texts::default(),
            workloads: 0,
            old: Vec::new(),
            addresses: Steps::new(Self::OTHERS, []).into(),
            room: usize::MAX,
        };
        names.texts.push(b"(others)");
        for (n, workload) in (1..).zip(&policy.workloads) {
            let Name(name) = names.number(workload.name.as_bytes());
            debug_assert_eq!(name, n, "workloads have names of their own");
            names.workloads = name;
        }
        for (n, workload) in against.into_iter().flat_map(|old| &old.workloads).enumerate() {
            let Name(name) = names.number(workload.name.as_bytes());
            names.old.resize(names.texts.ends.len(), None);
            names.old[name as usize] = Some(WorkloadId(n));
        }
        names.addresses = names.of_addresses(policy).into();
        names.room = Self::MOST;
        names
    }

    /// Who is called `text`, in UTF-8.
    #[inline(always)]
    pub(super) fn number(&mut self, text: &[u8]) -> Name {
        let Some(short) = Short::new(text) else { return self.long(text) };
        let known = self.short.find(short.hash(&self.hasher), |(other, _)| *other == short);
        match known {
            Some((_, name)) => *name,
            None => self.learn_short(short, text),
        }
    }

    #[inline(never)]
    fn learn_short(&mut self, short: Short, text: &[u8]) -> Name {
        let Some(name) = self.learn(text) else { return Self::OTHERS };
        let hash = |short: Short| short.hash(&self.hasher);
        self.short.insert_unique(hash(short), (short, name), |(short, _)| hash(*short));
        name
    }

    #[inline(never)]
    fn long(&mut self, text: &[u8]) -> Name {
        let hash = self.hasher.hash_one(text);
        if let Some(known) = self.long.find(hash, |name| self.texts.get(*name) == text) {
            return *known;
        }
        let Some(name) = self.learn(text) else { return Self::OTHERS };
        self.long.insert_unique(hash, name, |name| self.hasher.hash_one(self.texts.get(*name)));
        name
    }

    /// A number for a text that has none, if there is room for it.
    fn learn(&mut self, text: &[u8]) -> Option<Name> {
        let name = u32::try_from(self.texts.ends.len()).ok().map(Name)?;
        if text.len() > Self::LONGEST {
            return None;
        }
        self.room = self.room.checked_sub(1)?;
        self.texts.push(text);
        Some(name)
    }

    /// Who has an address, as [`crate::describe_peer`] tells it.
    pub(super) fn of_address(&self, address: Address) -> Name {
        self.addresses.at(address)
    }

    /// The workload of this name in the policy that is simulated.
    pub(super) fn workload(&self, Name(number): Name) -> Option<WorkloadId> {
        (1..=self.workloads).contains(&number).then(|| WorkloadId(number as usize - 1))
    }

    /// The workload of this name in the policy that it is compared with.
    pub(super) fn old_workload(&self, Name(number): Name) -> Option<WorkloadId> {
        self.old.get(number as usize).copied().flatten()
    }

    pub(super) fn text(&self, name: Name) -> String {
        String::from_utf8_lossy(self.texts.get(name)).into_owned()
    }

    /// The narrowest peer that holds each address, or else its environment.
    fn of_addresses(&mut self, policy: &Policy) -> Steps<Name> {
        let elsewhere = self.number(b"elsewhere");
        let environments: Vec<_> =
            policy.environments.iter().map(|e| self.number(format!("env:{}", e.name).as_bytes())).collect();
        let peers: Vec<_> = policy.peers.iter().map(|p| self.number(p.name.as_bytes())).collect();
        let own = policy.environments.iter().zip(&environments).map(|(e, name)| (*name, &*e.cidrs));
        let of_peers = policy.peers.iter().filter_map(|p| Some((environments[p.environment?.0], &*p.cidrs)));
        let environments = narrowest(own.chain(of_peers));
        let peers = narrowest(policy.peers.iter().zip(&peers).map(|(p, name)| (*name, &*p.cidrs)));
        peers.with(&environments, |peer, environment| peer.or(environment).unwrap_or(elsewhere))
    }
}

/// Whose is the narrowest range around each address; of equal ones, the first.
fn narrowest<'p>(ranges: impl Iterator<Item = (Name, &'p [Cidr])>) -> Steps<Option<Name>> {
    let mut ranges: Vec<_> = ranges
        .flat_map(|(name, cidrs)| cidrs.iter().map(move |c| (bits(c.first()), bits(c.last()), Some(name))))
        .collect();
    // The last of equal ranges counts as the innermost.
    ranges.reverse();
    ranges.sort_by_key(|(first, last, _)| (*first, !*last));
    Steps::new(None, ranges)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        describe_peer,
        testing::{ip, policy},
    };

    #[test]
    fn an_address_is_called_what_reports_call_it() {
        let p = policy(
            "[environment.lan]\ncidrs = [\"10.0.0.0/8\", \"fd00::/8\"]\n\
             [environment.iot]\ncidrs = [\"10.40.0.0/16\"]\n\
             [peer.nas]\nenvironment = \"lan\"\ncidrs = [\"10.40.0.9\", \"fd00::9\"]\n\
             [peer.twin]\ncidrs = [\"10.40.0.9\", \"10.0.0.0/8\"]\n\
             [peer.far]\nenvironment = \"lan\"\ncidrs = [\"203.0.113.0/24\"]",
        );
        let names = Names::new(&p, None);
        for text in [
            "0.0.0.0",
            "10.0.0.1",
            "10.40.0.8",
            "10.40.0.9",
            "10.40.0.10",
            "10.41.0.0",
            "11.0.0.0",
            "203.0.113.255",
            "203.0.114.0",
            "::",
            "fd00::8",
            "fd00::9",
            "fd00::a",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        ] {
            let expected = match describe_peer(&p, ip(text)) {
                (Some(name), _) => name.to_owned(),
                (None, Some(environment)) => format!("env:{environment}"),
                (None, None) => "elsewhere".to_owned(),
            };
            assert_eq!(names.text(names.of_address(ip(text).into())), expected, "{text}");
        }
    }

    #[test]
    fn texts_of_every_length_have_numbers_of_their_own() {
        let mut names = Names::new(&Policy::default(), None);
        let texts: Vec<_> = (0..40).flat_map(|n| ["a".repeat(n), "a".repeat(n) + "\0"]).collect();
        let numbers: Vec<_> = texts.iter().map(|text| names.number(text.as_bytes())).collect();
        for (text, number) in texts.iter().zip(numbers) {
            assert_eq!((names.number(text.as_bytes()), names.text(number)), (number, text.clone()));
        }
    }

    #[test]
    fn names_are_remembered_within_bounds_and_those_of_the_policy_always() {
        let p = policy("[workload.web]\nselect = { systemd = \"web.service\" }");
        let mut names = Names::new(&p, None);
        for n in 0..2 * Names::MOST {
            names.number(format!("n{n}").as_bytes());
        }
        assert_eq!(names.number(b"one more"), Names::OTHERS);
        assert_ne!(names.number(b"n7"), Names::OTHERS);
        let web = names.number(b"web");
        assert_eq!((names.workload(web), names.old_workload(web)), (Some(WorkloadId(0)), None));
        assert_eq!(names.workload(Names::OTHERS), None);
        assert!(names.texts.ends.len() < Names::MOST + 10);
        let old = policy(
            "[workload.db]\nselect = { systemd = \"db.service\" }\n\
             [workload.web]\nselect = { systemd = \"web.service\" }",
        );
        let mut names = Names::new(&p, Some(&old));
        let web = names.number(b"web");
        assert_eq!(
            (names.workload(web), names.old_workload(web)),
            (Some(WorkloadId(0)), Some(WorkloadId(1)))
        );
        assert_eq!(names.number("x".repeat(1 << 16).as_bytes()), Names::OTHERS);
    }
}

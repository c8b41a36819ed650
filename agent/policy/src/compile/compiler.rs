use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Deref,
};

use bulkhead_common::{Address, Endpoint, PeerEntry, PeerId};

use super::{
    Compiled, Edits,
    addresses::{Declared, Ranges},
    classes::Classes,
    entries::Allowlists,
    flags,
    host::Host,
    lookup::{PolicyIndex, by_address},
    raw, subject,
    terms::Terms,
    unidentified,
};
use crate::{
    content_hash::{Content, ContentHash},
    inventory::Inventory,
    language::{End, Policy, WorkloadId},
};

/// A policy compiled for a host, with what it takes to follow the host's changes.
///
/// Of a policy stays, as long as it is in force, what it declares of ranges of addresses, and which rules let a class
/// through. A host declares of single addresses alone. So a change of the inventory touches the entries of the
/// addresses that it names, and the allowlists of the classes that appear or vanish with them.
#[derive(Debug)]
pub struct Compiler<P> {
    policy: P,
    flags: Vec<u32>,
    pub(super) terms: Terms,
    pub(super) classes: Classes,
    endpoints: Vec<Endpoint>,
    ranges: Ranges,
    host: Host,
    /// The entries of single addresses.
    singles: BTreeMap<Address, PeerEntry>,
}

/// Length of the prefix of a single address.
const SINGLE: u32 = 128;

impl<P: Deref<Target = Policy>> Compiler<P> {
    /// Compiles a policy for a host.
    pub fn new(policy: P, inventory: Inventory) -> Self {
        let workloads = || (0..policy.workloads.len()).map(WorkloadId);
        let raw = raw::flags(&policy);
        let flags: Vec<_> = workloads().map(|w| flags(&policy, w) | raw[w.0]).collect();
        let terms = Terms::new(&policy, &flags);
        let mut classes = Classes::default();
        let endpoint = |w: WorkloadId| {
            let peer = classes.of(terms.of_workload(&policy, w));
            classes.hold(peer);
            Endpoint { subject: subject(w), peer, flags: flags[w.0] }
        };
        let endpoints = workloads().map(endpoint).collect();
        let ranges = Ranges::new(&policy, &terms, &mut classes);
        let mut addresses: BTreeSet<Address> = ranges.singles().collect();
        let mut host = Host::new(&policy);
        addresses.extend(host.learn(inventory));
        let singles = BTreeMap::new();
        let mut compiler = Self { policy, flags, terms, classes, endpoints, ranges, host, singles };
        for address in addresses {
            compiler.update(address);
        }
        compiler.classes.settle();
        compiler
    }

    /// Follows the host to another inventory. What [`Self::compiled`] gave becomes, with these edits, what it gives now.
    pub fn follow(&mut self, inventory: Inventory) -> Edits {
        let changed = self.host.learn(inventory);
        let peers = changed.into_iter().filter_map(|address| {
            let (before, now) = self.update(address);
            (before != now).then_some((address, SINGLE, now))
        });
        let peers = peers.collect();
        let (new, gone) = self.classes.settle();
        let allowlists = self.allowlists();
        let removes = gone.iter().flat_map(|class| allowlists.of_class(class));
        Edits {
            policy_puts: new.iter().flat_map(|class| allowlists.of_class(class)).collect(),
            peers,
            policy_removes: removes.map(|(len, key, _)| (len, key)).collect(),
        }
    }

    /// The class of whoever is these ends of rules, and of whom no address tells more. It stays what it is.
    pub(crate) fn class_of(&mut self, ends: &[End]) -> PeerId {
        let mut declared = Declared::default();
        for end in ends {
            match end {
                End::Host => declared.host = true,
                End::Dns => declared.dns = true,
                End::Peer(peer) => declared.join_peer(&self.policy, &self.terms, *peer),
                _ => {}
            }
        }
        let class = declared.entry(&self.policy, &self.terms, &mut self.classes).class;
        self.classes.hold(class);
        class
    }

    /// The tables as they are now.
    pub fn compiled(&self) -> Compiled {
        let policy = self.allowlists().table(&self.classes);
        let peers = self.peers();
        Compiled {
            endpoints: self.endpoints.clone(),
            unidentified: self.unidentified(),
            addresses: by_address(&peers),
            allowlists: PolicyIndex::new(&policy),
            peers,
            policy,
        }
    }

    /// The end of a workload. It stays what it is.
    pub fn endpoint(&self, workload: WorkloadId) -> Endpoint {
        self.endpoints[workload.0]
    }

    /// The end of whoever must be in a workload and could not be told in which.
    pub fn unidentified(&self) -> Endpoint {
        unidentified(&self.policy)
    }

    /// The hash of policy and tables: equal for equal policies on equal hosts, whatever the hosts have been before. It
    /// spells classes out, for their numbers tell how the tables came about; the allowlists follow from classes and
    /// rules.
    pub fn content_hash(&self) -> ContentHash {
        let mut content = Content::new("bulkhead tables 1");
        content.bytes(&self.policy.content_hash().0);
        content.number(self.unidentified().flags);
        content.list(&self.endpoints, |content, end| {
            content.number(end.flags);
            content.list(self.classes.terms(end.peer), |content, term| content.number(term.0));
        });
        content.list(&self.peers(), |content, (first, len, entry)| {
            content.bytes(&first.octets());
            content.number(*len);
            content.number(entry.subject.0);
            content.number(entry.flags);
            content.list(self.classes.terms(entry.class), |content, term| content.number(term.0));
        });
        content.hash()
    }

    /// Brings the entry of one address up to date; tells what it was and what it is now.
    fn update(&mut self, address: Address) -> (Option<PeerEntry>, Option<PeerEntry>) {
        let (around, wider) = self.ranges.around(address);
        let mut own = self.ranges.single(address);
        self.host.declare(&mut own, address, &self.policy, &self.terms);
        let entry = own.below(around).entry(&self.policy, &self.terms, &mut self.classes);
        let entry = (entry != *wider).then_some(entry);
        let before = match entry {
            Some(entry) => self.singles.insert(address, entry),
            None => self.singles.remove(&address),
        };
        // First held, then released: a class that stays in use is never without one.
        if let Some(entry) = entry {
            self.classes.hold(entry.class);
        }
        if let Some(before) = before {
            self.classes.release(before.class);
        }
        (before, entry)
    }

    /// The table of addresses, sorted by address and length.
    pub(super) fn peers(&self) -> Vec<(Address, u32, PeerEntry)> {
        let singles = self.singles.iter().map(|(address, entry)| (*address, SINGLE, *entry));
        let mut peers: Vec<_> = self.ranges.entries().iter().copied().chain(singles).collect();
        peers.sort_unstable();
        peers
    }

    fn allowlists(&self) -> Allowlists<'_> {
        Allowlists { policy: &self.policy, terms: &self.terms, flags: &self.flags }
    }
}

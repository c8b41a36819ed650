//! What a policy declares of addresses: which rule ends each range of them matches.

use std::{collections::BTreeMap, net::IpAddr};

use bulkhead_common::{Address, Endpoint, PeerEntry, SubjectId};

use super::{
    Zone,
    classes::Classes,
    flags, subject,
    terms::{Term, Terms},
};
use crate::{
    language::{Cidr, End, EnvironmentId, Policy, WorkloadId, bits},
    steps::Steps,
};

/// What is declared of one range. What is nested in it inherits all but the owner.
#[derive(Clone, Debug, Default)]
pub(super) struct Declared {
    pub(super) terms: Vec<Term>,
    pub(super) environment: Option<Claim<EnvironmentId>>,
    pub(super) zone: Option<Zone>,
    pub(super) local: bool,
    pub(super) host: bool,
    pub(super) dns: bool,
    pub(super) owner: Option<WorkloadId>,
}

/// Whose something is, when at most one may have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim<T> {
    One(T),
    Several,
}

impl<T: Copy + PartialEq> Claim<T> {
    pub(crate) fn add(held: Option<Self>, new: T) -> Self {
        match held {
            None => Self::One(new),
            Some(Self::One(old)) if old == new => Self::One(old),
            Some(_) => Self::Several,
        }
    }
}

/// What a policy declares of addresses: the same on every host and as long as the policy is.
#[derive(Debug)]
pub(super) struct Ranges {
    /// The entries of ranges of several addresses.
    entries: Vec<(Address, u32, PeerEntry)>,
    /// By address: what holds around it, as index into `wholes`.
    around: Steps<u32>,
    /// What is declared of each such range and of those around it, with its entry. The first is none.
    wholes: Vec<(Declared, PeerEntry)>,
    /// What is declared of addresses alone.
    singles: BTreeMap<Address, Declared>,
}

impl Ranges {
    pub(super) fn new(policy: &Policy, terms: &Terms, classes: &mut Classes) -> Self {
        let (singles, ranges): (Vec<_>, Vec<_>) =
            declarations(policy, terms).0.into_iter().partition(|(cidr, _)| cidr.prefix_len() == SINGLE);
        let mut wholes = vec![(Declared::default(), PeerEntry::UNKNOWN)];
        let mut entries = Vec::new();
        let mut spans = vec![(V4, 0)];
        let mut covered = false;
        // IPv4 lies inside ::/0 in this form of addresses, and no IPv6 range holds an IPv4 address.
        for v4 in [false, true] {
            let mut above: Vec<(Cidr, u32)> = Vec::new();
            for (cidr, own) in ranges.iter().filter(|(cidr, _)| cidr.is_v4() == v4) {
                while above.last().is_some_and(|(wider, _)| !wider.covers(*cidr)) {
                    above.pop();
                }
                let (around, wider) = &wholes[above.last().map_or(0, |(_, at)| *at as usize)];
                let whole = own.below(around);
                let entry = whole.entry(policy, terms, classes);
                if entry != *wider {
                    entries.push((cidr.first(), u32::from(cidr.prefix_len()), entry));
                    classes.hold(entry.class);
                    covered |= !v4
                        && u32::from(cidr.prefix_len()) < Address::V4_PREFIX
                        && cidr.first() <= V4.first()
                        && V4.first() <= cidr.last();
                }
                let at = u32::try_from(wholes.len()).unwrap_or(0);
                wholes.push((whole, entry));
                spans.push((*cidr, at));
                above.push((*cidr, at));
            }
        }
        if covered
            && !entries.iter().any(|(first, len, _)| (*first, *len) == (V4.first(), Address::V4_PREFIX))
        {
            entries.push((V4.first(), Address::V4_PREFIX, PeerEntry::UNKNOWN));
        }
        spans.sort_unstable();
        let spans = spans.into_iter().map(|(cidr, at)| (bits(cidr.first()), bits(cidr.last()), at));
        let singles = singles.into_iter().map(|(cidr, own)| (cidr.first(), own)).collect();
        Self { entries, around: Steps::new(0, spans), wholes, singles }
    }

    /// The entries of ranges of several addresses.
    pub(super) fn entries(&self) -> &[(Address, u32, PeerEntry)] {
        &self.entries
    }

    /// The addresses of which something is declared of them alone.
    pub(super) fn singles(&self) -> impl Iterator<Item = Address> {
        self.singles.keys().copied()
    }

    /// What is declared of one address alone.
    pub(super) fn single(&self, address: Address) -> Declared {
        self.singles.get(&address).cloned().unwrap_or_default()
    }

    /// The ranges around one address: what is declared of them, and the entry that holds where it has none.
    pub(super) fn around(&self, address: Address) -> &(Declared, PeerEntry) {
        &self.wholes[self.around.at(bits(address)) as usize]
    }
}

/// Length of the prefix that is a whole address.
const SINGLE: u8 = 128;

/// All IPv4 addresses.
const V4: Cidr = Cidr::ALL[0];

const LOOPBACK: [&str; 2] = ["127.0.0.0/8", "::1"];

/// Every range of which something is declared; a range comes after those that it is nested in.
struct Declarations(BTreeMap<Cidr, Declared>);

fn declarations(policy: &Policy, terms: &Terms) -> Declarations {
    let mut ranges = Declarations(BTreeMap::new());
    for (cidr, term) in terms.cidrs() {
        ranges.at(cidr).terms.push(term);
    }
    for (n, peer) in policy.peers.iter().enumerate() {
        for cidr in &peer.cidrs {
            ranges.at(*cidr).join_peer(policy, terms, n);
        }
    }
    if terms.name_environments() {
        for (n, environment) in policy.environments.iter().enumerate() {
            for cidr in &environment.cidrs {
                ranges.at(*cidr).claim(EnvironmentId(n));
            }
        }
    }
    if terms.number(End::Private).is_some() || terms.number(End::Internet).is_some() {
        for (cidr, zone) in Zone::ranges() {
            ranges.at(cidr).zone = Some(zone);
        }
    }
    for text in LOOPBACK {
        if let Ok(cidr) = text.parse() {
            let loopback = ranges.at(cidr);
            (loopback.local, loopback.host) = (true, true);
        }
    }
    // connect() takes the unspecified address for loopback. It is not `host`: a packet from the wire can bear it.
    for ip in [IpAddr::from([0; 4]), IpAddr::from([0; 16])] {
        ranges.at(Cidr::single(ip)).local = true;
    }
    ranges
}

impl Declarations {
    fn at(&mut self, cidr: Cidr) -> &mut Declared {
        self.0.entry(cidr).or_default()
    }
}

impl Declared {
    /// It is of a peer, and in the peer's environment.
    pub(super) fn join_peer(&mut self, policy: &Policy, terms: &Terms, peer: usize) {
        self.terms.extend(terms.number(End::Peer(peer)));
        if let Some(environment) = policy.peers[peer].environment.filter(|_| terms.name_environments()) {
            self.claim(environment);
        }
    }

    fn claim(&mut self, environment: EnvironmentId) {
        self.environment = Some(Claim::add(self.environment, environment));
    }

    /// With what is declared of the range around it.
    pub(super) fn below(&self, wider: &Self) -> Self {
        Self {
            terms: wider.terms.iter().chain(&self.terms).copied().collect(),
            environment: self.environment.or(wider.environment),
            zone: self.zone.or(wider.zone),
            local: self.local || wider.local,
            host: self.host || wider.host,
            dns: self.dns || wider.dns,
            owner: self.owner,
        }
    }

    pub(super) fn entry(&self, policy: &Policy, terms: &Terms, classes: &mut Classes) -> PeerEntry {
        let owners_environment = self.owner.and_then(|w| policy.workloads[w.0].environment);
        let environment = match (owners_environment, self.environment) {
            (Some(e), _) | (None, Some(Claim::One(e))) => Some(End::Environment(e)),
            (None, _) => None,
        };
        let zone = match self.zone {
            Some(Zone::Private) => Some(End::Private),
            Some(Zone::Internet) => Some(End::Internet),
            Some(Zone::Special) | None => None,
        };
        let labels = [
            environment,
            zone,
            self.host.then_some(End::Host),
            self.dns.then_some(End::Dns),
            self.owner.map(End::Workload),
        ];
        let labels = labels.into_iter().flatten().filter_map(|end| terms.number(end));
        let audited = self.owner.is_some_and(|owner| flags(policy, owner) & Endpoint::AUDIT != 0);
        PeerEntry {
            class: classes.of(self.terms.iter().copied().chain(labels).collect()),
            subject: self.owner.map_or(SubjectId::NONE, subject),
            flags: if self.local { PeerEntry::LOCAL } else { 0 }
                | if audited { PeerEntry::AUDITED } else { 0 },
        }
    }
}

//! The table address -> class: which rule ends each range of addresses matches.

use std::{collections::BTreeMap, net::IpAddr};

use bulkhead_common::{Address, PeerEntry, SubjectId};

use super::{
    Zone, subject,
    terms::{Classes, Term, Terms},
};
use crate::{
    inventory::Inventory,
    language::{Cidr, End, EnvironmentId, Policy, WorkloadId},
};

/// What is declared of one range. What is nested in it inherits all but the owner.
#[derive(Clone, Debug, Default)]
struct Declared {
    terms: Vec<Term>,
    environment: Option<Claim<EnvironmentId>>,
    zone: Option<Zone>,
    local: bool,
    host: bool,
    dns: bool,
    owner: Option<WorkloadId>,
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

/// The table, sorted by address and length.
pub(super) fn table(
    policy: &Policy,
    inventory: &Inventory,
    terms: &Terms,
    classes: &mut Classes,
) -> Vec<(Address, u32, PeerEntry)> {
    let ranges = Ranges::new(policy, inventory, terms);
    let mut table = Vec::new();
    let mut covered = false;
    // IPv4 lies inside ::/0 in this form of addresses, and no IPv6 range holds an IPv4 address.
    for v4 in [false, true] {
        let mut above: Vec<(Cidr, Declared, PeerEntry)> = Vec::new();
        for (cidr, own) in ranges.0.iter().filter(|(cidr, _)| cidr.is_v4() == v4) {
            while above.last().is_some_and(|(wider, ..)| !wider.covers(*cidr)) {
                above.pop();
            }
            let (whole, wider) = match above.last() {
                Some((_, inherited, entry)) => (own.below(inherited), *entry),
                None => (own.clone(), PeerEntry::UNKNOWN),
            };
            let entry = whole.entry(policy, terms, classes);
            if entry != wider {
                table.push((cidr.first(), u32::from(cidr.prefix_len()), entry));
                covered |= !v4
                    && u32::from(cidr.prefix_len()) < Address::V4_PREFIX
                    && cidr.first() <= V4.first()
                    && V4.first() <= cidr.last();
            }
            above.push((*cidr, whole, entry));
        }
    }
    if covered && !table.iter().any(|(first, len, _)| (*first, *len) == (V4.first(), Address::V4_PREFIX)) {
        table.push((V4.first(), Address::V4_PREFIX, PeerEntry::UNKNOWN));
    }
    table.sort_unstable();
    table
}

/// All IPv4 addresses.
const V4: Cidr = Cidr::of(Address::v4([0; 4]), 96);

/// Every range about which something is declared; a range comes after those that it is nested in.
struct Ranges(BTreeMap<Cidr, Declared>);

impl Ranges {
    fn new(policy: &Policy, inventory: &Inventory, terms: &Terms) -> Self {
        let mut ranges = Self(BTreeMap::new());
        for (cidr, term) in terms.cidrs() {
            ranges.at(cidr).terms.push(term);
        }
        ranges.peers(policy, inventory, terms);
        if terms.name_environments() {
            for (n, environment) in policy.environments.iter().enumerate() {
                for cidr in &environment.cidrs {
                    ranges.claim(*cidr, EnvironmentId(n));
                }
            }
        }
        if terms.number(End::Private).is_some() || terms.number(End::Internet).is_some() {
            for (cidr, zone) in Zone::ranges() {
                ranges.at(cidr).zone = Some(zone);
            }
        }
        ranges.this_machine(inventory);
        for (ip, owner) in inventory.addresses.iter().filter(|(ip, _)| !Address::from(**ip).is_loopback()) {
            ranges.at(Cidr::single(*ip)).owner = *owner;
        }
        ranges
    }

    fn peers(&mut self, policy: &Policy, inventory: &Inventory, terms: &Terms) {
        for (n, peer) in policy.peers.iter().enumerate() {
            let term = terms.number(End::Peer(n));
            let environment = peer.environment.filter(|_| terms.name_environments());
            let resolved = peer.names.iter().filter_map(|name| inventory.names.get(name)).flatten();
            for cidr in peer.cidrs.iter().copied().chain(resolved.map(|ip| Cidr::single(*ip))) {
                self.at(cidr).terms.extend(term);
                if let Some(environment) = environment {
                    self.claim(cidr, environment);
                }
            }
        }
    }

    fn this_machine(&mut self, inventory: &Inventory) {
        for text in LOOPBACK {
            if let Ok(cidr) = text.parse() {
                *self.local(cidr) = true;
            }
        }
        // connect() takes the unspecified address for loopback. It is not `host`: a packet from the wire can bear it.
        for ip in [IpAddr::from([0; 4]), IpAddr::from([0; 16])] {
            self.at(Cidr::single(ip)).local = true;
        }
        // Loopback is everybody's, whoever claims to have it to himself.
        for ip in
            inventory.local.iter().filter(|ip| !ip.is_unspecified() && !Address::from(**ip).is_loopback())
        {
            // Whoever has an address in a namespace of its own is no part of the host as a peer.
            *self.local(Cidr::single(*ip)) = !inventory.addresses.contains_key(ip);
        }
        for ip in &inventory.resolvers {
            self.at(Cidr::single(*ip)).dns = true;
        }
    }

    /// Marks a range as this machine's; is it `host` too?
    fn local(&mut self, cidr: Cidr) -> &mut bool {
        let declared = self.at(cidr);
        declared.local = true;
        &mut declared.host
    }

    fn claim(&mut self, cidr: Cidr, environment: EnvironmentId) {
        let held = &mut self.at(cidr).environment;
        *held = Some(Claim::add(*held, environment));
    }

    fn at(&mut self, cidr: Cidr) -> &mut Declared {
        self.0.entry(cidr).or_default()
    }
}

const LOOPBACK: [&str; 2] = ["127.0.0.0/8", "::1"];

impl Declared {
    /// With what is declared of the range around it.
    fn below(&self, wider: &Self) -> Self {
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

    fn entry(&self, policy: &Policy, terms: &Terms, classes: &mut Classes) -> PeerEntry {
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
        PeerEntry {
            class: classes.of(self.terms.iter().copied().chain(labels).collect()),
            subject: self.owner.map_or(SubjectId::NONE, subject),
            flags: if self.local { PeerEntry::LOCAL } else { 0 },
        }
    }
}

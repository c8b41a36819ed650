//! Who stands for everybody whom an end names: one of each kind that a policy can tell apart.

use std::{collections::BTreeSet, net::IpAddr, ops::Bound};

use bulkhead_common::Address;

use crate::{
    compile::Zone,
    connection::Party,
    describe::names_address,
    inventory::Inventory,
    language::{Cidr, End, Policy, Ports, WorkloadId, address, bits},
    unresolved::Outlook,
};

/// One address of each kind that the policies tell apart.
#[derive(Debug)]
pub(crate) struct Addresses(BTreeSet<Address>);

impl Addresses {
    /// The kinds that any of `policies` tells apart on a host.
    pub(crate) fn new<'p>(policies: impl IntoIterator<Item = &'p Policy>, inventory: &Inventory) -> Self {
        let mut starts = Self([Address::default(), Address::v4([0; 4])].into());
        let mut range = |cidr| starts.split(cidr);
        Zone::ranges().for_each(|(cidr, _)| range(cidr));
        for policy in policies {
            policy.environments.iter().flat_map(|e| &e.cidrs).for_each(|c| range(*c));
            policy.peers.iter().flat_map(|p| &p.cidrs).for_each(|c| range(*c));
            let rules = policy.rules.iter().flat_map(|r| r.from.iter().chain(&r.to));
            let tests = policy.tests.iter().flat_map(|t| t.from.iter().chain(&t.to));
            for end in rules.chain(tests) {
                if let End::Cidr(cidr) = end {
                    range(*cidr);
                }
            }
        }
        let known = inventory.names.values().flatten().chain(&inventory.local).chain(&inventory.resolvers);
        known.chain(inventory.addresses.keys()).for_each(|ip| range(Cidr::single(*ip)));
        range(Cidr::single([127, 0, 0, 1].into()));
        range(Cidr::single(std::net::Ipv6Addr::LOCALHOST.into()));
        starts
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Address> {
        self.0.iter().copied()
    }

    /// Tells apart what is in `cidr` and what is not, too.
    pub(crate) fn split(&mut self, cidr: Cidr) {
        self.0.insert(cidr.first());
        self.0.extend(bits(cidr.last()).checked_add(1).map(address));
    }

    /// Each of them with the last of the addresses that it stands for.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = (Address, Address)> {
        let ends =
            self.0.iter().skip(1).map(|a| address(bits(*a) - 1)).chain([Address::from_octets([0xff; 16])]);
        self.iter().zip(ends)
    }

    /// All whom this one stands for.
    pub(crate) fn alike(&self, ip: IpAddr) -> Alike {
        let mut alike = Alike::default();
        let first = Address::from(ip);
        let next = self.0.range((Bound::Excluded(first), Bound::Unbounded)).next();
        let last = next.map_or(Address::from_octets([0xff; 16]), |next| address(bits(*next) - 1));
        alike.add(first, last);
        alike
    }

    /// Those that `end` names.
    pub(crate) fn named(&self, policy: &Policy, inventory: &Inventory, end: End) -> Vec<Address> {
        match end {
            End::Workload(_) => Vec::new(),
            End::Dns => inventory.resolvers.iter().map(|ip| (*ip).into()).collect(),
            End::Host => {
                let own = inventory.local.iter().filter(|ip| !inventory.addresses.contains_key(*ip));
                let unspecified = |a: Address| IpAddr::from(a).is_unspecified();
                let loopback = self.iter().filter(|a| a.is_loopback() && !unspecified(*a));
                loopback.chain(own.map(|ip| (*ip).into())).collect()
            }
            End::Cidr(cidr) => {
                self.0.range(cidr.first()..=cidr.last()).copied().filter(|a| cidr.holds(*a)).collect()
            }
            End::Peer(p) => {
                let mut found: Vec<_> = policy.peers[p]
                    .cidrs
                    .iter()
                    .flat_map(|c| self.named(policy, inventory, End::Cidr(*c)))
                    .collect();
                let names = policy.peers[p].names.iter().filter_map(|n| inventory.names.get(n));
                found.extend(names.flatten().map(|ip| Address::from(*ip)));
                found
            }
            _ => self.iter().filter(|a| names_address(policy, end, *a)).collect(),
        }
    }
}

/// Who fares alike.
#[derive(Clone, Debug, Default)]
pub(crate) struct Alike {
    /// By name.
    pub(crate) names: Vec<String>,
    ranges: Vec<(Address, Address)>,
}

impl Alike {
    /// The most ranges that are written out.
    const SHOWN: usize = 4;

    /// The addresses from `first` to `last`, which come after those that are there.
    pub(crate) fn add(&mut self, first: Address, last: Address) {
        match self.ranges.last_mut() {
            Some(before)
                if bits(before.1).checked_add(1) == Some(bits(first))
                    && before.0.is_v4() == first.is_v4() =>
            {
                before.1 = last;
            }
            _ => self.ranges.push((first, last)),
        }
    }

    /// Are there too many ranges to write all of them out?
    pub(crate) fn is_scattered(&self) -> bool {
        self.written().count() > Self::SHOWN
    }

    fn written(&self) -> impl Iterator<Item = Cidr> + Clone {
        self.ranges.iter().flat_map(|(first, last)| Cidr::between(*first, *last))
    }

    /// Names first, then ranges as policies write them.
    pub(crate) fn in_words(&self) -> String {
        let mut words = self.names.clone();
        words.extend(self.written().take(Self::SHOWN).map(|c| c.to_string()));
        let more = self.written().count().saturating_sub(Self::SHOWN);
        if more > 0 {
            words.push(format!("{more} more ranges"));
        }
        words.join(", ")
    }
}

/// Everybody whom `end` names: each workload, one address of each kind, and those of whom no address is known.
pub(crate) fn parties(
    policy: &Policy,
    inventory: &Inventory,
    addresses: &Addresses,
    outlook: &Outlook,
    end: End,
) -> Vec<Party> {
    let workloads = (0..policy.workloads.len()).map(WorkloadId);
    let workloads = workloads.filter(|w| end == End::Any || crate::nearest::names_workload(policy, end, *w));
    let named = addresses.named(policy, inventory, end).into_iter().map(|a| Party::Address(a.into()));
    let unresolved = outlook.named(end).map(Party::Unresolved);
    workloads.map(Party::Workload).chain(named).chain(unresolved).collect()
}

/// One port of each kind that the rules tell apart, among those that `ports` open.
pub(crate) fn services(policy: &Policy, ports: &Ports) -> BTreeSet<(u8, u16)> {
    let mut found = BTreeSet::new();
    for span in ports.spans() {
        found.insert((span.protocol.0, span.first));
        let rules = policy.rules.iter().flat_map(|r| &r.ports).flat_map(Ports::spans);
        for other in rules.filter(|other| other.protocol == span.protocol) {
            let starts = [Some(other.first), other.last.checked_add(1)].into_iter().flatten();
            found.extend(starts.filter(|p| span.holds(span.protocol, *p)).map(|p| (span.protocol.0, p)));
        }
    }
    found
}

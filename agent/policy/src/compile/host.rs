//! What the host declares of addresses: of each alone, never of a range.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr},
};

use bulkhead_common::Address;

use super::{addresses::Declared, terms::Terms};
use crate::{
    inventory::Inventory,
    language::{Policy, WorkloadId},
};

/// The inventory of a host, and whose names its addresses go by.
#[derive(Debug)]
pub(super) struct Host {
    inventory: Inventory,
    /// By DNS name: the peers that have it.
    peers: HashMap<String, Vec<usize>>,
    /// By address: the peers one of whose names stands for it, once for each name.
    named: BTreeMap<Address, Vec<usize>>,
}

impl Host {
    /// A host of which nothing is known.
    pub(super) fn new(policy: &Policy) -> Self {
        let mut peers: HashMap<String, Vec<usize>> = HashMap::new();
        for (n, peer) in policy.peers.iter().enumerate() {
            for name in &peer.names {
                peers.entry(name.clone()).or_default().push(n);
            }
        }
        Self { inventory: Inventory::default(), peers, named: BTreeMap::new() }
    }

    /// Knows another inventory from now on; tells the addresses of which it declares something else.
    pub(super) fn learn(&mut self, inventory: Inventory) -> BTreeSet<Address> {
        let old = std::mem::replace(&mut self.inventory, inventory);
        let new = &self.inventory;
        let owned = differing(&old.addresses, &new.addresses);
        let local = old.local.symmetric_difference(&new.local);
        let resolvers = old.resolvers.symmetric_difference(&new.resolvers);
        let mut changed: BTreeSet<Address> =
            owned.into_iter().chain(local).chain(resolvers).map(|ip| Address::from(*ip)).collect();
        let nothing = BTreeSet::new();
        for name in differing(&old.names, &new.names) {
            let Some(peers) = self.peers.get(name) else { continue };
            let resolved = |inventory: &'_ Inventory| {
                let ips = inventory.names.get(name).unwrap_or(&nothing);
                ips.iter().map(|ip| Address::from(*ip)).collect::<BTreeSet<_>>()
            };
            let (before, after) = (resolved(&old), resolved(new));
            for gone in before.difference(&after) {
                let left = self.named.entry(*gone).or_default();
                for peer in peers {
                    if let Some(at) = left.iter().position(|p| p == peer) {
                        left.swap_remove(at);
                    }
                }
                if left.is_empty() {
                    self.named.remove(gone);
                }
            }
            for new in after.difference(&before) {
                self.named.entry(*new).or_default().extend(peers);
            }
            changed.extend(before.symmetric_difference(&after));
        }
        changed
    }

    /// Adds what the host declares of one address to what the policy does.
    pub(super) fn declare(&self, declared: &mut Declared, address: Address, policy: &Policy, terms: &Terms) {
        let inventory = &self.inventory;
        declared.dns |= forms(address).any(|ip| inventory.resolvers.contains(&ip));
        for peer in self.named.get(&address).into_iter().flatten() {
            declared.join_peer(policy, terms, *peer);
        }
        // Loopback is everybody's, whoever claims to have it to himself.
        if address.is_loopback() {
            return;
        }
        let mut owners = forms(address).filter_map(|ip| inventory.addresses.get(&ip)).copied();
        let owner: Option<Option<WorkloadId>> = owners.next();
        declared.owner = owner.flatten().filter(|_| owners.all(|other| Some(other) == owner));
        if forms(address).any(|ip| inventory.local.contains(&ip)) {
            declared.local = true;
            // Whoever has an address in a namespace of its own is no part of the host as a peer.
            declared.host |= owner.is_none();
        }
    }
}

/// The forms in which an inventory can write an address: IPv4 also as IPv4-mapped IPv6.
fn forms(address: Address) -> impl Iterator<Item = IpAddr> {
    let ip = IpAddr::from(address);
    let mapped = if let IpAddr::V4(v4) = ip { Some(v4) } else { None };
    [Some(ip), mapped.as_ref().map(Ipv4Addr::to_ipv6_mapped).map(IpAddr::from)].into_iter().flatten()
}

/// The keys that are in one map alone or have another value in each, in one walk along both.
fn differing<'m, K: Ord, V: PartialEq>(old: &'m BTreeMap<K, V>, new: &'m BTreeMap<K, V>) -> Vec<&'m K> {
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    let mut keys = Vec::new();
    loop {
        match (old.peek(), new.peek()) {
            (None, None) => return keys,
            (Some((a, x)), Some((b, y))) if a == b => {
                if x != y {
                    keys.push(*a);
                }
                old.next();
                new.next();
            }
            (Some((a, _)), other) if other.is_none_or(|(b, _)| a < b) => {
                keys.push(*a);
                old.next();
            }
            (_, other) => {
                keys.extend(other.map(|(b, _)| *b));
                new.next();
            }
        }
    }
}

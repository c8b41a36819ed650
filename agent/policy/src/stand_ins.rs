//! Addresses that stand for whom only a host can find: its resolvers, its own addresses, and what DNS names stand for.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use bulkhead_common::Address;

use crate::{inventory::Inventory, language::Policy};

/// An inventory in which everything that the policies name has an address, and whom the made-up ones stand for. They
/// are reserved addresses, which nobody has (RFC 1112 section 4).
#[derive(Clone, Debug)]
pub(crate) struct StandIns {
    /// With them.
    pub(crate) inventory: Inventory,
    names: BTreeMap<Address, String>,
    unused: std::ops::Range<u32>,
}

impl StandIns {
    /// For the resolvers, this machine, and each DNS name that `inventory` has no address for.
    pub(crate) fn new<'p>(policies: impl IntoIterator<Item = &'p Policy>, inventory: &Inventory) -> Self {
        let mut all =
            Self { inventory: inventory.clone(), names: BTreeMap::new(), unused: 0xf000_0035..0xffff_ffff };
        if inventory.resolvers.is_empty() {
            let stand_in = all.made_up("dns");
            all.inventory.resolvers.extend(stand_in);
        }
        for name in policies.into_iter().flat_map(|p| &p.peers).flat_map(|p| &p.names) {
            if all.inventory.names.get(name).is_none_or(BTreeSet::is_empty) {
                all.add_name(name, &[name]);
            }
        }
        if inventory.local.is_empty() {
            let stand_in = all.made_up("host");
            all.inventory.local.extend(stand_in);
        }
        all
    }

    /// Another one, for a DNS name that the peers' names `patterns` hold.
    pub(crate) fn add_name(&mut self, name: &str, patterns: &[&str]) -> Option<IpAddr> {
        let ip = self.made_up(name)?;
        for pattern in patterns {
            self.inventory.names.entry((*pattern).to_owned()).or_default().insert(ip);
        }
        Some(ip)
    }

    /// Whom the address stands for, if it is made up.
    pub(crate) fn name(&self, address: Address) -> Option<&str> {
        self.names.get(&address).map(String::as_str)
    }

    fn made_up(&mut self, whom: &str) -> Option<IpAddr> {
        let ip = IpAddr::V4(self.unused.next()?.into());
        self.names.insert(ip.into(), whom.to_owned());
        Some(ip)
    }
}

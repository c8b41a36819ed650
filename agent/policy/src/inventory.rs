//! What is known of this host when a policy is compiled.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::language::WorkloadId;

/// Addresses that only the host knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Addresses that a workload has to itself in a network namespace of its own. None: several claim it, and it
    /// identifies nobody.
    pub addresses: BTreeMap<IpAddr, Option<WorkloadId>>,
    /// All addresses of this machine, in any namespace.
    pub local: BTreeSet<IpAddr>,
    /// The DNS resolvers that this machine asks: `dns` in a rule.
    pub resolvers: BTreeSet<IpAddr>,
    /// What the DNS names of peers stand for now, by the name as the policy writes it ([`crate::Peer::names`]).
    pub names: BTreeMap<String, BTreeSet<IpAddr>>,
}

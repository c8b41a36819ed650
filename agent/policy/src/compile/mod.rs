//! [`Policy`] and [`Inventory`] to the flat tables that the kernel and [`bulkhead_common::decide`] look up.
//!
//! Each local end asks its own allowlist, so a rule becomes entries at both: egress entries of the workloads in
//! `from`, ingress entries of those in `to`. An entry names the other end by its class: the set of rule ends (terms)
//! that it matches. Peers that match the same terms share a class, so that the tables grow with what rules tell
//! apart and not with the number of peers.
//!
//! One compiler does both: it compiles a policy from nothing, and it follows the host with edits of the tables.

mod addresses;
mod classes;
mod compiler;
mod edits;
mod entries;
mod host;
mod lookup;
mod peer_class;
mod port_prefix;
mod raw;
mod terms;
#[cfg(test)]
mod tests;
mod zones;

use bulkhead_common::{Address, Endpoint, PeerEntry, PeerId, PolicyKey, PolicyValue, SubjectId};

use crate::{
    by_address::ByAddress,
    inventory::Inventory,
    language::{Mode, Policy, WorkloadId},
};
pub(crate) use addresses::Claim;
pub use compiler::Compiler;
pub use edits::Edits;
pub(crate) use lookup::Ahead;
use lookup::PolicyIndex;
pub use peer_class::{NamedClass, PeerClass};
pub(crate) use port_prefix::PortPrefix;
pub(crate) use zones::Zone;

/// One policy on one host, as tables. The same policy and inventory give the same bytes.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The ends of the workloads, by [`WorkloadId`].
    pub endpoints: Vec<Endpoint>,
    /// The end of whoever must be in a workload and could not be told in which.
    pub unidentified: Endpoint,
    /// Addresses (first address, length of the prefix in bits of an [`Address`]) and who they are, sorted.
    pub peers: Vec<(Address, u32, PeerEntry)>,
    /// The allowlists (length of the prefix, key, value), sorted by key and length. Rules are numbered as in
    /// [`Policy::rules`]; times are nanoseconds since the Unix epoch.
    pub policy: Vec<(u32, PolicyKey, PolicyValue)>,
    addresses: ByAddress<PeerEntry>,
    allowlists: PolicyIndex,
}

/// Compiles a policy for a host.
pub fn compile(policy: &Policy, inventory: &Inventory) -> Compiled {
    Compiler::new(policy, inventory.clone()).compiled()
}

/// The number of a workload in the kernel's tables.
pub(crate) fn subject(workload: WorkloadId) -> SubjectId {
    SubjectId(u32::try_from(workload.0 + 1).unwrap_or(u32::MAX))
}

/// The flags of a workload's end.
fn flags(policy: &Policy, workload: WorkloadId) -> u32 {
    let w = &policy.workloads[workload.0];
    let side = |open: bool, flag: u32| if open { 0 } else { flag };
    let isolated =
        side(w.egress_open, Endpoint::ISOLATE_EGRESS) | side(w.ingress_open, Endpoint::ISOLATE_INGRESS);
    match policy.mode(workload) {
        Mode::Enforce => isolated,
        Mode::Audit => isolated | Endpoint::AUDIT,
        // Who sends in its name is refused whatever its mode, but not in a dry run.
        Mode::Off if policy.dry_run => Endpoint::AUDIT,
        Mode::Off => 0,
    }
}

/// Whoever is not identified may be any of the workloads: refused if one of them is enforced.
fn unidentified(policy: &Policy) -> Endpoint {
    let mut modes = (0..policy.workloads.len()).map(|n| policy.mode(WorkloadId(n)));
    let audit =
        if policy.workloads.is_empty() || modes.any(|m| m == Mode::Enforce) { 0 } else { Endpoint::AUDIT };
    Endpoint {
        subject: SubjectId::UNIDENTIFIED,
        peer: PeerId::NONE,
        flags: Endpoint::ISOLATE_EGRESS | Endpoint::ISOLATE_INGRESS | audit,
    }
}

//! Which ends have somebody in common, and which contain which, as far as the policy alone tells.

use std::collections::{BTreeSet, HashMap};

use bulkhead_common::Address;

use super::{Cidr, End, EnvironmentId, Policy, Ports, WorkloadId};
use crate::compile::Zone;

/// What two ends have in common. Environments are looked up once.
pub(super) struct Overlap<'p> {
    policy: &'p Policy,
    /// By environment: the ranges in it, in order.
    ranges: Vec<Vec<Cidr>>,
    /// The environment of each range, and the lengths of their prefixes.
    environments: HashMap<Cidr, EnvironmentId>,
    lengths: BTreeSet<u8>,
}

impl<'p> Overlap<'p> {
    pub(super) fn new(policy: &'p Policy) -> Self {
        let own = policy.environments.iter().enumerate().map(|(n, e)| (EnvironmentId(n), &e.cidrs));
        let peers = policy.peers.iter().filter_map(|p| Some((p.environment?, &p.cidrs)));
        let mut ranges = vec![Vec::new(); policy.environments.len()];
        let mut environments = HashMap::new();
        for (environment, cidrs) in own.chain(peers) {
            ranges[environment.0].extend(cidrs);
            environments.extend(cidrs.iter().map(|cidr| (*cidr, environment)));
        }
        for ranges in &mut ranges {
            ranges.sort_unstable_by_key(order);
        }
        let lengths = environments.keys().map(|cidr| cidr.prefix_len()).collect();
        Self { policy, ranges, environments, lengths }
    }

    /// Can somebody be both? A workload is met by its names and by `any` only: an address opens nothing at its end.
    pub(super) fn meets(&self, a: End, b: End) -> bool {
        match (a, b) {
            (End::Any, _) | (_, End::Any) => true,
            (End::Workload(w), other) | (other, End::Workload(w)) => self.names_workload(other, w),
            (End::Environment(a), End::Environment(b)) => a == b,
            (End::Environment(e), other) | (other, End::Environment(e)) => {
                let is_member = matches!(other, End::Peer(p) if self.policy.peers[p].environment == Some(e));
                is_member || self.ranges(other).iter().any(|c| self.environment_reaches(e, *c))
            }
            (End::Peer(a), End::Peer(b)) if a == b => true,
            (a, b) if a == b => true,
            (a, b) => {
                let others = self.ranges(b);
                self.ranges(a).iter().any(|x| others.iter().any(|y| x.meets(*y)))
            }
        }
    }

    /// Is an address of `cidr` in the environment: is there no narrower range of another one between?
    fn environment_reaches(&self, environment: EnvironmentId, cidr: Cidr) -> bool {
        let around = self.lengths.range(..=cidr.prefix_len()).rev().map(|len| cidr.widened(*len));
        let narrowest =
            around.filter(|range| range.covers(cidr)).find_map(|range| self.environments.get(&range));
        // The first range that does not begin before it is inside, if one is.
        let ranges = &self.ranges[environment.0];
        let next = ranges.partition_point(|range| order(range) < order(&cidr));
        narrowest == Some(&environment) || ranges.get(next).is_some_and(|range| cidr.covers(*range))
    }

    fn names_workload(&self, end: End, workload: WorkloadId) -> bool {
        match end {
            End::Workload(w) => w == workload,
            End::Environment(e) => self.policy.workloads[workload.0].environment == Some(e),
            _ => false,
        }
    }

    /// The ranges that an end has, be they in another environment. What only the host knows is left out.
    pub(super) fn declared(&self, end: End) -> Vec<Cidr> {
        match end {
            End::Environment(e) => self.ranges[e.0].clone(),
            other => self.ranges(other),
        }
    }

    /// Has it any of these?
    pub(super) fn has_ranges(&self, end: End) -> bool {
        match end {
            End::Environment(e) => !self.ranges[e.0].is_empty(),
            End::Peer(p) => !self.policy.peers[p].cidrs.is_empty(),
            End::Cidr(_) | End::Private | End::Internet | End::Host => true,
            End::Any | End::Dns | End::Workload(_) => false,
        }
    }

    /// The addresses of an end that is neither a workload nor an environment. What only the host knows is left out.
    fn ranges(&self, end: End) -> Vec<Cidr> {
        match end {
            End::Peer(p) => self.policy.peers[p].cidrs.clone(),
            End::Cidr(cidr) => vec![cidr],
            End::Private => Zone::Private.disjoint(),
            End::Internet => Zone::Internet.disjoint(),
            End::Host => ["127.0.0.0/8", "::1"].iter().filter_map(|c| c.parse().ok()).collect(),
            End::Any | End::Dns | End::Environment(_) | End::Workload(_) => Vec::new(),
        }
    }

    /// Does naming `wide` open everything that naming `narrow` opens? Addresses and `any` open no workload's end.
    pub(super) fn covers(&self, wide: End, narrow: End) -> bool {
        match (wide, narrow) {
            (a, b) if a == b => true,
            (End::Any, b) => !matches!(b, End::Workload(_) | End::Environment(_)),
            (End::Environment(_), End::Workload(w)) => self.names_workload(wide, w),
            (End::Cidr(wide), End::Cidr(narrow)) => wide.covers(narrow),
            (End::Cidr(_) | End::Peer(_), End::Cidr(_) | End::Peer(_)) => {
                let inner = self.ranges(narrow);
                let outer = self.ranges(wide);
                let named = matches!(narrow, End::Peer(p) if !self.policy.peers[p].names.is_empty());
                !named && !inner.is_empty() && inner.iter().all(|i| outer.iter().any(|o| o.covers(*i)))
            }
            _ => false,
        }
    }
}

/// Families apart, a range before those that are inside it.
fn order(range: &Cidr) -> (bool, Address, u8) {
    (range.is_v4(), range.first(), range.prefix_len())
}

/// Have the lists a port in common? None stands for all of them.
pub(super) fn ports_meet(a: &[Ports], b: &[Ports]) -> bool {
    let spans = |ports: &[Ports]| {
        let mut spans: Vec<_> = ports.iter().flat_map(Ports::spans).copied().collect();
        spans.sort_unstable();
        spans
    };
    if a.is_empty() || b.is_empty() {
        return true;
    }
    let (a, b) = (spans(a), spans(b));
    let (mut a, mut b) = (a.iter().peekable(), b.iter().peekable());
    // Of two ranges apart the one that ends first meets nothing that comes after the other.
    while let (Some(x), Some(y)) = (a.peek(), b.peek()) {
        if x.meets(**y) {
            return true;
        }
        if (x.protocol, x.last) < (y.protocol, y.last) {
            a.next()
        } else {
            b.next()
        };
    }
    false
}

/// Does `wide` hold every port of `narrow`, range by range?
pub(super) fn ports_cover(wide: &[Ports], narrow: &[Ports]) -> bool {
    let holds = |first: u16, last: u16, protocol| {
        wide.iter()
            .flat_map(Ports::spans)
            .any(|s| s.protocol == protocol && s.first <= first && last <= s.last)
    };
    wide.is_empty()
        || (!narrow.is_empty()
            && narrow.iter().flat_map(Ports::spans).all(|s| holds(s.first, s.last, s.protocol)))
}

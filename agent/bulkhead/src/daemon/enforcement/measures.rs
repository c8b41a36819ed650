//! What can be measured of the policy in force.

use std::time::Instant;

use bulkhead_common::Counter;
use bulkhead_policy::{Identity, WorkloadId};

use super::Enforcement;
use crate::{
    control,
    daemon::{metrics::Measures, refusals::Refusals},
};

impl Enforcement {
    /// What there is to be measured now.
    pub(in crate::daemon) fn measures(
        &self,
        dry_run: bool,
        started: Instant,
        refusals: &Refusals,
    ) -> Measures {
        let mut cgroups = vec![0; self.policy.workloads.len()];
        for (_, identity) in self.members.placed() {
            if let Identity::Workload(WorkloadId(n)) = identity {
                cgroups[n] += 1;
            }
        }
        let names = self.policy.workloads.iter().map(|workload| workload.name.clone());
        Measures {
            uptime: started.elapsed(),
            dry_run,
            generation: self.generation,
            rules: self.policy.rules.len(),
            environments: self.policy.environments.len(),
            workloads: names.zip(cgroups).collect(),
            events: refusals.counts(),
            late: refusals.late(),
            crowded: self.times_crowded,
            faults: self.faults,
            ledger: self.ledger.clone(),
        }
    }

    pub(super) fn traffic(&self) -> Option<control::Traffic> {
        let read = self.datapath.traffic();
        let traffic =
            read.inspect_err(|error| tracing::warn!(%error, "what was counted cannot be read")).ok()?;
        let count =
            |c: Counter| control::Count { packets: c.packets, bytes: c.bytes, connections: c.connections };
        Some(control::Traffic {
            allowed: count(traffic.allowed),
            denied: count(traffic.denied),
            would_deny: count(traffic.would_deny),
            refused_calls: traffic.refused_calls,
            other: count(traffic.other),
        })
    }
}

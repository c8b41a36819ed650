//! What can be measured of what is in force.

use std::time::Instant;

use bulkhead_policy::Identity;

use super::Enforcement;
use crate::{
    daemon::{metrics::Measures, refusals::Refusals},
    log::Log,
};

impl Enforcement {
    /// What there is to be measured now. Nothing of it takes long.
    pub(in crate::daemon) fn measures(
        &self,
        dry_run: bool,
        started: Instant,
        refusals: &Refusals,
        log: &Log,
    ) -> Measures {
        let held = self.in_force();
        let policy = held.policy();
        let mut cgroups = vec![0; policy.workloads.len()];
        for identity in held.identities() {
            if let Identity::Workload(id) = identity {
                cgroups[id.0] += 1;
            }
        }
        let names = policy.workloads.iter().map(|workload| workload.name.clone());
        Measures {
            uptime: started.elapsed(),
            dry_run,
            on_trial: self.on_trial().is_some(),
            generation: held.number(),
            rules: policy.rules.len(),
            environments: policy.environments.len(),
            workloads: names.zip(cgroups).collect(),
            events: refusals.counts(),
            late: refusals.late(),
            log_lines_lost: log.lost(),
            crowded: self.times_crowded,
            faults: self.faults,
            ledger: self.ledger.clone(),
        }
    }
}

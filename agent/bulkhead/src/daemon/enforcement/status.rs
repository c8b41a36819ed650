//! What the agent tells of what is in force.

use std::time::Instant;

use bulkhead_common::Counter;
use bulkhead_datapath::Traffic;
use bulkhead_policy::{Identity, Mode, Policy, WorkloadId};
use tokio::sync::oneshot;

use super::Enforcement;
use crate::{
    control::{self, Environment, Status},
    daemon::priority,
};

impl Enforcement {
    /// What is enforced now; what was counted takes a while and is [added](Self::add_traffic).
    pub(in crate::daemon) fn status(
        &self,
        dry_run: bool,
        started: Instant,
        events: control::Events,
    ) -> Status {
        let held = self.in_force();
        let policy = held.policy();
        let environments = policy.environments.iter().enumerate().map(|(n, environment)| {
            let members = policy.workloads.iter().filter(|w| w.environment.is_some_and(|e| e.0 == n));
            let mode = match environment.mode {
                Mode::Enforce if dry_run => Mode::Audit,
                mode => mode,
            };
            Environment {
                name: environment.name.clone(),
                mode: mode.name().to_owned(),
                workloads: members.count(),
            }
        });
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime: started.elapsed().as_secs(),
            cgroup_root: self.root.path().to_owned(),
            dry_run,
            generation: held.number(),
            policy: held.sources().iter().map(|source| source.name.clone()).collect(),
            policy_hash: held.hash().to_owned(),
            tables_hash: held.tables_hash(),
            trial: self.trial_ends().map(|ends| {
                let left = ends.saturating_duration_since(Instant::now());
                control::Trial { ends_in: left.as_secs_f64() }
            }),
            shadow: self.shadow(),
            rules: policy.rules.len(),
            environments: environments.collect(),
            workloads: held.workloads(),
            warnings: self.warnings(),
            events,
            traffic: None,
        }
    }

    /// Adds what the programs have counted, on another thread: to go through all counters may take a tenth of a second, in
    /// which nobody would follow the cgroups.
    pub(in crate::daemon) fn add_traffic(&self, status: Status, to: oneshot::Sender<Status>) {
        let tally = self.datapath.tally();
        tokio::task::spawn_blocking(move || {
            priority::ordinary();
            let read = tally.traffic();
            let read = read.inspect_err(|error| tracing::warn!(%error, "what was counted cannot be read"));
            // Who asked may be gone.
            let _ = to.send(Status { traffic: read.ok().map(traffic), ..status });
        });
    }

    /// What the operator should look after.
    pub(in crate::daemon) fn warnings(&self) -> Vec<String> {
        let held = self.in_force();
        let policy = held.policy();
        let mut selected = held.selected();
        let workloads = || (0..policy.workloads.len()).map(WorkloadId);
        let mut warnings = of_workloads(
            policy,
            workloads().filter(|id| policy.needs_container_facts(*id)),
            "is selected by container or Kubernetes, which this version does not follow: select it by systemd or cgroup",
        );
        let is_empty = |id: &WorkloadId| {
            !policy.needs_container_facts(*id) && !selected.contains_key(&Identity::Workload(*id))
        };
        warnings.extend(of_workloads(policy, workloads().filter(is_empty), "selects nothing now"));
        for cgroup in selected.remove(&Identity::Unidentified).unwrap_or_default() {
            warnings.push(format!(
                "{cgroup} is selected by several workloads with equal right and refused everything: make one selector \
                 more specific"
            ));
        }
        for cgroup in held.too_deep() {
            warnings
                .push(format!("{cgroup} is nested too deep and is not enforced: select a cgroup above it"));
        }
        let ignored = self.tree.read().ignored();
        if ignored > 0 {
            warnings.push(format!(
                "{ignored} cgroups are not followed, since there are too many or they are nested too deep"
            ));
        }
        warnings.extend(
            self.unwatched
                .iter()
                .map(|why| format!("processes that are moved out of their workload are not reported: {why}")),
        );
        warnings.extend(self.pinned.warning());
        warnings.extend(self.unseen.iter().map(|unseen| unseen.warning(policy)));
        warnings.extend(
            self.fault.iter().map(|fault| format!("the kernel's tables may be out of date: {fault}")),
        );
        warnings
    }
}

/// The same of several workloads, one by one as long as somebody would read it.
fn of_workloads(policy: &Policy, ids: impl Iterator<Item = WorkloadId>, what: &str) -> Vec<String> {
    const SHOWN: usize = 5;
    let mut ids = ids.map(|WorkloadId(n)| &policy.workloads[n]);
    let shown = ids.by_ref().take(SHOWN).map(|w| format!("workload {} ({}) {what}", w.name, w.place));
    let mut warnings: Vec<_> = shown.collect();
    let more = ids.count();
    if more > 0 {
        warnings.push(format!("the same of {more} more workloads: `bulkhead workloads` lists them"));
    }
    warnings
}

fn traffic(read: Traffic) -> control::Traffic {
    let count =
        |c: Counter| control::Count { packets: c.packets, bytes: c.bytes, connections: c.connections };
    control::Traffic {
        allowed: count(read.allowed),
        denied: count(read.denied),
        would_deny: count(read.would_deny),
        refused_calls: read.refused_calls,
        other: count(read.other),
    }
}

#[cfg(test)]
mod tests {
    use bulkhead_policy::{Source, load};

    use super::*;

    #[test]
    fn many_workloads_are_one_warning_after_the_first() {
        let declare = |n| format!("[workload.w{n}]\nselect = {{ cgroup = \"/w{n}\" }}\n");
        let text: String = (0..8).map(declare).collect();
        let policy = load(&[Source::new("p.toml", text)]).unwrap().policy;
        let warnings = |count| of_workloads(&policy, (0..count).map(WorkloadId), "selects nothing now");
        assert_eq!(warnings(1), ["workload w0 (p.toml:1) selects nothing now"]);
        assert_eq!(warnings(5).len(), 5);
        let of_eight = warnings(8);
        assert_eq!(of_eight.len(), 6);
        assert_eq!(of_eight[5], "the same of 3 more workloads: `bulkhead workloads` lists them");
    }
}

//! Who is in which workload, for who asks.

use std::collections::{BTreeMap, HashMap};

use bulkhead_common::Counter;
use bulkhead_policy::{Identity, WorkloadId};
use bulkhead_report::time_of_day;
use bulkhead_workloads::population;
use tokio::sync::oneshot;

use super::{Enforcement, Held};
use crate::{
    control::{Count, DetailedWorkload, Workload, WorkloadTraffic},
    daemon::{
        ledger::{ByWorkload, Ledger},
        priority,
    },
};

impl Held {
    /// The workloads of the policy, with what is matched by their selectors now.
    pub(super) fn workloads(&self) -> Vec<Workload> {
        let policy = self.policy();
        let mut cgroups = self.selected();
        let mut addresses: HashMap<WorkloadId, Vec<_>> = HashMap::new();
        for (address, owner) in &self.inventory().addresses {
            if let Some(owner) = owner {
                addresses.entry(*owner).or_default().push(*address);
            }
        }
        let workloads = policy.workloads.iter().enumerate().map(|(n, workload)| {
            let id = WorkloadId(n);
            Workload {
                name: workload.name.clone(),
                environment: workload.environment.map(|e| policy.environments[e.0].name.clone()),
                mode: policy.mode(id).name().to_owned(),
                cgroups: cgroups.remove(&Identity::Workload(id)).unwrap_or_default(),
                addresses: addresses.remove(&id).unwrap_or_default(),
            }
        });
        workloads.collect()
    }
}

impl Enforcement {
    /// Tells of all workloads. Who asked may be gone.
    ///
    /// On another thread: to count processes and to read all counters may take a tenth of a second each.
    pub(in crate::daemon) fn tell_workloads(&self, to: oneshot::Sender<Vec<DetailedWorkload>>) {
        let held = self.in_force();
        let (workloads, directories) = (held.workloads(), held.directories());
        let selectors: Vec<Vec<String>> = held
            .policy()
            .workloads
            .iter()
            .map(|workload| workload.selectors.iter().map(|(selector, _)| selector.to_string()).collect())
            .collect();
        let ledger = self.ledger.clone();
        tokio::task::spawn_blocking(move || {
            priority::ordinary();
            let population = population(&directories);
            let traffic = traffic(&ledger);
            let detailed =
                workloads.into_iter().zip(selectors).enumerate().map(|(n, (workload, selectors))| {
                    let here = population.get(&WorkloadId(n)).copied().unwrap_or_default();
                    let of_name =
                        |traffic: &BTreeMap<_, _>| traffic.get(&workload.name).copied().unwrap_or_default();
                    DetailedWorkload {
                        traffic: traffic.as_ref().map(of_name),
                        selectors,
                        members: here.cgroups,
                        processes: here.processes,
                        workload,
                    }
                });
            let _ = to.send(detailed.collect());
        });
    }
}

/// Traffic by the workload's name; none: it cannot be read.
fn traffic(ledger: &Ledger) -> Option<BTreeMap<String, WorkloadTraffic>> {
    match ledger.read() {
        Ok((_, read)) => Some(by_name(read)),
        Err(error) => {
            tracing::warn!(%error, "what was counted cannot be read");
            None
        }
    }
}

fn by_name(read: ByWorkload) -> BTreeMap<String, WorkloadTraffic> {
    let mut found: BTreeMap<String, WorkloadTraffic> = BTreeMap::new();
    for (entry, counter) in read {
        let of = found.entry(entry.workload).or_default();
        if entry.calls {
            of.refused_calls += counter.packets;
        } else {
            match entry.verdict {
                "allowed" => add(&mut of.allowed, &counter),
                "would-deny" => add(&mut of.would_deny, &counter),
                _ => add(&mut of.denied, &counter),
            }
        }
        if counter.last_seen > 0 {
            of.last_seen = of.last_seen.max(Some(time_of_day(counter.last_seen)));
        }
    }
    found
}

fn add(count: &mut Count, counter: &Counter) {
    count.packets += counter.packets;
    count.bytes += counter.bytes;
    count.connections += counter.connections;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::ledger::Entry;

    #[test]
    fn what_is_counted_apart_is_one_workloads() {
        let entry = |workload: &str, direction, verdict, calls| Entry {
            workload: workload.into(),
            direction,
            verdict,
            calls,
        };
        let counter = |packets, last_seen| Counter {
            packets,
            bytes: 100 * packets,
            connections: 1,
            last_seen,
            ..Counter::default()
        };
        let read = ByWorkload::from([
            (entry("web", "egress", "allowed", false), counter(3, 5_000_000_000)),
            (entry("web", "ingress", "allowed", false), counter(4, 7_000_000_000)),
            (entry("web", "egress", "denied", false), counter(2, 0)),
            (entry("web", "egress", "denied", true), counter(5, 1)),
            (entry("db", "ingress", "would-deny", false), counter(1, 0)),
        ]);
        let found = by_name(read);
        let web = found["web"];
        assert_eq!(web.allowed, Count { packets: 7, bytes: 700, connections: 2 });
        assert_eq!((web.denied.packets, web.refused_calls, web.refusals()), (2, 5, 7));
        let last = web.last_seen.unwrap();
        assert!(last.duration_since(time_of_day(7_000_000_000)).abs().as_millis() < 100, "{last}");
        assert_eq!((found["db"].refusals(), found["db"].last_seen), (1, None));
    }
}

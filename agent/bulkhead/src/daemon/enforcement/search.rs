//! Looks for the addresses of workloads, off the thread that follows cgroups: that must not wait for /proc.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use bulkhead_policy::{Inventory, Policy, WorkloadId};
use bulkhead_workloads::{addresses, list_processes};
use tokio::task::JoinHandle;

use super::{
    super::priority,
    Enforcement, Role,
    unseen::{self, Capables},
};

/// A look through the processes of the workloads.
#[derive(Default)]
pub(super) struct Search {
    task: Option<JoinHandle<Found>>,
    /// How long the last one took.
    cost: Duration,
}

/// What it has found.
struct Found {
    /// For each policy where they are others than before.
    inventories: Inventories,
    capable: Option<Capables>,
    took: Duration,
}

/// By whose workloads they are, and the addresses.
pub(in crate::daemon) type Inventories = Vec<(Arc<Policy>, Inventory)>;

/// Of one policy: the directories of the cgroups of its workloads, and what is known.
type Known = (Arc<Policy>, Vec<(WorkloadId, PathBuf)>, Inventory);

impl Enforcement {
    /// Begins to look for addresses.
    pub(in crate::daemon) fn look_for_addresses(&mut self) {
        if self.search.task.is_some() {
            return;
        }
        // What is in force comes last: see `look`.
        let held = self.compared.policy().into_iter().chain([&self.lasting]).chain(self.on_trial());
        let known: Vec<Known> = held
            .map(|held| (Arc::clone(held.policy()), held.directories(), held.inventory().clone()))
            .collect();
        let with_capable = self.unseen.is_some();
        self.search.task = Some(tokio::task::spawn_blocking(move || {
            priority::ordinary();
            look(known, with_capable)
        }));
    }

    /// Waits until a search for addresses has found others than before; for ever if there is no search.
    pub(in crate::daemon) async fn addresses_found(&mut self) -> Inventories {
        loop {
            let Some(search) = &mut self.search.task else { return std::future::pending().await };
            let found = search.await;
            self.search.task = None;
            match found {
                Ok(Found { inventories, capable, took }) => {
                    self.search.cost = took;
                    if let (Some(unseen), Some(capable)) = (&mut self.unseen, capable) {
                        unseen.update(capable);
                    }
                    if !inventories.is_empty() {
                        return inventories;
                    }
                }
                Err(error) => tracing::error!(%error, "the search for addresses has failed: this is a bug"),
            }
        }
    }

    /// How long the last search for addresses took.
    pub(in crate::daemon) fn cost_of_search(&self) -> Duration {
        self.search.cost
    }

    /// Brings the kernel's tables up to date with the addresses found. Those of a policy that is gone concern nobody.
    pub(in crate::daemon) fn take_addresses(&mut self, found: Inventories) {
        for (policy, inventory) in found {
            for role in Role::ALL {
                let done = match self.parts(role) {
                    Some((held, datapath, policies)) if Arc::ptr_eq(held.policy(), &policy) => {
                        held.take_addresses(datapath, policies, inventory.clone())
                    }
                    _ => continue,
                };
                self.note(done);
            }
        }
        self.ledger.fold();
    }
}

fn look(known: Vec<Known>, with_capable: bool) -> Found {
    let started = Instant::now();
    let mut found = Found { inventories: Vec::new(), capable: None, took: Duration::ZERO };
    for (policy, directories, known) in known {
        let cgroups = list_processes(directories);
        match addresses(&cgroups) {
            Ok(inventory) if inventory != known => found.inventories.push((Arc::clone(&policy), inventory)),
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "cannot read the addresses of this machine"),
        }
        if with_capable {
            // Of the last one, which is in force.
            found.capable = Some(unseen::capable(&policy, &cgroups));
        }
    }
    found.took = started.elapsed();
    found
}

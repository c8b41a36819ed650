//! Metrics for Prometheus and whoever else reads OpenMetrics: docs/reporting.md has all their names.

mod families;
mod server;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use super::ledger::Ledger;
use crate::control::Events;

/// What the agent knows at the moment of a scrape. What takes a while to read is read by whoever renders it.
pub(super) struct Measures {
    pub(super) uptime: Duration,
    pub(super) dry_run: bool,
    /// Is the policy in force for a while only?
    pub(super) on_trial: bool,
    pub(super) generation: u32,
    pub(super) rules: usize,
    pub(super) environments: usize,
    /// Workloads with the number of cgroups that their selectors match now.
    pub(super) workloads: Vec<(String, usize)>,
    pub(super) events: Events,
    /// Records that were due and found no room on their way out of the kernel.
    pub(super) late: u64,
    /// Lines of the agent's log that nobody has read in time.
    pub(super) log_lines_lost: usize,
    /// How often the kernel's tables of cgroups have been too small.
    pub(super) crowded: u64,
    /// How often the kernel did not take what it was told.
    pub(super) faults: u64,
    pub(super) ledger: Ledger,
}

/// Somebody wants to know.
pub(super) type Scrape = oneshot::Sender<Measures>;

/// Serves metrics until dropped.
#[derive(Debug)]
pub(super) struct Metrics {
    fault: Arc<Mutex<Option<String>>>,
    task: Option<JoinHandle<()>>,
}

impl Metrics {
    /// Begins to serve, if an address is given; whoever holds the other end of `scrapes` answers. Who connects from here on
    /// is served. An address that cannot be had is tried again: enforcement does not wait for it.
    pub(super) async fn serve(address: Option<SocketAddr>, scrapes: mpsc::Sender<Scrape>) -> Self {
        let fault = Arc::new(Mutex::new(None));
        let Some(address) = address else { return Self { fault, task: None } };
        let listener = server::listen(address, &fault).await;
        let task = tokio::spawn(server::serve(listener, address, scrapes, Arc::clone(&fault)));
        Self { fault, task: Some(task) }
    }

    /// What the operator should look after.
    pub(super) fn warning(&self) -> Option<String> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Metrics {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

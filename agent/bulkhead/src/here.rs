//! Who is on this machine now: what can be told without the agent, and without root.

use std::collections::BTreeSet;

use bulkhead_policy::{Diagnostics, Policy, WorkloadId, empty_selectors};
use bulkhead_workloads::{CgroupRoot, HierarchyError, Members, WatchError, Watcher};

/// Why it cannot be told who is here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HereError {
    #[error(transparent)]
    Hierarchy(#[from] HierarchyError),
    #[error(transparent)]
    Watch(#[from] WatchError),
    #[error("cannot look at this machine's cgroups")]
    Runtime(#[from] std::io::Error),
}

/// The workloads that nothing on this machine is. Those that containers' facts tell are left out: nobody asks for them
/// here.
pub(crate) fn absent(policy: &Policy) -> Result<Diagnostics, HereError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _within = runtime.enter();
    let root = CgroupRoot::find(None)?;
    let mut members = Members::new(&root);
    let (watcher, found) = Watcher::start(root)?;
    members.update(&watcher.tree().read(), policy, &found);
    let present: BTreeSet<WorkloadId> = members.of_workloads().map(|(_, workload)| workload).collect();
    Ok(empty_selectors(policy, |w| present.contains(&w) || policy.needs_container_facts(w)))
}

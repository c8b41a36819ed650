//! Who is on this machine now: what can be told without the agent, and without root.

use std::collections::BTreeSet;

use bulkhead_policy::{
    Diagnostic, Diagnostics, Inventory, Policy, WorkloadId, empty_selectors, unnamed_resolvers,
};
use bulkhead_workloads::{CgroupRoot, HierarchyError, Members, WatchError, Watcher, addresses};

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

/// What this machine tells of a policy: workloads that nothing here is, but for those that containers' facts tell, for which
/// nobody asks here; and who may not ask the workload that is this machine's resolver.
pub(crate) fn findings(policy: &Policy) -> Result<Vec<Diagnostic>, HereError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _within = runtime.enter();
    let root = CgroupRoot::find(None)?;
    let mut members = Members::new(&root);
    let (watcher, found) = Watcher::start(root)?;
    members.update(&watcher.tree().read(), policy, &found);
    let present: BTreeSet<WorkloadId> = members.of_workloads().map(|(_, workload)| workload).collect();
    let absent = empty_selectors(policy, |w| present.contains(&w) || policy.needs_container_facts(w));
    let unnamed = if asks_itself(&addresses(&[])?) {
        unnamed_resolvers(policy, |w| present.contains(&w))
    } else {
        Diagnostics::default()
    };
    Ok(absent.into_iter().chain(unnamed).collect())
}

/// Is one of the resolvers this machine?
fn asks_itself(inventory: &Inventory) -> bool {
    inventory.resolvers.iter().any(|ip| ip.is_loopback() || inventory.local.contains(ip))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn a_machine_asks_itself_at_loopback_or_at_an_address_of_its_own() {
        let asks = |resolver: &str| {
            let [resolver, own]: [IpAddr; 2] = [resolver, "192.0.2.1"].map(|ip| ip.parse().unwrap());
            let (resolvers, local) = ([resolver].into(), [own].into());
            asks_itself(&Inventory { resolvers, local, ..Inventory::default() })
        };
        assert!(asks("127.0.0.53") && asks("::1") && asks("192.0.2.1"));
        assert!(!asks("192.0.2.2"));
    }
}

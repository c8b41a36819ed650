//! The addresses that tell a workload on this machine from others.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    io,
    net::IpAddr,
};

use bulkhead_policy::{Inventory, WorkloadId};

use crate::{
    netns::{NetworkNamespace, Process},
    processes::{Listed, processes},
    resolvers::resolvers,
};

/// How many processes are held open at once.
const AT_ONCE: usize = 128;

/// What is known of a network namespace other than the agent's.
#[derive(Debug, Default)]
struct Namespace {
    claimed_by: BTreeSet<WorkloadId>,
    /// Known once a process that vouches for the namespace has been found in it.
    addresses: Option<Vec<IpAddr>>,
}

/// The addresses of this machine: its own, and those of workloads in network namespaces of their own.
///
/// `cgroups` are those whose processes belong to a workload. An address is a workload's if all processes
/// in its namespace that are in a workload are in this one; nobody's if they are in several. A namespace counts only
/// if root has made it: any user may make one and give it the address of another machine.
pub fn addresses(cgroups: &[Listed]) -> io::Result<Inventory> {
    let this = Process::open("self")?;
    let own = this.namespace()?;
    let mut inventory = Inventory { resolvers: resolvers(), ..Inventory::default() };
    let host: BTreeSet<IpAddr> = this.addresses()?.into_iter().collect();
    let mut namespaces = HashMap::new();
    for cgroup in cgroups {
        for some in cgroup.pids.chunks(AT_ONCE) {
            visit(cgroup, some, &own, &mut namespaces);
        }
    }
    for namespace in namespaces.into_values() {
        let workload = match namespace.claimed_by.len() {
            1 => namespace.claimed_by.first().copied(),
            _ => None,
        };
        for address in namespace.addresses.unwrap_or_default() {
            // An address that is in two namespaces tells nobody, unless one workload has both.
            let workload = workload.filter(|_| !host.contains(&address));
            inventory
                .addresses
                .entry(address)
                .and_modify(|known| *known = known.filter(|known| Some(*known) == workload))
                .or_insert(workload);
            inventory.local.insert(address);
        }
    }
    inventory.local.extend(host);
    Ok(inventory)
}

/// Notes in which other namespaces some of the processes of one cgroup are.
fn visit(
    cgroup: &Listed,
    pids: &[String],
    own: &NetworkNamespace,
    namespaces: &mut HashMap<NetworkNamespace, Namespace>,
) {
    let abroad: Vec<(&String, Process, NetworkNamespace)> = pids
        .iter()
        .filter_map(|pid| {
            // Nearly all are in the agent's own: one call tells.
            NetworkNamespace::of(pid).ok().filter(|namespace| namespace != own)?;
            let process = Process::open(pid).ok()?;
            let namespace = process.namespace().ok().filter(|namespace| namespace != own)?;
            Some((pid, process, namespace))
        })
        .collect();
    if abroad.is_empty() {
        return;
    }
    // A number may have passed to another process before its directory was opened. Listed here once more while
    // the directory opened is still of a live process, it is that process.
    let still_here: HashSet<String> = processes(&cgroup.directory).into_iter().collect();
    for (pid, process, name) in abroad {
        if !still_here.contains(pid) || process.namespace().ok().as_ref() != Some(&name) {
            continue;
        }
        let namespace = namespaces.entry(name).or_default();
        namespace.claimed_by.insert(cgroup.workload);
        if namespace.addresses.is_none() && process.in_initial_user_namespace().unwrap_or(false) {
            namespace.addresses = process.addresses().ok();
        }
    }
}

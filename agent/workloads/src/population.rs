//! How many live in each workload.

use std::{collections::BTreeMap, path::PathBuf};

use bulkhead_policy::WorkloadId;

use crate::processes::processes;

/// How many live in one workload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Population {
    /// Its cgroups, nested ones included.
    pub cgroups: usize,
    /// Processes in them, as far as they are of this PID namespace or of one below it.
    pub processes: usize,
}

/// Counts those in `cgroups`, the directories of all that belong to a workload. Whoever comes or goes meanwhile may be
/// missed.
pub fn population(cgroups: &[(WorkloadId, PathBuf)]) -> BTreeMap<WorkloadId, Population> {
    let mut found: BTreeMap<_, Population> = BTreeMap::new();
    for (workload, directory) in cgroups {
        let here = found.entry(*workload).or_default();
        here.cgroups += 1;
        here.processes += processes(directory).len();
    }
    found
}

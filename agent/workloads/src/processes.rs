//! The processes of workloads.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use bulkhead_policy::WorkloadId;

/// A cgroup of a workload, and the processes that were in it as it was listed.
#[derive(Debug)]
pub struct Listed {
    /// Whose it is.
    pub workload: WorkloadId,
    pub(crate) directory: PathBuf,
    pub(crate) pids: Vec<String>,
}

/// Lists the processes in each of these cgroups once, for all who ask about them: on a host with many, that is most of
/// what asking takes.
pub fn list_processes(cgroups: Vec<(WorkloadId, PathBuf)>) -> Vec<Listed> {
    let listed = cgroups.into_iter().map(|(workload, directory)| {
        let pids = processes(&directory);
        Listed { workload, directory, pids }
    });
    listed.collect()
}

/// The processes in one cgroup. None in a threaded one, whose processes its domain lists, nor of other pid
/// namespaces, which show as 0.
pub(crate) fn processes(directory: &Path) -> Vec<String> {
    /// Of text: more processes than a machine has.
    const MOST: u64 = 64 << 20;
    let mut listed = String::new();
    // Of the file itself it would be asked first how long it is: one call in four, of which there are very many.
    let read = |file: File| file.take(MOST).read_to_string(&mut listed);
    // It may be gone by now.
    let _ = File::open(directory.join("cgroup.procs")).and_then(read);
    listed.lines().filter(|pid| *pid != "0").map(str::to_owned).collect()
}

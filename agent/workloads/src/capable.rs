//! Processes of workloads that may have sockets for whole packets.

use std::{fs, path::Path};

use bulkhead_policy::WorkloadId;

use crate::{
    netns::{NetworkNamespace, Process},
    processes::Listed,
};

/// A process with `CAP_NET_RAW` in its network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capable {
    /// The workload that it belongs to.
    pub workload: WorkloadId,
    /// Its number.
    pub pid: u32,
    /// Its command name: its own choice.
    pub comm: String,
}

const CAP_NET_RAW: u32 = 13;

/// The processes in `cgroups` that have `CAP_NET_RAW` or may take it: at most `most`, and whether there are more.
pub fn with_raw_packets<'a>(
    cgroups: impl IntoIterator<Item = &'a Listed>,
    most: usize,
) -> (Vec<Capable>, bool) {
    let own = NetworkNamespace::of("self").ok();
    let own = own.as_ref();
    let mut found = cgroups
        .into_iter()
        .flat_map(|cgroup| cgroup.pids.iter().filter_map(move |pid| capable(cgroup.workload, pid, own)));
    let first = found.by_ref().take(most).collect();
    (first, found.next().is_some())
}

/// None if it is not, or gone.
fn capable(workload: WorkloadId, pid: &str, own: Option<&NetworkNamespace>) -> Option<Capable> {
    let directory = Path::new("/proc").join(pid);
    let status = fs::read_to_string(directory.join("status")).ok()?;
    if permitted(&status)? & (1 << CAP_NET_RAW) == 0 {
        return None;
    }
    // Capabilities of a user namespace of its own are none over the host's network.
    let abroad = !Process::open(pid).ok()?.in_initial_user_namespace().ok()?;
    if abroad && NetworkNamespace::of(pid).ok().as_ref() == own {
        return None;
    }
    let comm = fs::read_to_string(directory.join("comm")).ok()?;
    Some(Capable { workload, pid: pid.parse().ok()?, comm: comm.trim_end().to_owned() })
}

/// The permitted set of /proc/PID/status, as a bit mask: what is effective is part of it.
pub(crate) fn permitted(status: &str) -> Option<u64> {
    let hex = status.lines().find_map(|line| line.strip_prefix("CapPrm:"))?;
    u64::from_str_radix(hex.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_permitted_set_is_read() {
        assert_eq!(
            permitted("Name:\tx\nCapInh:\t01\nCapPrm:\t0000000000002000\nCapEff:\t00\n"),
            Some(1 << 13)
        );
        assert_eq!(permitted("Name:\tx\n"), None);
    }
}

//! Processes that may undo what is enforced.

use std::fs;

use crate::{capable::permitted, netns::Process};

/// `CAP_NET_ADMIN`, `CAP_SYS_ADMIN` and `CAP_BPF`: their holder detaches programs, moves processes between cgroups, or
/// answers for any address.
const UNDOES: u64 = 1 << 12 | 1 << 21 | 1 << 39;

/// `CAP_NET_RAW`: its holder has sockets for whole packets, where nothing else keeps it from them.
const RAW: u64 = 1 << 13;

/// A process with such capabilities in the initial user namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Privileged {
    /// Its number.
    pub pid: u32,
    /// Its command name: its own choice.
    pub comm: String,
    /// Its cgroup, as /proc/PID/cgroup spells it.
    pub cgroup: String,
}

/// Those in cgroups other than the root of the hierarchy. `raw_counts`: also those that have `CAP_NET_RAW` alone.
pub fn privileged(raw_counts: bool) -> Vec<Privileged> {
    let wanted = if raw_counts { UNDOES | RAW } else { UNDOES };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let pids = names.filter(|name| name.bytes().all(|b| b.is_ascii_digit()));
    pids.filter_map(|pid| look_at(&pid, wanted)).collect()
}

/// None if it is not, or gone.
fn look_at(pid: &str, wanted: u64) -> Option<Privileged> {
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).ok();
    let cgroup = cgroup(&read("cgroup")?)?.to_owned();
    if cgroup == "/" || permitted(&read("status")?)? & wanted == 0 {
        return None;
    }
    // Who may not look takes it for the host's own.
    if !Process::open(pid).ok()?.in_initial_user_namespace().unwrap_or(true) {
        return None;
    }
    Some(Privileged { pid: pid.parse().ok()?, comm: read("comm")?.trim_end().to_owned(), cgroup })
}

/// The cgroup of v2 in /proc/PID/cgroup.
fn cgroup(lines: &str) -> Option<&str> {
    lines.lines().find_map(|line| line.strip_prefix("0::"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup_is_that_of_v2() {
        assert_eq!(
            cgroup("4:memory:/a\n0::/system.slice/sshd.service\n"),
            Some("/system.slice/sshd.service")
        );
        assert_eq!(cgroup("4:memory:/a\n"), None);
    }
}

//! Whether this process on this kernel can work at all, found out before anything is loaded.

use std::{fs, path::Path};

use crate::DatapathError;

/// `CGROUP2_SUPER_MAGIC` (include/uapi/linux/magic.h).
const CGROUP2_MAGIC: i64 = 0x6367_7270;

const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_PTRACE: u32 = 19;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_SYS_RESOURCE: u32 = 24;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// Checks privileges, kernel and cgroup root, in the order in which an operator would mend them.
pub(crate) fn check(cgroup_root: &Path) -> Result<(), DatapathError> {
    let missing = missing_capabilities(own_capabilities()?);
    if !missing.is_empty() {
        return Err(DatapathError::Privileges { missing });
    }
    let release = release();
    if older(&release, (5, 10)) {
        return Err(DatapathError::Kernel { release, feature: "socket storage in cgroup programs" });
    }
    let filesystem = rustix::fs::statfs(cgroup_root)
        .map_err(|e| DatapathError::Read { path: cgroup_root.to_owned(), source: e.into() })?;
    if filesystem.f_type != CGROUP2_MAGIC {
        return Err(DatapathError::CgroupRoot { path: cgroup_root.to_owned() });
    }
    Ok(())
}

/// The capabilities in effect for this process, as a bit mask.
pub(crate) fn own_capabilities() -> Result<u64, DatapathError> {
    let status = Path::new("/proc/self/status");
    let text = fs::read_to_string(status)
        .map_err(|source| DatapathError::Read { path: status.to_owned(), source })?;
    Ok(effective_capabilities(&text))
}

/// The effective set of /proc/PID/status, as a bit mask.
fn effective_capabilities(status: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0)
}

/// Before 5.8 and for the superuser `CAP_SYS_ADMIN` stands for `CAP_BPF` and `CAP_PERFMON` (capabilities(7)).
pub(crate) fn missing_capabilities(effective: u64) -> Vec<&'static str> {
    let has = |bit: u32| effective & (1 << bit) != 0;
    let mut missing = Vec::new();
    if !has(CAP_NET_ADMIN) {
        missing.push("CAP_NET_ADMIN");
    }
    if !has(CAP_SYS_ADMIN) {
        if !has(CAP_BPF) {
            missing.push("CAP_BPF");
        }
        if !has(CAP_PERFMON) {
            missing.push("CAP_PERFMON");
        }
    }
    missing
}

/// What tagging sockets that are older than the agent takes beside these: their owners' descriptors, in all network
/// namespaces.
pub(crate) fn missing_to_tag(effective: u64) -> Vec<&'static str> {
    let wanted = [(CAP_SYS_PTRACE, "CAP_SYS_PTRACE"), (CAP_SYS_ADMIN, "CAP_SYS_ADMIN")];
    wanted.into_iter().filter(|(bit, _)| effective & (1 << bit) == 0).map(|(_, name)| name).collect()
}

/// May it raise its own limits?
pub(crate) fn may_raise_limits(effective: u64) -> bool {
    effective & (1 << CAP_SYS_RESOURCE) != 0
}

/// Is the running kernel older than this version?
pub(crate) fn is_before(major: u32, minor: u32) -> bool {
    older(&release(), (major, minor))
}

/// `uname -r`.
pub(crate) fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// Is a kernel release older than a version? What cannot be read is taken for new: the kernel itself will say.
fn older(release: &str, version: (u32, u32)) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) < version,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_older_than_5_10_are_refused() {
        for release in ["5.4.0-150-generic", "4.19.0", "5.9.16"] {
            assert!(older(release, (5, 10)), "{release}");
        }
        for release in ["5.10.0-28-amd64", "6.18.44-fc", "7.3.0+", "strange"] {
            assert!(!older(release, (5, 10)), "{release}");
        }
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(older("5.10.0-46-cloud-amd64", (5, 11)));
        assert!(!older("5.11.0", (5, 11)));
        assert!(!older("6.1.0", (5, 11)));
    }

    #[test]
    fn the_missing_capabilities_are_named() {
        assert_eq!(missing_capabilities(0), ["CAP_NET_ADMIN", "CAP_BPF", "CAP_PERFMON"]);
        assert_eq!(missing_capabilities(1 << CAP_SYS_ADMIN), ["CAP_NET_ADMIN"]);
        assert!(missing_capabilities(1 << CAP_NET_ADMIN | 1 << CAP_BPF | 1 << CAP_PERFMON).is_empty());
    }

    #[test]
    fn what_tagging_takes_beside_is_named() {
        assert_eq!(missing_to_tag(0), ["CAP_SYS_PTRACE", "CAP_SYS_ADMIN"]);
        assert_eq!(missing_to_tag(1 << CAP_SYS_ADMIN), ["CAP_SYS_PTRACE"]);
        assert!(may_raise_limits(1 << CAP_SYS_RESOURCE) && !may_raise_limits(!(1 << CAP_SYS_RESOURCE)));
    }

    #[test]
    fn the_effective_set_is_read() {
        assert_eq!(
            effective_capabilities("Name:\tx\nCapPrm:\t01\nCapEff:\t000001fffeffffff\n"),
            0x1ff_feff_ffff
        );
        assert_eq!(effective_capabilities("Name:\tx\n"), 0);
    }
}

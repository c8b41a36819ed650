//! What the running kernel offers to the programs. Nothing here can be installed: it is told with its consequence.

use std::{fs, path::Path};

/// What the tests and the agent will find.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kernel {
    /// As in `uname -r`.
    pub(crate) release: String,
    /// Whether it carries its types.
    pub(crate) btf: bool,
    /// Where the cgroup v2 hierarchy is mounted.
    pub(crate) cgroup2: Option<String>,
    /// Where a BPF file system is mounted.
    pub(crate) bpffs: Option<String>,
    /// Whether this runs as root.
    pub(crate) root: bool,
}

/// The oldest kernel that has what the programs use.
const FLOOR: (u32, u32) = (5, 10);

impl Kernel {
    /// Looks.
    pub(crate) fn gather() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let mounts = read("/proc/mounts");
        Self {
            release: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
            cgroup2: mount_of("cgroup2", &mounts),
            bpffs: mount_of("bpf", &mounts),
            root: is_root(&read("/proc/self/status")),
        }
    }

    /// What it lacks, and what follows from that.
    pub(crate) fn findings(&self) -> Vec<String> {
        let mut findings = Vec::new();
        if version(&self.release).is_none_or(|version| version < FLOOR) {
            findings
                .push(format!("kernel {} is older than 5.10: the BPF programs will not load", self.release));
        }
        if !self.btf {
            findings.push(
                "the kernel has no BTF (CONFIG_DEBUG_INFO_BTF): programs that read its structures will not load"
                    .to_owned(),
            );
        }
        if self.cgroup2.is_none() {
            findings.push(
                "no cgroup v2 hierarchy is mounted, so nothing can be attached: mount -t cgroup2 none /sys/fs/cgroup"
                    .to_owned(),
            );
        }
        if self.bpffs.is_none() {
            findings.push(
                "no BPF file system is mounted, so nothing can be pinned: mount -t bpf bpf /sys/fs/bpf"
                    .to_owned(),
            );
        }
        if !self.root {
            findings.push("this is not root: the demo and the kernel's tests need it".to_owned());
        }
        findings
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

fn mount_of(kind: &str, mounts: &str) -> Option<String> {
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    fields.filter(|fields| fields.get(2) == Some(&kind)).map(|fields| fields[1].to_owned()).next()
}

/// The effective user, the second number of `Uid:`.
fn is_root(status: &str) -> bool {
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
    uids.split_whitespace().nth(1) == Some("0")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete() -> Kernel {
        Kernel {
            release: "6.1.0-40-amd64".to_owned(),
            btf: true,
            cgroup2: Some("/sys/fs/cgroup".to_owned()),
            bpffs: Some("/sys/fs/bpf".to_owned()),
            root: true,
        }
    }

    #[test]
    fn a_debian_kernel_lacks_nothing() {
        assert_eq!(complete().findings(), Vec::<String>::new());
    }

    #[test]
    fn an_old_kernel_is_told_by_its_version() {
        let old = Kernel { release: "5.4.0-200-generic".to_owned(), ..complete() };
        assert_eq!(
            old.findings(),
            ["kernel 5.4.0-200-generic is older than 5.10: the BPF programs will not load"]
        );
    }

    #[test]
    fn the_hierarchy_of_a_hybrid_host_is_found() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(mount_of("cgroup2", mounts).as_deref(), Some("/sys/fs/cgroup/unified"));
    }

    #[test]
    fn the_effective_user_counts() {
        assert!(is_root("Name:\txtask\nUid:\t1000\t0\t0\t0\n"));
        assert!(!is_root("Name:\txtask\nUid:\t0\t1000\t0\t0\n"));
    }
}

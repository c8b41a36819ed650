//! Where cgroups are, and what of v1 stands in the way.

use bulkhead_datapath::facts;
use bulkhead_workloads::{CgroupRoot, HierarchyError, Layout};

use super::finding::Finding;

const MOUNT: &str = "boot with `systemd.unified_cgroup_hierarchy=1`, or mount one beside v1: `mkdir -p \
                     /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified`";
const NOT_STARTED: &str = "`bulkhead run` does not start";

/// v2 alone, beside v1, or v1 alone; and whether v1 takes sockets their cgroup of v2.
pub(super) fn layout() -> Vec<Finding> {
    const CHECK: &str = "cgroup-layout";
    match Layout::read() {
        Ok(layout) => {
            // A kernel that does not tell may be one that loses them.
            let keeps = facts::sockets_keep_their_cgroup().unwrap_or(false);
            vec![hierarchies(CHECK, &layout), marks(keeps, &layout.marking())]
        }
        Err(error) => {
            let found = format!("/proc/self/mountinfo: {error}");
            vec![Finding::failure(CHECK, found, NOT_STARTED, "`mount -t proc proc /proc`")]
        }
    }
}

fn hierarchies(check: &'static str, layout: &Layout) -> Finding {
    let controllers: Vec<&str> = layout.v1.iter().flat_map(|h| &h.controllers).map(String::as_str).collect();
    let named = layout.v1.len();
    match layout.v2.first().map(|point| point.display()) {
        None => Finding::failure(check, "no cgroup v2, on which everything is built", NOT_STARTED, MOUNT),
        Some(point) if named == 0 => Finding::ok(check, format_args!("cgroup v2 alone, at {point}")),
        Some(point) if controllers.is_empty() => {
            Finding::ok(check, format_args!("cgroup v2 at {point}, with all controllers"))
        }
        Some(point) => {
            let controllers = controllers.join(", ");
            Finding::ok(check, format_args!("hybrid: cgroup v2 at {point}, beside {controllers} of v1"))
        }
    }
}

/// `keeps`: does a socket keep its cgroup of v2 when v1 marks sockets?
fn marks(keeps: bool, marking: &[(&str, bool)]) -> Finding {
    const CHECK: &str = "net-cls";
    if keeps {
        return Finding::ok(CHECK, "sockets keep their cgroup of v2, whatever cgroup v1 marks");
    }
    let names = |used| {
        let those = marking.iter().filter(|(_, is_used)| *is_used == used).map(|(name, _)| *name);
        those.collect::<Vec<_>>().join(" and ")
    };
    let (used, idle) = (names(true), names(false));
    if !used.is_empty() {
        return Finding::failure(
            CHECK,
            format_args!("{used} of cgroup v1 in use"),
            "this kernel takes sockets their cgroup of v2 for it: workloads are not recognised, and not held to anything",
            "end what sets classes or priorities there and reboot with `cgroup_no_v1=net_cls,net_prio`, or boot Linux 5.15 \
             or newer",
        );
    }
    if !idle.is_empty() {
        return Finding::warning(
            CHECK,
            format_args!("{idle} of cgroup v1 mounted, and nothing set there"),
            "once something is, this kernel takes sockets their cgroup of v2, and workloads their policy",
            "boot with `cgroup_no_v1=net_cls,net_prio`, or Linux 5.15 or newer",
        );
    }
    Finding::ok(
        CHECK,
        "net_cls and net_prio of cgroup v1, which would take sockets their cgroup of v2, are not mounted",
    )
}

/// Is there a directory below which workloads are looked for?
pub(super) fn root(is_asked: bool, root: &Result<CgroupRoot, HierarchyError>) -> Finding {
    const CHECK: &str = "cgroup-root";
    match root {
        Ok(root) => {
            let finding = Finding::ok(CHECK, root.path().display());
            if is_asked && root.level() > 0 {
                return finding.which_means("processes in cgroups elsewhere are left alone");
            }
            finding
        }
        Err(HierarchyError::NotMounted) => Finding::failure(CHECK, "no cgroup v2", NOT_STARTED, MOUNT),
        Err(HierarchyError::NotCgroup2 { asked, mounted }) => Finding::failure(
            CHECK,
            format_args!("{} is no directory of cgroup v2", asked.display()),
            NOT_STARTED,
            format_args!("give --cgroup-root a directory below {}", mounted.display()),
        ),
        Err(HierarchyError::Unreadable { asked, source }) => Finding::failure(
            CHECK,
            format_args!("{}: {source}", asked.display()),
            NOT_STARTED,
            "give --cgroup-root a directory that is there, or leave it out",
        ),
        Err(HierarchyError::NoProc(error)) => Finding::failure(
            CHECK,
            format_args!("/proc/self/mountinfo: {error}"),
            NOT_STARTED,
            "`mount -t proc proc /proc`",
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use bulkhead_workloads::Hierarchy;

    use super::*;

    fn host(v2: &[&str], v1: &[&[&str]]) -> Layout {
        let hierarchy = |controllers: &&[&str]| Hierarchy {
            point: PathBuf::from("/sys/fs/cgroup/v1"),
            controllers: controllers.iter().map(|&c| c.to_owned()).collect(),
        };
        Layout { v2: v2.iter().map(PathBuf::from).collect(), v1: v1.iter().map(hierarchy).collect() }
    }

    #[test]
    fn every_layout_has_a_name() {
        let said = |layout| format!("{:?}", hierarchies("cgroup-layout", &layout));
        let (pure, hybrid) = (["/sys/fs/cgroup"], ["/sys/fs/cgroup/unified"]);
        assert!(said(host(&pure, &[])).contains("cgroup v2 alone, at /sys/fs/cgroup"));
        assert!(said(host(&hybrid, &[&[], &["cpu", "memory"]])).contains("beside cpu, memory of v1"));
        assert!(said(host(&hybrid, &[&[]])).contains("with all controllers"));
        assert!(hierarchies("cgroup-layout", &host(&[], &[&["cpu"]])).is_failure());
    }

    #[test]
    fn marks_of_v1_are_a_failure_only_where_they_are_set_and_cost_sockets_their_cgroup() {
        assert!(marks(false, &[("net_cls", true), ("net_prio", false)]).is_failure());
        assert!(!marks(true, &[("net_cls", true)]).is_failure());
        assert!(!marks(false, &[("net_cls", false)]).is_failure());
        assert!(format!("{:?}", marks(false, &[])).contains("result: Ok"));
    }

    #[test]
    fn a_root_that_is_none_is_a_failure() {
        assert!(root(true, &CgroupRoot::find(Some(Path::new("/proc")))).is_failure());
        assert!(root(true, &CgroupRoot::find(Some(Path::new("/there-is-no-such-cgroup")))).is_failure());
    }
}

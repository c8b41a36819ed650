//! Where the agent pins what is to outlive it, and what is pinned there now.

use std::path::Path;

use bulkhead_datapath::{
    DatapathError,
    facts::{self, Pinned},
};
use bulkhead_workloads::{CgroupId, Layout};
use rustix::{
    fs::{Access, access},
    io::Errno,
};

use super::finding::Finding;
use crate::output::plural;

/// Can anything be pinned?
pub(super) fn bpffs(path: &Path) -> Finding {
    const CHECK: &str = "bpffs";
    let shown = path.display();
    let fails = |found: String, remedy: String| {
        let consequence = "`bulkhead run` does not start: nothing that it enforces would outlive it";
        Finding::failure(CHECK, found, consequence, remedy)
    };
    let mount = format!("`mount -t bpf bpf {shown}`, or give --bpffs another directory");
    match access(path, Access::WRITE_OK) {
        Err(Errno::NOENT) => {
            fails(format!("{shown} is not there"), format!("`mkdir -p {shown}` and {mount}"))
        }
        _ if !facts::is_bpffs(path) => fails(format!("{shown} is in no BPF file system"), mount),
        Err(Errno::ROFS) => fails(format!("{shown} is read-only"), format!("`mount -o remount,rw {shown}`")),
        Err(error) => fails(format!("{shown} cannot be written: {error}"), "run bulkhead as root".to_owned()),
        Ok(()) => Finding::ok(CHECK, format_args!("{shown} is there and can be written")),
    }
}

/// What is pinned, by whichever version and for whichever cgroup root.
#[derive(Debug)]
pub(super) struct Pins(Result<Vec<Pinned>, DatapathError>);

impl Pins {
    pub(super) fn below(bpffs: &Path) -> Self {
        Self(facts::pinned(bpffs))
    }

    /// Do programs of this version go on whether an agent runs or not?
    pub(super) fn enforce(&self) -> bool {
        self.0.iter().flatten().any(|pinned| pinned.is_own_version && pinned.programs > 0)
    }

    pub(super) fn findings(&self) -> Vec<Finding> {
        const CHECK: &str = "pins";
        match &self.0 {
            Ok(pinned) if pinned.is_empty() => {
                vec![Finding::ok(CHECK, "none: no agent has left anything attached")]
            }
            Ok(pinned) => {
                let layout = Layout::read().unwrap_or_default();
                pinned.iter().map(|pinned| judge(CHECK, pinned, &layout)).collect()
            }
            Err(error) => vec![Finding::warning(
                CHECK,
                format_args!("{error}"),
                "whether anything is attached is not known",
                "run bulkhead as root",
            )],
        }
    }
}

fn judge(check: &'static str, pinned: &Pinned, layout: &Layout) -> Finding {
    let folder = pinned.folder.display();
    let programs = plural(pinned.programs, "program");
    let cgroup = pinned.cgroup.and_then(|id| layout.directory_of(CgroupId(id)));
    let remove = format!("`rm -r {folder}`");
    match cgroup {
        None => Finding::warning(
            check,
            format_args!("{folder}: {programs} for a cgroup root that is gone, or out of sight here"),
            "if it is gone, nothing is enforced by them, and they hold memory",
            remove,
        ),
        Some(root) if pinned.programs == 0 => Finding::warning(
            check,
            format_args!("{folder}: no program attached, for {}", root.display()),
            "nothing is enforced by them; an agent is starting, or was killed as it started",
            format_args!("start the agent again, or {remove}"),
        ),
        Some(root) if !pinned.is_own_version => Finding::warning(
            check,
            format_args!(
                "{folder}: {programs} of another version ({}) at {}",
                pinned.version,
                root.display()
            ),
            "that version's policy is in force until this one starts, which takes over and removes them",
            format_args!(
                "start this version of the agent for {}, or {remove}, which ends what they enforce",
                root.display()
            ),
        ),
        Some(root) => {
            Finding::ok(check, format_args!("{programs} attached at {} by {folder}", root.display()))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::MetadataExt as _, path::PathBuf};

    use super::*;

    /// A cgroup root that is there, and one that is gone.
    fn findings(version: &str, is_own_version: bool, programs: usize) -> (Finding, Finding) {
        let there = tempfile::tempdir().unwrap();
        let layout = Layout { v2: vec![there.path().to_owned()], ..Layout::default() };
        let pinned = |cgroup| Pinned {
            folder: PathBuf::from("/sys/fs/bpf/bulkhead").join(version),
            version: version.to_owned(),
            is_own_version,
            cgroup: Some(cgroup),
            programs,
        };
        let id = fs::metadata(there.path()).unwrap().ino();
        (judge("pins", &pinned(id), &layout), judge("pins", &pinned(u64::MAX), &layout))
    }

    #[test]
    fn what_is_attached_is_fine_unless_it_is_stale() {
        let (there, gone) = findings("v1", true, 10);
        assert!(format!("{there:?}").contains("result: Ok"), "{there:?}");
        assert!(format!("{gone:?}").contains("a cgroup root that is gone"), "{gone:?}");
        let (other, _) = findings("v7", false, 10);
        assert!(format!("{other:?}").contains("another version (v7)"), "{other:?}");
        let (empty, _) = findings("v1", true, 0);
        assert!(format!("{empty:?}").contains("result: Warning"), "{empty:?}");
    }

    #[test]
    fn a_directory_that_is_no_bpffs_is_told_how_to_become_one() {
        let plain = tempfile::tempdir().unwrap();
        let found = bpffs(plain.path());
        assert!(found.is_failure() && format!("{found:?}").contains("mount -t bpf bpf"), "{found:?}");
        let missing = bpffs(&plain.path().join("nowhere"));
        assert!(missing.is_failure() && format!("{missing:?}").contains("mkdir -p"), "{missing:?}");
    }
}

//! One agent for one cgroup root.

use std::{
    fs::{DirBuilder, File, OpenOptions, Permissions},
    io::{self, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use bulkhead_workloads::CgroupRoot;
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

/// Where locks are, whatever other paths an agent is given: two agents must meet there.
const FOLDER: &str = "/run/bulkhead";

/// Why this agent may not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LockError {
    #[error("another agent{} enforces a policy below {}: stop it first, or give this one another --cgroup-root", .holder, .root.display())]
    Held { holder: Holder, root: PathBuf },
    #[error("cannot lock {}: {source}. Bulkhead must run as root", .path.display())]
    Unusable { path: PathBuf, source: io::Error },
}

/// The process that holds the lock, as far as it has said so.
#[derive(Debug)]
pub(crate) struct Holder(Option<u32>);

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.map_or(Ok(()), |pid| write!(f, " (pid {pid})"))
    }
}

/// Held as long as it lives, and no longer than the process: the kernel lets go of it.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Locks `root` for this process.
    pub(crate) fn take(root: &CgroupRoot) -> Result<Self, LockError> {
        Self::take_in(Path::new(FOLDER), root)
    }

    fn take_in(folder: &Path, root: &CgroupRoot) -> Result<Self, LockError> {
        let path = folder.join(format!("cgroup-{}.lock", root.id().0));
        let unusable = |source| LockError::Unusable { path: path.clone(), source };
        DirBuilder::new().recursive(true).mode(0o755).create(folder).map_err(unusable)?;
        // Root's alone: who can open a file can lock it, and keep the agent from starting.
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(&path).map_err(unusable)?;
        file.set_permissions(Permissions::from_mode(0o600)).map_err(unusable)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                // Without its number the message is still true.
                let _ = file.read_to_string(&mut holder);
                let holder = Holder(holder.trim().parse().ok());
                return Err(LockError::Held { holder, root: root.path().to_owned() });
            }
            Err(error) => return Err(unusable(error.into())),
        }
        let mut claim = || {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        claim().map_err(unusable)?;
        // The file stays: were it removed, a third agent could lock a new one while a second one locks the old.
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_agent_is_told_who_is_first() {
        let folder = tempfile::tempdir().unwrap();
        let root = CgroupRoot::find(None).unwrap();
        let first = Lock::take_in(folder.path(), &root).unwrap();
        let refused = Lock::take_in(folder.path(), &root).unwrap_err().to_string();
        let expected = format!(
            "another agent (pid {}) enforces a policy below {}: stop it first, or give this one another --cgroup-root",
            std::process::id(),
            root.path().display()
        );
        assert_eq!(refused, expected);
        drop(first);
        Lock::take_in(folder.path(), &root).unwrap();
    }

    #[test]
    fn only_root_can_open_the_lock() {
        let folder = tempfile::tempdir().unwrap();
        let root = CgroupRoot::find(None).unwrap();
        let _lock = Lock::take_in(folder.path(), &root).unwrap();
        let file = folder.path().join(format!("cgroup-{}.lock", root.id().0));
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
}

//! One agent for one cgroup root.

use std::{
    fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions},
    io::{self, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
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
    #[error("bulkhead must run as root: cannot lock {}", .path.display())]
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
    path: PathBuf,
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
        loop {
            let mut file = open(&path).map_err(unusable)?;
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
            // Between opening and locking the former holder may have removed it: then it locks nothing.
            if fs::metadata(&path).is_ok_and(|there| is_same(&file, &there)) {
                claim(&mut file).map_err(unusable)?;
                return Ok(Self { path, _file: file });
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While it is still held; gone already is fine.
        let _ = fs::remove_file(&self.path);
    }
}

fn open(path: &Path) -> io::Result<File> {
    // Root's alone: who can open a file can lock it, and keep the agent from starting.
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    Ok(file)
}

fn is_same(file: &File, there: &Metadata) -> bool {
    file.metadata().is_ok_and(|locked| (locked.dev(), locked.ino()) == (there.dev(), there.ino()))
}

fn claim(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
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
        drop(Lock::take_in(folder.path(), &root).unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left");
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

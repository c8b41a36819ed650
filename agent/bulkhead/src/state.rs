//! What outlives the agent on disk: the policy that was confirmed last, and the one before it.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use bulkhead_policy::Source;
use jiff::Timestamp;
use rustix::{
    fs::{Access, FlockOperation, access, flock},
    io::Errno,
};
use serde::{Deserialize, Serialize};

use crate::control;

const POLICY: &str = "policy.json";
const LOCK: &str = "lock";

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    #[error("another agent keeps its state in {}: give this one another --state-dir", .0.display())]
    Taken(PathBuf),
    #[error("cannot keep the policy in {}", .path.display())]
    Unusable { path: PathBuf, source: io::Error },
}

/// A policy that was confirmed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    files: Vec<control::File>,
    /// Its content hash.
    pub(crate) hash: String,
    /// When it was confirmed.
    pub(crate) confirmed: Timestamp,
}

impl Kept {
    /// Confirmed now.
    pub(crate) fn new(sources: &[Source], hash: String) -> Self {
        let files = sources.iter().cloned().map(control::File::from).collect();
        Self { files, hash, confirmed: Timestamp::now() }
    }

    pub(crate) fn sources(&self) -> Vec<Source> {
        self.files.iter().cloned().map(Source::from).collect()
    }
}

/// The policies that are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Policies {
    /// What starts next time.
    pub(crate) confirmed: Option<Kept>,
    /// What was confirmed before it, to be rolled back to.
    pub(crate) previous: Option<Kept>,
    /// Content hash of the policy that the agent was given as it started.
    pub(crate) given: Option<String>,
}

impl Policies {
    /// With another policy confirmed.
    pub(crate) fn confirm(&self, new: Kept) -> Self {
        let previous = match &self.confirmed {
            Some(confirmed) if confirmed.hash != new.hash => Some(confirmed.clone()),
            _ => self.previous.clone(),
        };
        Self { confirmed: Some(new), previous, given: self.given.clone() }
    }
}

/// The state directory, held by this agent alone.
#[derive(Debug)]
pub(crate) struct StateDir {
    folder: PathBuf,
    _lock: File,
}

impl StateDir {
    /// Makes the directory if it is not there, for root's eyes alone.
    pub(crate) fn open(folder: &Path) -> Result<Self, StateError> {
        let unusable = |path: &Path| {
            let path = path.to_owned();
            move |source| StateError::Unusable { path, source }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(unusable(folder))?;
        let path = folder.join(LOCK);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let lock = match options.open(&path) {
            // It can be read all the same: after an error a file system is mounted so.
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                File::open(&path).or_else(|_| File::open(folder))
            }
            opened => opened,
        };
        let lock = lock.map_err(unusable(&path))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { folder: folder.to_owned(), _lock: lock }),
            Err(Errno::WOULDBLOCK) => Err(StateError::Taken(folder.to_owned())),
            Err(error) => Err(unusable(&path)(error.into())),
        }
    }

    /// Can anything be kept at all? A full disk is known by writing to it only.
    pub(crate) fn is_writable(&self) -> Result<(), StateError> {
        let unusable =
            |error: Errno| StateError::Unusable { path: self.folder.clone(), source: error.into() };
        access(&self.folder, Access::WRITE_OK).map_err(unusable)
    }

    /// What was kept. A file that makes no sense is put aside, for somebody to look at, and nothing is kept.
    pub(crate) fn read(&self) -> Result<Policies, StateError> {
        let path = self.folder.join(POLICY);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Policies::default()),
            Err(source) => return Err(StateError::Unusable { path, source }),
        };
        Ok(serde_json::from_slice(&text).unwrap_or_else(|error| {
            let aside = self.folder.join(format!("{POLICY}.unreadable"));
            tracing::error!(
                "{} makes no sense ({error}): it is put aside as {}, and the policy files start",
                path.display(),
                aside.display()
            );
            if let Err(error) = fs::rename(&path, &aside) {
                tracing::error!(%error, "it cannot be put aside");
            }
            Policies::default()
        }))
    }

    /// Keeps these. They are there whole, or those before them: whatever happens meanwhile.
    pub(crate) fn write(&self, policies: &Policies) -> Result<(), StateError> {
        self.write_and(policies, |folder| File::open(folder)?.sync_all())
    }

    /// The same with another way to `settle` in the folder what is in it now.
    fn write_and(
        &self,
        policies: &Policies,
        settle: impl FnOnce(&Path) -> io::Result<()>,
    ) -> Result<(), StateError> {
        let path = self.folder.join(POLICY);
        let written = serde_json::to_vec(policies).map_err(io::Error::from).and_then(|text| {
            let before = fs::read(&path);
            self.put(&text, &path)?;
            settle(&self.folder).inspect_err(|_| {
                // What was not kept is not to be there at the next start.
                let back = match before {
                    Ok(before) => self.put(&before, &path),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => fs::remove_file(&path),
                    Err(error) => Err(error),
                };
                if let Err(error) = back {
                    tracing::error!(%error, "the next start may have a policy that was refused here: it cannot be taken back");
                }
            })
        });
        written.map_err(|source| StateError::Unusable { path, source })
    }

    fn put(&self, text: &[u8], path: &Path) -> io::Result<()> {
        let new = self.folder.join(format!("{POLICY}.new"));
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(&new, path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(text: &str) -> Kept {
        Kept::new(&[Source::new("p.toml", text)], text.len().to_string())
    }

    #[test]
    fn what_is_kept_is_there_for_the_next_agent() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        assert_eq!(state.read().unwrap(), Policies::default());
        let policies = Policies::default().confirm(kept("a")).confirm(kept("ab")).confirm(kept("ab"));
        state.write(&policies).unwrap();
        drop(state);
        let read = StateDir::open(folder.path()).unwrap().read().unwrap();
        assert_eq!(read, policies);
        let texts = [read.confirmed, read.previous].map(|kept| kept.unwrap().sources()[0].text.to_string());
        assert_eq!(texts, ["ab", "a"], "the same policy again is not gone back to");
    }

    #[test]
    fn two_agents_do_not_share_a_directory() {
        let folder = tempfile::tempdir().unwrap();
        let _first = StateDir::open(folder.path()).unwrap();
        let refused = StateDir::open(folder.path()).unwrap_err().to_string();
        assert!(refused.contains("--state-dir"), "{refused}");
    }

    #[test]
    fn a_file_that_makes_no_sense_is_put_aside() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        let path = folder.path().join(POLICY);
        for broken in ["", "{\"confirmed\":", "\u{0}\u{0}", "[]"] {
            fs::write(&path, broken).unwrap();
            assert_eq!(state.read().unwrap(), Policies::default(), "{broken:?}");
            assert!(!path.exists() && folder.path().join("policy.json.unreadable").exists());
        }
        state.write(&Policies::default().confirm(kept("a"))).unwrap();
        assert!(state.read().unwrap().confirmed.is_some());
    }

    #[test]
    fn what_the_disk_does_not_settle_is_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        let fails = |_: &Path| Err(io::Error::other("the disk is gone"));
        let new = Policies::default().confirm(kept("a"));
        let error = state.write_and(&new, fails).unwrap_err().to_string();
        assert!(error.contains("cannot keep"), "{error}");
        assert_eq!(state.read().unwrap(), Policies::default());
        state.write(&new).unwrap();
        state.write_and(&new.confirm(kept("ab")), fails).unwrap_err();
        assert_eq!(state.read().unwrap(), new);
    }

    #[test]
    fn a_write_that_was_cut_off_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        let policies = Policies::default().confirm(kept("a"));
        state.write(&policies).unwrap();
        fs::write(folder.path().join("policy.json.new"), "{\"confir").unwrap();
        assert_eq!(state.read().unwrap(), policies);
        state.write(&policies.confirm(kept("ab"))).unwrap();
    }
}

//! Notices that policy files have changed.
//!
//! By looking, not by inotify: editors replace files, configuration management links folders anew, and what is mounted from
//! elsewhere tells nobody.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

use crate::{policy_files, settings::Settings};

/// How often they are looked at. What changes must stay as it is for as long before it is read.
const PACE: Duration = Duration::from_secs(2);

/// A file: device and inode, size, and the moment of its last change.
type Trace = (PathBuf, u64, u64, u64, (i64, i64));

/// The policy files, if they are watched.
#[derive(Debug)]
pub(super) struct WatchedFiles {
    /// None: nobody watches.
    paths: Option<Vec<PathBuf>>,
    read: Vec<Trace>,
    /// What they were at the last look, if that is not what was read.
    changing: Option<Vec<Trace>>,
    look: Instant,
}

impl WatchedFiles {
    pub(super) fn new(settings: &Settings) -> Self {
        let paths = settings.watches_files().then(|| settings.policy.clone());
        let read = paths.as_deref().map(traces).unwrap_or_default();
        Self { paths, read, changing: None, look: Instant::now() + PACE }
    }

    /// Waits until they have changed and no longer do. May be cancelled.
    pub(super) async fn changed(&mut self) {
        let Some(paths) = &self.paths else { return std::future::pending().await };
        loop {
            sleep_until(self.look).await;
            self.look = Instant::now() + PACE;
            let now = traces(paths);
            if now == self.read {
                self.changing = None;
            } else if self.changing.as_ref() == Some(&now) {
                (self.read, self.changing) = (now, None);
                return;
            } else {
                self.changing = Some(now);
            }
        }
    }
}

/// What is there now. A file that cannot be looked at is none.
fn traces(paths: &[PathBuf]) -> Vec<Trace> {
    let files = policy_files::list(paths).unwrap_or_default();
    files.into_iter().filter_map(|path| trace(&path).ok()).collect()
}

fn trace(path: &Path) -> io::Result<Trace> {
    let there = fs::metadata(path)?;
    Ok((path.to_owned(), there.dev(), there.ino(), there.len(), (there.ctime(), there.ctime_nsec())))
}

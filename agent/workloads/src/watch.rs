//! Keeps the tree as the kernel has it.

use std::{
    collections::{HashMap, HashSet},
    ffi::CStr,
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::PathBuf,
    time::Duration,
};

use rustix::{
    fs::{Dir, FileType, Mode, OFlags, fgetxattr, fstat, inotify, open},
    io::Errno,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{Instant, timeout_at},
};

use crate::{CgroupId, CgroupRoot, SharedTree, Tree};

/// The whole tree is looked through this often, should the kernel ever not have told of a change.
const RESYNC: Duration = Duration::from_mins(1);
/// And this often where the kernel has no watches left to give.
const RESYNC_UNWATCHED: Duration = Duration::from_secs(1);

/// Why the cgroup tree cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// No inotify.
    #[error(
        "cannot watch cgroups: {0}. Raise fs.inotify.max_user_instances: `sysctl fs.inotify.max_user_instances=512`"
    )]
    NoInotify(io::Error),
    /// The root cannot be read.
    #[error("cannot read the cgroup root {}", .path.display())]
    Root {
        /// Its directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Reading the stream of changes failed.
    #[error("lost sight of the cgroup tree: {0}")]
    Lost(io::Error),
}

/// What has changed in the tree, in the order of the tree: parents appear before and vanish after what is in them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Cgroups that are new.
    pub appeared: Vec<CgroupId>,
    /// Cgroups that are gone.
    pub vanished: Vec<CgroupId>,
    /// Processes have moved into a cgroup, or it got its first or lost its last one.
    pub occupied: bool,
}

impl Changes {
    /// Nothing has.
    pub fn is_empty(&self) -> bool {
        self.appeared.is_empty() && self.vanished.is_empty() && !self.occupied
    }
}

/// Follows the cgroup tree: every directory is watched with inotify, which sees what user space does through the VFS,
/// and user space alone makes and removes cgroups.
#[derive(Debug)]
pub struct Watcher {
    root: CgroupRoot,
    inotify: AsyncFd<OwnedFd>,
    watches: HashMap<i32, CgroupId>,
    unwatched: bool,
    tree: SharedTree,
    resync: Instant,
}

/// One record of inotify.
#[derive(Debug)]
enum Record {
    /// A directory of this name has come or gone.
    Entry { watch: i32, name: String },
    /// Processes have come or gone.
    Occupied,
    /// The watched directory is gone, and the watch with it.
    Ended { watch: i32 },
    /// Records were lost.
    Overflow,
}

impl Watcher {
    /// Begins to follow the tree below `root`, and tells what is there. Must be called within a tokio runtime.
    pub fn start(root: CgroupRoot) -> Result<(Self, Changes), WatchError> {
        let inotify = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)
            .map_err(|e| WatchError::NoInotify(e.into()))?;
        let tree = SharedTree::new(Tree::new(root.id()));
        let mut watcher = Self {
            inotify: register(inotify).map_err(WatchError::NoInotify)?,
            watches: HashMap::new(),
            unwatched: false,
            tree,
            resync: Instant::now(),
            root,
        };
        if let Err(error) = watcher.open(watcher.root.id()) {
            return Err(WatchError::Root { path: watcher.root.path().to_owned(), source: error.into() });
        }
        let mut changes = Changes { appeared: vec![watcher.root.id()], ..Changes::default() };
        watcher.look_through(&mut changes);
        Ok((watcher, changes))
    }

    /// The tree, for those who read it.
    pub fn tree(&self) -> SharedTree {
        self.tree.clone()
    }

    /// Waits for the next changes. May be cancelled.
    pub async fn changed(&mut self) -> Result<Changes, WatchError> {
        loop {
            let mut changes = Changes::default();
            match timeout_at(self.resync, self.records()).await {
                Ok(records) => {
                    for record in records.map_err(WatchError::Lost)? {
                        self.follow(record, &mut changes);
                    }
                }
                Err(_) => self.look_through(&mut changes),
            }
            if !changes.is_empty() {
                return Ok(changes);
            }
        }
    }

    /// All records that are ready, at least one.
    async fn records(&self) -> io::Result<Vec<Record>> {
        loop {
            let mut ready = self.inotify.readable().await?;
            let mut records = Vec::new();
            let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
            let mut reader = inotify::Reader::new(self.inotify.get_ref(), &mut buffer);
            loop {
                match reader.next() {
                    Ok(event) => records.extend(Record::from(&event)),
                    Err(Errno::AGAIN) => break,
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            // Read to the end, as edge-triggered readiness wants it.
            ready.clear_ready();
            if !records.is_empty() {
                return Ok(records);
            }
        }
    }

    fn follow(&mut self, record: Record, changes: &mut Changes) {
        match record {
            Record::Entry { watch, name } => {
                if let Some(&parent) = self.watches.get(&watch) {
                    self.look_at(parent, &name, changes);
                }
            }
            Record::Occupied => changes.occupied = true,
            Record::Ended { watch } => {
                self.watches.remove(&watch);
            }
            Record::Overflow => {
                tracing::info!(
                    "more cgroup changes at once than the kernel queues; looking through the whole tree"
                );
                self.look_through(changes);
            }
        }
    }

    /// Looks through the whole tree, and tells what had not been told.
    pub fn look_again(&mut self) -> Changes {
        let mut changes = Changes::default();
        self.look_through(&mut changes);
        changes
    }

    /// Brings the whole tree up to date.
    fn look_through(&mut self, changes: &mut Changes) {
        let was_unwatched = std::mem::take(&mut self.unwatched);
        self.explore(self.root.id(), changes);
        if self.unwatched && !was_unwatched {
            tracing::warn!(
                "the kernel has no more inotify watches to give: new cgroups are found only every second. Raise \
                 fs.inotify.max_user_watches"
            );
        }
        self.resync = Instant::now() + if self.unwatched { RESYNC_UNWATCHED } else { RESYNC };
    }

    /// Brings one entry of a directory up to date, whatever a record said of it: an older one may arrive after the
    /// directory has been looked through.
    fn look_at(&mut self, parent: CgroupId, name: &str, changes: &mut Changes) {
        let Ok(dir) = self.open(parent) else { return };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = rustix::fs::openat(&dir, name, flags, Mode::empty())
            .and_then(fstat)
            .ok()
            .map(|stat| CgroupId(stat.st_ino));
        let known = self.tree.read().child(parent, name);
        if found == known {
            return;
        }
        if let Some(known) = known {
            changes.vanished.extend(self.tree.write().remove(known));
        }
        if let Some(found) = found {
            let delegated = self.tree.read().is_delegated(parent) || delegates(&dir);
            if self.tree.write().insert(parent, name, found, delegated) {
                changes.appeared.push(found);
                self.explore(found, changes);
            }
        }
    }

    /// Brings all below a cgroup up to date. Each directory is watched before it is read: what is made meanwhile is
    /// either read or recorded.
    fn explore(&mut self, top: CgroupId, changes: &mut Changes) {
        let mut to_read = vec![top];
        while let Some(id) = to_read.pop() {
            let Ok(dir) = self.open(id) else { continue };
            self.watch(id, &dir);
            let Ok(present) = subdirectories(&dir) else { continue };
            let names_delegated = self.tree.read().is_delegated(id) || delegates(&dir);
            let here: HashSet<CgroupId> = present.iter().map(|(_, id)| *id).collect();
            let gone: Vec<CgroupId> =
                self.tree.read().children(id).map(|(_, child)| child).filter(|c| !here.contains(c)).collect();
            for child in gone {
                changes.vanished.extend(self.tree.write().remove(child));
            }
            for (name, child) in present {
                let mut tree = self.tree.write();
                if !tree.contains(child) {
                    if !tree.insert(id, &name, child, names_delegated) {
                        continue;
                    }
                    changes.appeared.push(child);
                }
                to_read.push(child);
            }
        }
    }

    /// Opens the directory of a cgroup; refuses one that has taken its place.
    fn open(&self, id: CgroupId) -> rustix::io::Result<OwnedFd> {
        let path = self.tree.read().path(id).ok_or(Errno::NOENT)?;
        let path = self.root.path().join(path.trim_start_matches('/'));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = open(path, flags, Mode::empty())?;
        if fstat(&dir)?.st_ino == id.0 { Ok(dir) } else { Err(Errno::NOENT) }
    }

    fn watch(&mut self, id: CgroupId, dir: &OwnedFd) {
        // Through the descriptor, so that it is this very directory and not one that has taken its place.
        let path = format!("/proc/self/fd/{}", dir.as_raw_fd());
        let flags = inotify::WatchFlags::CREATE
            | inotify::WatchFlags::DELETE
            | inotify::WatchFlags::MODIFY
            | inotify::WatchFlags::ONLYDIR;
        match inotify::add_watch(self.inotify.get_ref(), path, flags) {
            Ok(watch) => {
                self.watches.insert(watch, id);
            }
            Err(error) => {
                tracing::debug!(cgroup = id.0, %error, "not watched");
                self.unwatched = true;
                self.resync = self.resync.min(Instant::now() + RESYNC_UNWATCHED);
            }
        }
    }
}

#[expect(
    deprecated,
    reason = "the deprecation is about types that close or change their descriptor, which OwnedFd does not; the \
              replacement is an unsafe function for want of a trait that says so"
)]
fn register(inotify: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(inotify, Interest::READABLE)
}

impl Record {
    fn from(event: &inotify::Event<'_>) -> Option<Self> {
        let flags = event.events();
        if flags.contains(inotify::ReadFlags::QUEUE_OVERFLOW) {
            return Some(Self::Overflow);
        }
        if flags.contains(inotify::ReadFlags::IGNORED) {
            return Some(Self::Ended { watch: event.wd() });
        }
        let name = event.file_name()?;
        if flags.contains(inotify::ReadFlags::MODIFY) {
            // The first is written to move a process, the second changes as a cgroup becomes populated or empty.
            return (name == c"cgroup.procs" || name == c"cgroup.events").then_some(Self::Occupied);
        }
        let name = spell(name).filter(|_| flags.contains(inotify::ReadFlags::ISDIR))?;
        Some(Self::Entry { watch: event.wd(), name })
    }
}

/// The directories in a cgroup's directory.
fn subdirectories(dir: &OwnedFd) -> rustix::io::Result<Vec<(String, CgroupId)>> {
    let mut found = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type() == FileType::Directory && name != c"." && name != c".." {
            found.extend(spell(name).map(|name| (name, CgroupId(entry.ino()))));
        }
    }
    Ok(found)
}

/// A name that is not UTF-8 cannot be named by a policy: what it holds inherits its identity from above.
fn spell(name: &CStr) -> Option<String> {
    name.to_str().ok().map(str::to_owned)
}

/// May somebody else than root choose names in this directory? Its owner may, whoever else can write to it may, and
/// systemd marks what it has handed over (systemd.resource-control(5), Delegate=).
fn delegates(dir: impl AsFd) -> bool {
    let Ok(stat) = fstat(&dir) else { return true };
    let mode = Mode::from_raw_mode(stat.st_mode);
    stat.st_uid != 0
        || (stat.st_gid != 0 && mode.contains(Mode::WGRP))
        || mode.contains(Mode::WOTH)
        || [c"trusted.delegate", c"user.delegate"].into_iter().any(|mark| {
            let mut value = [0; 8];
            fgetxattr(&dir, mark, &mut value).is_ok_and(|len| &value[..len] == b"1")
        })
}

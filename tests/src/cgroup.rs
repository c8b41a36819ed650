//! Cgroup subtrees that clean up after themselves.

use std::{
    fs::{self, File, TryLockError},
    io::{self, ErrorKind},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// All subtrees begin with this, so that what a killed run left is found.
const NAME: &str = "bulkhead-lab-";

/// How long processes may take to leave a cgroup after SIGKILL.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where the cgroup v2 hierarchy is mounted: `/sys/fs/cgroup`, or elsewhere on a hybrid host.
pub fn mount_point() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").context("/proc/mounts cannot be read")?;
    mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|fields| fields.get(2) == Some(&"cgroup2"))
        .map(|fields| PathBuf::from(fields[1]))
        .ok_or_else(|| anyhow!("no cgroup v2 hierarchy is mounted: mount -t cgroup2 cgroup2 /sys/fs/cgroup"))
}

/// A cgroup directory with a name that nobody else has. Dropping it kills what runs in it and removes it.
///
/// The lock on the directory says that its owner lives. It goes with the process however that ends, so the next
/// start can tell what is stale without trusting process ids.
#[derive(Debug)]
pub struct Subtree {
    path: PathBuf,
    _alive: File,
}

impl Subtree {
    /// Makes one, after removing those whose owners are dead.
    pub fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mount = mount_point()?;
        sweep(&mount)?;
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = mount.join(format!("{NAME}{}-{number}", std::process::id()));
            match fs::create_dir(&path) {
                Err(e) if e.kind() == ErrorKind::AlreadyExists => continue,
                made => made.with_context(|| format!("{} cannot be made; are you root?", path.display()))?,
            }
            // Another's sweep may have come between: it holds the lock, or the directory is gone.
            if let Some(alive) = lock(&path)? {
                return Ok(Self { path, _alive: alive });
            }
        }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Subtree {
    fn drop(&mut self) {
        if let Err(e) = clear(&self.path) {
            eprintln!("{} is left behind: {e:#}", self.path.display());
        }
    }
}

/// A cgroup in a subtree. It lives until it is removed or the subtree ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// The cgroup at `path`, made with all its parents if it is not there.
    pub fn make(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        fs::create_dir_all(&path).with_context(|| format!("{} cannot be made", path.display()))?;
        Ok(Self { path })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file to which a process writes its id to join.
    pub fn procs(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }

    /// The kernel's number of this cgroup.
    pub fn id(&self) -> Result<u64> {
        Ok(fs::metadata(&self.path)?.ino())
    }

    /// Processes in it and below it, of this namespace.
    pub fn members(&self) -> Vec<Pid> {
        members(&self.path)
    }

    /// Kills what runs in it and removes it with all below.
    pub fn remove(self) -> Result<()> {
        clear(&self.path)
    }
}

/// The kernel's numbers of a cgroup and of all below it.
pub(crate) fn ids_below(path: &Path) -> Result<Vec<u64>> {
    let mut ids = vec![fs::metadata(path)?.ino()];
    for child in children(path) {
        ids.extend(ids_below(&child)?);
    }
    Ok(ids)
}

/// Removes the subtrees whose owners are dead.
fn sweep(mount: &Path) -> Result<()> {
    for entry in fs::read_dir(mount)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(NAME)
            && let Some(_dead) = lock(&entry.path())?
        {
            clear(&entry.path())?;
        }
    }
    Ok(())
}

/// The lock of a subtree, or none if another holds it or the directory is gone.
fn lock(path: &Path) -> Result<Option<File>> {
    let gone = |e: &io::Error| e.kind() == ErrorKind::NotFound;
    let dir = match File::open(path) {
        Err(e) if gone(&e) => return Ok(None),
        opened => opened?,
    };
    match dir.try_lock() {
        Err(TryLockError::WouldBlock) => return Ok(None),
        locked => locked?,
    }
    match fs::metadata(path) {
        Err(e) if gone(&e) => Ok(None),
        found => Ok((found?.ino() == dir.metadata()?.ino()).then_some(dir)),
    }
}

/// Kills what runs at `path` and below, and removes it all.
fn clear(path: &Path) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        for pid in members(path) {
            // It may be gone by itself.
            let _ = kill(pid, Signal::SIGKILL);
        }
        match remove(path) {
            Ok(()) => return Ok(()),
            Err(e) if Instant::now() > end => {
                let left = members(path);
                bail!("{} cannot be removed ({e}); processes in it: {left:?}", path.display());
            }
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn members(path: &Path) -> Vec<Pid> {
    let mut found = Vec::new();
    let mut ahead = vec![path.to_owned()];
    while let Some(dir) = ahead.pop() {
        // Directories may go at any time: what is gone has no members.
        let procs = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        // 0 is a process of an outer pid namespace: not ours to kill.
        found.extend(procs.lines().filter_map(|l| l.parse().ok()).filter(|&p| p > 0).map(Pid::from_raw));
        ahead.extend(children(&dir));
    }
    found
}

fn remove(path: &Path) -> io::Result<()> {
    for child in children(path) {
        remove(&child)?;
    }
    match fs::remove_dir(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

fn children(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect()
}

//! Cgroups of Bulkhead's own, made to show something and removed again.

use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

/// How long the kernel may take to see that a process has left its cgroup.
const REMOVAL: Duration = Duration::from_secs(1);

/// A cgroup with some in it. Dropping it removes them.
#[derive(Debug)]
pub(crate) struct OwnCgroup {
    path: PathBuf,
    inner: &'static [&'static str],
}

impl OwnCgroup {
    /// Makes one below `root`, named `name` and this process's number, after removing those whose processes were killed.
    pub(crate) fn make(root: &Path, name: &str, inner: &'static [&'static str]) -> io::Result<Self> {
        sweep(root, name, inner);
        let own = Self { path: root.join(format!("{name}{}", std::process::id())), inner };
        fs::create_dir(&own.path)?;
        for directory in inner {
            fs::create_dir(own.path.join(directory))?;
        }
        Ok(own)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for OwnCgroup {
    fn drop(&mut self) {
        for directory in all(&self.path, self.inner) {
            if let Err(error) = remove(&directory) {
                eprintln!("{} is left behind ({error}): remove it with rmdir", directory.display());
            }
        }
    }
}

/// A cgroup, after those in it.
fn all(path: &Path, inner: &[&str]) -> Vec<PathBuf> {
    inner.iter().map(|directory| path.join(directory)).chain([path.to_owned()]).collect()
}

fn sweep(root: &Path, name: &str, inner: &[&str]) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let found = entry.file_name();
        let pid = found.to_str().and_then(|found| found.strip_prefix(name));
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            for directory in all(&entry.path(), inner) {
                // Nobody waits for what cannot be removed.
                let _ = fs::remove_dir(directory);
            }
        }
    }
}

/// Removes a cgroup, whose last process has just ended.
fn remove(directory: &Path) -> io::Result<()> {
    const STEP: Duration = Duration::from_millis(5);
    let mut left = REMOVAL;
    loop {
        match fs::remove_dir(directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(_) if !left.is_zero() => {
                thread::sleep(STEP);
                left = left.saturating_sub(STEP);
            }
            done => return done,
        }
    }
}

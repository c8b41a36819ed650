//! Threads that are in a workload: what they do, its socket does.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        mpsc::{self, Sender},
    },
    thread,
};

use anyhow::{Context as _, Result, anyhow};
use bulkhead_tests::{
    Network,
    cgroup::{self, Cgroup},
};
use nix::sched::{CloneFlags, setns};

type Job = Box<dyn FnOnce() + Send>;

/// A thread in a cgroup and a network namespace. It ends with this value.
pub(crate) struct Worker {
    jobs: Sender<Job>,
}

impl Worker {
    /// Starts one. The cgroup must be threaded.
    pub(crate) fn start(cgroup: &Cgroup, network: &Network) -> Result<Self> {
        let (jobs, to_do) = mpsc::channel::<Job>();
        let threads = cgroup.path().join("cgroup.threads");
        let network = File::open(network.path())?;
        thread::spawn(move || to_do.into_iter().for_each(|job| job()));
        let worker = Self { jobs };
        worker.run(move || -> Result<()> {
            setns(network, CloneFlags::CLONE_NEWNET)?;
            fs::write(&threads, "0").with_context(|| format!("{} cannot be entered", threads.display()))
        })??;
        Ok(worker)
    }

    /// Has it do something and waits for what comes of it.
    pub(crate) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let (done, result) = mpsc::sync_channel(1);
        let job = move || {
            // Nobody waits any more if the test has failed meanwhile.
            let _ = done.send(job());
        };
        self.jobs.send(Box::new(job)).map_err(|_| anyhow!("a worker's thread has ended"))?;
        result.recv().context("a worker's thread panicked")
    }
}

/// This process in another cgroup for as long as this value lives: its threads can be in different cgroups only below
/// one that the process is in (cgroups(7), "thread mode").
///
/// One visit at a time: tests may share a process.
pub(crate) struct Visit {
    home: PathBuf,
    _only: MutexGuard<'static, ()>,
}

impl Visit {
    /// Moves this process to `cgroup`.
    pub(crate) fn to(cgroup: &Path) -> Result<Self> {
        static ONLY: Mutex<()> = Mutex::new(());
        let only = ONLY.lock().unwrap_or_else(PoisonError::into_inner);
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let path = own.lines().find_map(|line| line.strip_prefix("0::/")).context("no cgroup v2")?;
        let home = cgroup::mount_point()?.join(path).join("cgroup.procs");
        fs::write(cgroup.join("cgroup.procs"), "0")?;
        Ok(Self { home, _only: only })
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        if let Err(e) = fs::write(&self.home, "0") {
            eprintln!("{} cannot be entered again: {e}", self.home.display());
        }
    }
}

/// A threaded cgroup.
pub(crate) fn threaded(path: PathBuf) -> Result<Cgroup> {
    let cgroup = Cgroup::make(path)?;
    fs::write(cgroup.path().join("cgroup.type"), "threaded")
        .with_context(|| format!("{} cannot be threaded", cgroup.path().display()))?;
    Ok(cgroup)
}

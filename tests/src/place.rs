//! Where a process runs.

use std::{
    ffi::OsStr,
    fs::File,
    path::Path,
    process::{Command, Output},
    thread,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

use crate::{
    cgroup::Cgroup,
    network::{Network, open_file},
};

/// A cgroup and a network namespace: a process placed there is in both before its program begins.
#[derive(Clone, Debug)]
pub struct Place<'a> {
    cgroup: Cgroup,
    network: &'a Network,
    mounts: Option<&'a Mounts>,
}

impl<'a> Place<'a> {
    /// In `cgroup` and `network`, with this process's mounts.
    pub fn new(cgroup: Cgroup, network: &'a Network) -> Self {
        Self { cgroup, network, mounts: None }
    }

    /// The same place with mounts of its own.
    pub fn with_mounts(self, mounts: &'a Mounts) -> Self {
        Self { mounts: Some(mounts), ..self }
    }

    /// The cgroup.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// A command that runs `program` here. Its process keeps its id from start to end, and the name and executable
    /// that others see are the program's own.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.network_command();
        command.args(["sh", "-c", r#"echo $$ >"$0" && exec "$@""#]).arg(self.cgroup.procs()).arg(program);
        command
    }

    fn network_command(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.network.path().display()));
        if let Some(mounts) = self.mounts {
            command.arg(format!("--mount={}", open_file(&mounts.file).display()));
        }
        command.arg("--");
        command
    }

    /// Runs `program` to its end, which must be a success.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<Output> {
        let output = self.command(program).args(arguments).output().context("nsenter cannot be started")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{program} {arguments:?}: {}\n{said}", output.status);
        Ok(output)
    }
}

/// A mount namespace with a bpffs of its own: what is pinned there goes when the last process in it is gone.
#[derive(Debug)]
pub struct Mounts {
    file: File,
}

impl Mounts {
    /// This process's mounts, and a bpffs at `dir`.
    pub fn with_bpffs(dir: &Path) -> Result<Self> {
        let dir = dir.to_owned();
        let made = thread::spawn(move || -> Result<File> {
            unshare(CloneFlags::CLONE_NEWNS).context("a mount namespace cannot be made; are you root?")?;
            let none = None::<&str>;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
            mount(Some("bpf"), &dir, Some("bpf"), MsFlags::empty(), Some("mode=700"))
                .context("no bpffs can be mounted")?;
            Ok(File::open("/proc/thread-self/ns/mnt")?)
        });
        let file = made.join().map_err(|_| anyhow!("the thread that makes a namespace panicked"))??;
        Ok(Self { file })
    }
}

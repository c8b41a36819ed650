//! One host with its LAN, its cgroups and its agent.

use std::{
    path::{Path, PathBuf},
    process::Output,
};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use crate::{
    agent::Launch,
    artifact,
    cgroup::{Cgroup, Subtree},
    network::{Lan, Network},
    place::{Mounts, Place},
    probe::Probe,
};

/// A host of its own inside this one. Everything in it ends with it.
#[derive(Debug)]
pub struct Lab {
    // Fields drop in this order: processes first, then what they run in.
    subtree: Subtree,
    lan: Lan,
    mounts: Mounts,
    files: TempDir,
}

impl Lab {
    /// A host with its LAN and nothing running.
    pub fn new() -> Result<Self> {
        let files = TempDir::new()?;
        Ok(Self {
            subtree: Subtree::new()?,
            lan: Lan::new()?,
            mounts: Mounts::with_bpffs(files.path())?,
            files,
        })
    }

    /// The cgroup whose descendants an agent here watches.
    pub fn root(&self) -> Result<Cgroup> {
        self.cgroup("/")
    }

    /// The cgroup at `path` below the root, made if it is not there.
    pub fn cgroup(&self, path: &str) -> Result<Cgroup> {
        let below = Path::new(path).strip_prefix("/").context("a cgroup's path begins with a slash")?;
        Cgroup::make(
            self.subtree.path().join("root").components().chain(below.components()).collect::<PathBuf>(),
        )
    }

    /// A cgroup that no agent here watches: for other machines, and for the agent itself.
    pub fn outside(&self) -> Result<Cgroup> {
        Cgroup::make(self.subtree.path().join("outside"))
    }

    /// The host's own network.
    pub fn host(&self) -> &Network {
        self.lan.host()
    }

    /// Another network on the LAN: a container's, or another machine's.
    pub fn network(&self) -> Result<Network> {
        self.lan.join()
    }

    /// A probe in a cgroup of the host, on the host's network.
    pub fn probe(&self, cgroup: &str) -> Result<Probe> {
        self.probe_in(cgroup, self.host())
    }

    /// A probe in a cgroup of the host, on another network: a container.
    pub fn probe_in(&self, cgroup: &str, network: &Network) -> Result<Probe> {
        Probe::start(&Place::new(self.cgroup(cgroup)?, network))
    }

    /// A probe on another machine.
    pub fn stranger(&self, network: &Network) -> Result<Probe> {
        Probe::start(&Place::new(self.outside()?, network))
    }

    /// An agent under a policy given as text.
    pub fn agent(&self, policy: &str) -> Result<Launch> {
        Launch::with_text(&self.office()?, self.root()?.path(), self.files.path(), policy)
    }

    /// An agent under the policy in a file.
    pub fn agent_under(&self, policy: &Path) -> Result<Launch> {
        Launch::new(&self.office()?, self.root()?.path(), self.files.path(), policy)
    }

    /// An agent that is told to watch something else than this lab.
    pub fn agent_below(&self, cgroup_root: &Path, policy: &str) -> Result<Launch> {
        Launch::with_text(&self.office()?, cgroup_root, self.files.path(), policy)
    }

    /// Runs `bulkhead` as an operator of this host would, whether an agent runs or not.
    pub fn bulkhead(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = self.office()?.command(artifact::agent()?);
        command.args(arguments).arg("--bpffs").arg(self.files.path());
        command.output().context("nsenter cannot be started (package util-linux)")
    }

    /// Runs another program of this host's, to its end, which must be a success.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<Output> {
        self.office()?.run(program, arguments)
    }

    /// The BPF file system that an agent here pins in; only processes of this host see it.
    pub fn bpffs(&self) -> &Path {
        self.files.path()
    }

    /// Runs a command where the agent runs, with its BPF file system as the last argument.
    pub fn in_office(&self, command: &[&str]) -> Result<Output> {
        let (program, arguments) = command.split_first().context("a command has a name")?;
        let bpffs = self.files.path().to_string_lossy();
        self.office()?.run(program, &[arguments, &[&*bpffs]].concat())
    }

    /// Where the agent runs.
    fn office(&self) -> Result<Place<'_>> {
        Ok(Place::new(self.outside()?, self.host()).with_mounts(&self.mounts))
    }
}

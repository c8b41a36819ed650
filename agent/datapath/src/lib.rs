//! Load, attach, fill, swap and drain the BPF programs. The only crate that names aya.

use std::{
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

use bulkhead_common::{Address, Endpoint, Event, PeerEntry, PolicyKey, PolicyValue};

/// What keeps the datapath from working, in words that tell the operator what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct DatapathError(String);

/// One generation, ready to be installed.
#[derive(Clone, Copy, Debug)]
pub struct Generation<'a> {
    /// Its number, from 1; refusals carry it.
    pub number: u32,
    /// cgroup id -> endpoint.
    pub endpoints: &'a [(u64, Endpoint)],
    /// (address, prefix length 0..=128) -> peer.
    pub peers: &'a [(Address, u32, PeerEntry)],
    /// (prefix length, key) -> value; expiries in nanoseconds since the Unix epoch.
    pub policy: &'a [(u32, PolicyKey, PolicyValue)],
}

/// The programs and maps in the kernel. Dropping it detaches them.
#[derive(Debug)]
pub struct Datapath {}

impl Datapath {
    /// Checks privileges and kernel, loads the programs for the cgroups below `cgroup_root`. Attaches nothing yet.
    pub fn load(_cgroup_root: &Path) -> Result<Self, DatapathError> {
        Err(DatapathError("not built yet".into()))
    }
    /// Fills a free slot and switches to it with one write.
    pub fn install(&mut self, _generation: &Generation<'_>) -> Result<(), DatapathError> {
        Ok(())
    }
    /// Attaches all programs to the cgroup root and tags the sockets that are already open.
    pub fn attach(&mut self) -> Result<(), DatapathError> {
        Ok(())
    }
    /// Gives a cgroup its identity in the active generation.
    pub fn place(&mut self, _cgroup: u64, _endpoint: Endpoint) -> Result<(), DatapathError> {
        Ok(())
    }
    /// Takes a cgroup's identity away.
    pub fn forget(&mut self, _cgroup: u64) -> Result<(), DatapathError> {
        Ok(())
    }
    /// The stream of refusals; can be taken once.
    pub fn take_events(&mut self) -> Option<Events> {
        None
    }
}

/// The stream of refusals: poll it for reading, then drain it.
#[derive(Debug)]
pub struct Events {}

impl Events {
    /// Hands over every record that is ready.
    pub fn drain(&mut self, _each: impl FnMut(Event)) {}
    /// Records lost since the start because the ring buffer was full.
    pub fn lost(&self) -> Result<u64, DatapathError> {
        Ok(0)
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        unreachable!()
    }
}

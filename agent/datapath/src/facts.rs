//! What a host offers to the datapath, and what is attached there: told without loading anything.

use std::{io, path::Path};

pub use crate::pins::Pinned;
use crate::{DatapathError, Unguarded, btf, pins, preflight, security, sys};

/// `uname -r`.
pub fn kernel_release() -> String {
    preflight::release()
}

/// Is the running kernel older than this version? One whose release cannot be read is not.
pub fn kernel_is_before(major: u32, minor: u32) -> bool {
    preflight::is_before(major, minor)
}

/// Does the kernel describe the structures that the programs read?
pub fn kernel_types() -> Result<(), DatapathError> {
    btf::cgroup_layout().map(drop)
}

/// Does a socket keep its cgroup of v2 when cgroup v1 (net_cls, net_prio) marks sockets? Otherwise all sockets that are
/// made from then on are in no workload.
pub fn sockets_keep_their_cgroup() -> Result<bool, DatapathError> {
    btf::sockets_keep_their_cgroup()
}

/// Does it run BPF programs at its security hooks? Without, sockets and devices whose packets no program sees are not
/// refused.
pub fn security_programs() -> Result<(), Unguarded> {
    security::are_run()
}

/// What this process may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Privileges {
    /// Capabilities without which nothing can be loaded and attached.
    pub missing: Vec<&'static str>,
    /// Those without which sockets that are older than the agent are not tagged.
    pub missing_to_tag: Vec<&'static str>,
    /// May it raise its own limits?
    pub raises_limits: bool,
}

/// What this process may do.
pub fn privileges() -> Result<Privileges, DatapathError> {
    let own = preflight::own_capabilities()?;
    Ok(Privileges {
        missing: preflight::missing_capabilities(own),
        missing_to_tag: preflight::missing_to_tag(own),
        raises_limits: preflight::may_raise_limits(own),
    })
}

/// Is this a directory of a BPF file system?
pub fn is_bpffs(path: &Path) -> bool {
    pins::is_bpffs(path).is_ok()
}

/// All that agents of any version have pinned below `bpffs`.
pub fn pinned(bpffs: &Path) -> Result<Vec<Pinned>, DatapathError> {
    pins::pinned(bpffs)
}

/// Does somebody keep the kernel's clock right?
pub fn clock_is_synchronised() -> io::Result<bool> {
    sys::clock_is_synchronised()
}

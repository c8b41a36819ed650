use std::{io, path::PathBuf};

use aya::{EbpfError, maps::MapError, programs::ProgramError};

/// What keeps the datapath from working, in words that tell the operator what to do.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// The process may not load BPF programs.
    #[error(
        "not allowed to load BPF programs: {} missing. Run bulkhead as root, or give it CAP_BPF, CAP_NET_ADMIN and \
         CAP_PERFMON",
        missing.join(" and ")
    )]
    Privileges {
        /// The capabilities that are missing.
        missing: Vec<&'static str>,
    },
    /// The running kernel lacks what the programs need.
    #[error(
        "kernel {release} is too old: bulkhead needs Linux 5.10 or newer ({feature}). Boot a newer kernel"
    )]
    Kernel {
        /// `uname -r`.
        release: String,
        /// What the programs use that came with 5.10.
        feature: &'static str,
    },
    /// The cgroup root is no directory of cgroup v2.
    #[error(
        "{} is no directory of a cgroup v2 hierarchy: give --cgroup-root one, or mount it with \
         `mount -t cgroup2 none /sys/fs/cgroup`",
        path.display()
    )]
    CgroupRoot {
        /// The directory.
        path: PathBuf,
    },
    /// The kernel does not describe its types.
    #[error(
        "cannot read /sys/kernel/btf/vmlinux, by which new cgroups are identified: boot a kernel with its type \
         information (CONFIG_DEBUG_INFO_BTF), as distributions build it"
    )]
    KernelTypes {
        /// Why not.
        source: io::Error,
    },
    /// The kernel's description of its types cannot be understood.
    #[error("/sys/kernel/btf/vmlinux is malformed: boot another kernel, and report this one")]
    KernelTypesMalformed,
    /// The kernel keeps cgroups in another way than any known.
    #[error("this kernel's struct {structure} has no {member}: update bulkhead, or boot an older kernel")]
    KernelMember {
        /// Name of the structure.
        structure: &'static str,
        /// Name of its member.
        member: &'static str,
    },
    /// The kernel gave no random numbers.
    #[error("the kernel gives no random numbers")]
    Random(#[source] io::Error),
    /// No thread could be started.
    #[error(
        "cannot start a thread to load the BPF programs: give the process room for more (pids.max, ulimit -u)"
    )]
    Thread(#[source] io::Error),
    /// The programs could not be loaded, which has been told before.
    #[error("the BPF programs could not be loaded before")]
    NotLoaded,
    /// A file or directory could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The BPF object could not be loaded.
    #[error("the kernel does not take the BPF maps; `bulkhead doctor` tells what it lacks")]
    Object(#[from] EbpfError),
    /// The object has no such map or program: agent and programs do not belong together.
    #[error("the BPF object has no {name}: this build is broken, build it anew")]
    Missing {
        /// Name in the object.
        name: &'static str,
    },
    /// The verifier or an attach point refused a program.
    #[error("the kernel refused the BPF program {name}")]
    Program {
        /// Name of the program.
        name: &'static str,
        /// Why.
        source: ProgramError,
    },
    /// Nothing can be pinned where it was asked for.
    #[error(
        "{} is in no BPF file system: mount one with `mount -t bpf bpf /sys/fs/bpf`, or give --bpffs another directory",
        path.display()
    )]
    BpfFs {
        /// The directory.
        path: PathBuf,
    },
    /// A pin could not be made or removed.
    #[error("cannot make or remove the pin {}", path.display())]
    Pin {
        /// The pin, or the directory of it.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A generation that the kernel does not hold, or no longer.
    #[error("the kernel does not hold generation {number} any more")]
    Generation {
        /// Its number.
        number: u32,
    },
    /// A map could not be made, read or written.
    #[error("cannot {action}")]
    Map {
        /// What was tried.
        action: &'static str,
        /// Why.
        source: MapError,
    },
}

impl DatapathError {
    pub(crate) fn map(action: &'static str) -> impl Fn(MapError) -> Self {
        move |source| Self::Map { action, source }
    }
}

//! Cgroups as the kernel keeps them, for programs that have no helper to ask: read at offsets that user space takes
//! from the kernel's type information.

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use bulkhead_common::{CgroupLayout, Command};

/// Offsets in the running kernel's structures: set by user space.
#[unsafe(no_mangle)]
pub static LAYOUT: CgroupLayout = CgroupLayout {
    cgroup_self: 0,
    cgroup_kn: 0,
    cgroup_root: 0,
    cgroup_level: 0,
    css_parent: 0,
    root_hierarchy: 0,
    node_id: 0,
    node_name: 0,
    node_mode: 0,
    node_iattr: 0,
    iattr_uid: 0,
    iattr_gid: 0,
    task_cgroups: 0,
    css_set_default: 0,
    task_tgid: 0,
    task_comm: 0,
};

/// A field of [`LAYOUT`].
macro_rules! offset {
    ($field:ident) => {
        // SAFETY: a static of this type. Volatile, since user space sets it.
        unsafe { (&raw const LAYOUT.$field).read_volatile() }
    };
}

/// A directory of the cgroup v2 hierarchy.
pub struct Directory {
    cgroup: u64,
    /// Its `struct kernfs_node`.
    node: u64,
    pub id: u64,
}

impl Directory {
    /// None: it is of another hierarchy (`hierarchy_id` is 0 for cgroup v2, as in /proc/PID/cgroup).
    #[inline(always)]
    pub fn of(cgroup: u64) -> Option<Self> {
        let root: u64 = read(cgroup, offset!(cgroup_root))?;
        let hierarchy: u32 = read(root, offset!(root_hierarchy))?;
        if hierarchy != 0 {
            return None;
        }
        let node = read(cgroup, offset!(cgroup_kn))?;
        Some(Self { cgroup, node, id: read(node, offset!(node_id))? })
    }

    /// How deep it lies; the root of the hierarchy is 0.
    #[inline(always)]
    pub fn level(&self) -> Option<i32> {
        read(self.cgroup, offset!(cgroup_level))
    }

    /// Address of its name.
    #[inline(always)]
    pub fn name(&self) -> Option<u64> {
        read(self.node, offset!(node_name))
    }

    #[inline(always)]
    pub fn parent(&self) -> Option<Self> {
        let css: u64 = read(self.cgroup + u64::from(offset!(cgroup_self)), offset!(css_parent))?;
        if css == 0 {
            return None;
        }
        Self::of(css - u64::from(offset!(cgroup_self)))
    }

    /// May somebody other than root choose names in it? As the agent asks (agent/workloads/src/watch.rs), but for
    /// systemd's extended attributes, which a program cannot read: what they mark belongs to the host's root.
    #[inline(always)]
    pub fn delegates(&self) -> bool {
        const GROUP_WRITES: u16 = 0o020;
        const OTHERS_WRITE: u16 = 0o002;
        let owner = || -> Option<(u32, u32, u16)> {
            let mode: u16 = read(self.node, offset!(node_mode))?;
            let attributes: u64 = read(self.node, offset!(node_iattr))?;
            // Root's, unless it has been said otherwise.
            if attributes == 0 {
                return Some((0, 0, mode));
            }
            Some((read(attributes, offset!(iattr_uid))?, read(attributes, offset!(iattr_gid))?, mode))
        };
        let Some((uid, gid, mode)) = owner() else { return true };
        uid != 0 || (gid != 0 && mode & GROUP_WRITES != 0) || mode & OTHERS_WRITE != 0
    }
}

/// Address of the cgroup v2 of a task.
#[inline(always)]
pub fn of_task(task: u64) -> Option<u64> {
    let css_set: u64 = read(task, offset!(task_cgroups))?;
    read(css_set, offset!(css_set_default))
}

/// Id of the process that a task belongs to.
#[inline(always)]
pub fn process_of(task: u64) -> Option<u32> {
    read(task, offset!(task_tgid))
}

/// A task's command name.
#[inline(always)]
pub fn command_of(task: u64) -> Option<Command> {
    Some(Command([read(task, offset!(task_comm))?, read(task, offset!(task_comm) + 8)?]))
}

/// Reads kernel memory; none if there is no such.
#[inline(always)]
pub fn read<T: Default>(at: u64, offset: u32) -> Option<T> {
    let mut value = T::default();
    // SAFETY: the helper writes as many bytes as `value` has, and checks the address that it reads from.
    let done = unsafe {
        bpf_probe_read_kernel(
            (&raw mut value).cast(),
            size_of::<T>() as u32,
            (at + u64::from(offset)) as *const _,
        )
    };
    (done == 0).then_some(value)
}

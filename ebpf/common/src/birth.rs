use bytemuck::{Pod, Zeroable};

use crate::Endpoint;

/// How many bytes of a directory's name, or of its end, decide what a new cgroup is. Longer patterns are left to the
/// agent.
pub const NAME_BYTES: usize = 128;

/// Key of the table of names, a longest-prefix trie: a state or a list of endings, and the bytes of a name. A name
/// spelt out ends in a zero byte; an ending is written backwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct NameKey {
    /// Where the directory that holds the new one stands, or which list of endings is asked.
    pub of: u32,
    /// The first bytes of the name, or the last, backwards.
    pub name: [u8; NAME_BYTES],
}

impl NameKey {
    /// Prefix length of a key that holds so many bytes of a name.
    #[expect(clippy::cast_possible_truncation, reason = "at most NAME_BYTES")]
    pub const fn prefix_len(name_bytes: usize) -> u32 {
        let bytes = if name_bytes < NAME_BYTES { name_bytes } else { NAME_BYTES };
        (bytes as u32 + 4) * 8
    }
}

/// What follows from a name: value of the table of names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct NameEntry {
    /// What the new cgroup is, with [`NameEntry::PLACE`].
    pub endpoint: Endpoint,
    /// Where it stands from now on; with [`NameEntry::ENDINGS`] the list in which to look its name's end up.
    pub next: u32,
    /// `NameEntry::PLACE`, `NameEntry::ENDINGS`.
    pub flags: u32,
}

impl NameEntry {
    /// The cgroup is not what the one above it is.
    pub const PLACE: u32 = 1;
    /// The name's end decides.
    pub const ENDINGS: u32 = 2;
}

/// Where a cgroup stands from which no selector can match further down. It is not kept.
pub const STATE_DEAD: u32 = 0;
/// Where a cgroup stands of which a name could not decide what it is: only the agent can tell what is below.
pub const STATE_LOST: u32 = 2;
/// Marks the state of a directory in which somebody other than root may choose names.
pub const STATE_DELEGATED: u32 = 1;

/// States are below this power of two. Above lies [what tells](PLACES) those of one generation from those of others.
pub const STATE_BITS: u32 = 18;
/// Lists of endings, which only the table of names knows that holds them, are numbered from here on.
pub const FIRST_LIST: u32 = 1 << 31;

/// Stands in the table of endpoints for every cgroup for which it had no room.
pub const UNPLACED: u64 = u64::MAX;

/// Stands in the table of endpoints for no cgroup: its flags are what the generation's states have above [`STATE_BITS`].
///
/// Tables are put into a slot one by one, and some of them may be in force already: programs that find those of several
/// generations write nothing.
pub const PLACES: u64 = u64::MAX - 1;

/// What states of a generation have above [`STATE_BITS`], by [its places](crate::GenerationInfo::places). It comes again after
/// thousands of generations.
pub const fn mark_of_states(places: u32) -> u32 {
    places << STATE_BITS & (FIRST_LIST - 1)
}

/// From which cgroup on the tables of a slot had no room for what is new: ids only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Crowded {
    /// Id of the first cgroup that should have been identified and could not; 0: none.
    pub unplaced: u64,
    /// Id of the first cgroup of which could not be kept where it stands; 0: none.
    pub unfollowed: u64,
}

/// Where in the running kernel's structures the programs read of a new cgroup: offsets in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct CgroupLayout {
    /// `self` in `struct cgroup`.
    pub cgroup_self: u32,
    /// `kn` in `struct cgroup`.
    pub cgroup_kn: u32,
    /// `root` in `struct cgroup`.
    pub cgroup_root: u32,
    /// `level` in `struct cgroup`.
    pub cgroup_level: u32,
    /// `parent` in `struct cgroup_subsys_state`.
    pub css_parent: u32,
    /// `hierarchy_id` in `struct cgroup_root`.
    pub root_hierarchy: u32,
    /// `id` in `struct kernfs_node`.
    pub node_id: u32,
    /// `name` in `struct kernfs_node`.
    pub node_name: u32,
    /// `mode` in `struct kernfs_node`.
    pub node_mode: u32,
    /// `iattr` in `struct kernfs_node`.
    pub node_iattr: u32,
    /// `ia_uid` in `struct kernfs_iattrs`.
    pub iattr_uid: u32,
    /// `ia_gid` in `struct kernfs_iattrs`.
    pub iattr_gid: u32,
    /// `cgroups` in `struct task_struct`.
    pub task_cgroups: u32,
    /// `dfl_cgrp` in `struct css_set`.
    pub css_set_default: u32,
    /// `tgid` in `struct task_struct`.
    pub task_tgid: u32,
    /// `comm` in `struct task_struct`.
    pub task_comm: u32,
}

//! Where members lie in the running kernel's structures, by its own type information (BTF,
//! Documentation/bpf/btf.rst in the kernel's tree).

use std::{collections::HashMap, fs, path::Path};

use bulkhead_common::CgroupLayout;

use crate::DatapathError;

/// The kernel's own types.
const KERNEL: &str = "/sys/kernel/btf/vmlinux";

/// Where the programs find what they read of a cgroup.
pub(crate) fn cgroup_layout() -> Result<CgroupLayout, DatapathError> {
    let missing = |(structure, member)| DatapathError::KernelMember { structure, member };
    with_types(layout)?.map_err(missing)
}

/// Does a socket keep its cgroup of v2 when cgroup v1 (net_cls, net_prio) marks sockets? Before Linux 5.15 both shared a
/// word; stable releases of 5.10 have them apart as well (`struct sock_cgroup_data` in include/linux/cgroup-defs.h).
pub(crate) fn sockets_keep_their_cgroup() -> Result<bool, DatapathError> {
    with_types(|types| types.offset("sock_cgroup_data", "cgroup").is_some())
}

fn with_types<T>(ask: impl FnOnce(&Types<'_>) -> T) -> Result<T, DatapathError> {
    let bytes = fs::read(Path::new(KERNEL)).map_err(|source| DatapathError::KernelTypes { source })?;
    Ok(ask(&Types::parse(&bytes).ok_or(DatapathError::KernelTypesMalformed)?))
}

/// The layout, or what is missing: structure and member.
fn layout(types: &Types<'_>) -> Result<CgroupLayout, (&'static str, &'static str)> {
    let offset = |structure, member| types.offset(structure, member).ok_or((structure, member));
    Ok(CgroupLayout {
        cgroup_self: offset("cgroup", "self")?,
        cgroup_kn: offset("cgroup", "kn")?,
        cgroup_root: offset("cgroup", "root")?,
        cgroup_level: offset("cgroup", "level")?,
        css_parent: offset("cgroup_subsys_state", "parent")?,
        root_hierarchy: offset("cgroup_root", "hierarchy_id")?,
        node_id: offset("kernfs_node", "id")?,
        node_name: offset("kernfs_node", "name")?,
        node_mode: offset("kernfs_node", "mode")?,
        node_iattr: offset("kernfs_node", "iattr")?,
        iattr_uid: offset("kernfs_iattrs", "ia_uid")?,
        iattr_gid: offset("kernfs_iattrs", "ia_gid")?,
        task_cgroups: offset("task_struct", "cgroups")?,
        css_set_default: offset("css_set", "dfl_cgrp")?,
        task_tgid: offset("task_struct", "tgid")?,
        task_comm: offset("task_struct", "comm")?,
    })
}

/// The structures of a BTF file, by name. There are ten thousand; to go through all of them for each that is asked for would
/// take longer than all else at a start but the verifier.
struct Types<'b> {
    structures: HashMap<&'b [u8], Structure<'b>>,
    strings: &'b [u8],
}

struct Structure<'b> {
    members: &'b [u8],
    has_bit_fields: bool,
}

/// `struct btf_header` (include/uapi/linux/btf.h), without what other versions append.
const HEADER: usize = 24;
const MAGIC: u16 = 0xeb9f;
/// `struct btf_type`.
const TYPE: usize = 12;
/// `struct btf_member`.
const MEMBER: usize = 12;

impl<'b> Types<'b> {
    fn parse(file: &'b [u8]) -> Option<Self> {
        let magic = u16::from_ne_bytes(file.get(..2)?.try_into().ok()?);
        if magic != MAGIC || file.len() < HEADER {
            return None;
        }
        let header = |at| word(file, at).map(|n| n as usize);
        let body = file.get(header(4)?..)?;
        let section = |from: usize, length: usize| body.get(from..from.checked_add(length)?);
        let (types, strings) = (section(header(8)?, header(12)?)?, section(header(16)?, header(20)?)?);
        let mut found = Self { structures: HashMap::new(), strings };
        // Of what could not be gone through, nothing is found.
        let _rest = found.add(types);
        Some(found)
    }

    /// Adds the structures among these types. None: what comes next is cut off, or of a kind that nobody knows yet.
    fn add(&mut self, mut rest: &'b [u8]) -> Option<()> {
        while !rest.is_empty() {
            let (name, info) = (word(rest, 0)?, word(rest, 4)?);
            let (kind, count) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
            let members = rest.get(TYPE..)?.get(..size_of_details(kind, count)?)?;
            // A structure without members may be declared beside the one that has them.
            if kind == STRUCT && count > 0 {
                let structure = Structure { members, has_bit_fields: info >> 31 != 0 };
                self.structures.entry(self.name(name)?).or_insert(structure);
            }
            rest = &rest[TYPE + members.len()..];
        }
        Some(())
    }

    /// How many bytes a member lies behind the beginning of a structure.
    fn offset(&self, structure: &str, member: &str) -> Option<u32> {
        let Structure { members, has_bit_fields } = self.structures.get(structure.as_bytes())?;
        let is_it = |m: &&[u8]| word(m, 0).and_then(|at| self.name(at)) == Some(member.as_bytes());
        let bits = word(members.chunks_exact(MEMBER).find(is_it)?, 8)?;
        // Then the upper byte is the size of a bit field: not ours.
        Some(if *has_bit_fields { bits & 0x00ff_ffff } else { bits } / 8)
    }

    /// The string at an offset.
    fn name(&self, at: u32) -> Option<&'b [u8]> {
        let string = self.strings.get(at as usize..)?;
        string.split(|byte| *byte == 0).next()
    }
}

const STRUCT: u32 = 4;

/// How many bytes follow a type of this kind (`BTF_KIND_*`). None: a kind that nobody knows yet.
fn size_of_details(kind: u32, count: usize) -> Option<usize> {
    Some(match kind {
        // Pointers, forwards, type definitions, const, volatile, restrict, functions, floats and type tags.
        2 | 7..=12 | 16 | 18 => 0,
        // Integers, variables, declaration tags.
        1 | 14 | 17 => 4,
        // Arrays.
        3 => 12,
        STRUCT | 5 => count * MEMBER,
        // Enumerations of 32 bits, parameters of functions.
        6 | 13 => count * 8,
        // Data sections, enumerations of 64 bits.
        15 | 19 => count * 12,
        _ => return None,
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An integer; `struct pair { int a; int b; }`.
    fn file() -> Vec<u8> {
        let strings = b"\0pair\0a\0b\0pairs\0";
        let types: [u32; 13] = [0, 1 << 24, 4, 0x2000_0020, 1, 4 << 24 | 2, 8, 6, 1, 0, 8, 1, 32];
        let types: Vec<u8> = types.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mut file = MAGIC.to_ne_bytes().to_vec();
        file.extend([1, 0]);
        let lengths = [HEADER, 0, types.len(), types.len(), strings.len()];
        file.extend(lengths.iter().flat_map(|n| u32::try_from(*n).unwrap().to_ne_bytes()));
        file.extend(types);
        file.extend(strings);
        file
    }

    #[test]
    fn members_are_found_where_they_lie() {
        let file = file();
        let types = Types::parse(&file).unwrap();
        assert_eq!(types.offset("pair", "a"), Some(0));
        assert_eq!(types.offset("pair", "b"), Some(4));
        assert_eq!(types.offset("pair", "c"), None);
        assert_eq!(types.offset("pairs", "a"), None);
    }

    #[test]
    fn what_is_cut_off_is_malformed_or_incomplete() {
        let file = file();
        for length in 0..file.len() {
            assert!(Types::parse(&file[..length]).is_none(), "{length}");
        }
    }

    #[test]
    fn the_running_kernel_tells_all_that_is_read() {
        let Ok(bytes) = fs::read(KERNEL) else {
            eprintln!("skipped: this kernel has no type information");
            return;
        };
        let layout = layout(&Types::parse(&bytes).unwrap()).unwrap();
        assert_ne!(layout.node_id, layout.node_name);
    }
}

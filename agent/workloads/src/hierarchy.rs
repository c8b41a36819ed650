//! Where the cgroup v2 hierarchy is.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rustix::fs::statfs;

use crate::CgroupId;

/// `CGROUP2_SUPER_MAGIC` of linux/magic.h.
const CGROUP2_MAGIC: u64 = 0x6367_7270;

/// Why the agent has no cgroups to work on.
#[derive(Debug, thiserror::Error)]
pub enum HierarchyError {
    /// No cgroup v2 anywhere.
    #[error(
        "no cgroup v2 hierarchy is mounted. Boot with `systemd.unified_cgroup_hierarchy=1`, or mount one beside v1: \
         `mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified`"
    )]
    NotMounted,
    /// The directory asked for is not in it.
    #[error("--cgroup-root {} is no cgroup v2 directory; cgroup v2 is mounted at {}", .asked.display(), .mounted.display())]
    NotCgroup2 {
        /// What was asked for.
        asked: PathBuf,
        /// Where cgroup v2 is.
        mounted: PathBuf,
    },
    /// The directory asked for cannot be opened.
    #[error("cannot open --cgroup-root {}", .asked.display())]
    Unreadable {
        /// What was asked for.
        asked: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// /proc is not there.
    #[error("cannot read /proc/self/mountinfo: {0}. Mount procfs: `mount -t proc proc /proc`")]
    NoProc(io::Error),
}

/// The directory of the cgroup v2 hierarchy below which workloads are looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupRoot {
    path: PathBuf,
    id: CgroupId,
    /// How /proc/PID/cgroup spells it, without a slash at the end: empty for the root of the hierarchy.
    name: String,
}

impl CgroupRoot {
    /// The directory `asked` for, or else the root of the hierarchy.
    pub fn find(asked: Option<&Path>) -> Result<Self, HierarchyError> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(HierarchyError::NoProc)?;
        Self::among(&mounts, asked)
    }

    fn among(mountinfo: &str, asked: Option<&Path>) -> Result<Self, HierarchyError> {
        let mount = mountinfo
            .lines()
            .filter_map(Mount::cgroup2)
            .min_by_key(|m| (m.depth_of_root(), m.point.as_os_str().len()))
            .ok_or(HierarchyError::NotMounted)?;
        let Some(asked) = asked else {
            return Self::open(&mount.point, mount.name(Path::new("")))
                .map_err(|source| HierarchyError::Unreadable { asked: mount.point.clone(), source });
        };
        let unreadable = |source| HierarchyError::Unreadable { asked: asked.to_owned(), source };
        let path = asked.canonicalize().map_err(unreadable)?;
        let type_of = statfs(&path).map_err(|e| unreadable(e.into()))?.f_type;
        if u64::try_from(type_of) != Ok(CGROUP2_MAGIC) || !path.is_dir() {
            return Err(HierarchyError::NotCgroup2 { asked: asked.to_owned(), mounted: mount.point });
        }
        let below = path.strip_prefix(&mount.point).unwrap_or(Path::new(""));
        Self::open(&path, mount.name(below)).map_err(unreadable)
    }

    fn open(path: &Path, name: String) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), id: CgroupId(rustix::fs::stat(path)?.st_ino), name })
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its cgroup id.
    pub fn id(&self) -> CgroupId {
        self.id
    }

    /// How /proc/PID/cgroup spells a cgroup whose path below this root is given, `/` for the root itself.
    pub fn spell(&self, path: &str) -> String {
        format!("{}{}", self.name, path.trim_end_matches('/'))
    }

    /// How many levels it lies below the root of the hierarchy, as far as this cgroup namespace shows.
    pub fn level(&self) -> usize {
        self.name.split('/').filter(|name| !name.is_empty()).count()
    }

    /// The path below this root of the cgroup `id`, if the process `pid` is in it: for a cgroup so new that the tree
    /// does not have it yet.
    pub fn path_of_process(&self, pid: u32, id: CgroupId) -> Option<String> {
        let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let path = cgroups.lines().find_map(|line| line.strip_prefix("0::"))?;
        let path = path.strip_prefix(&self.name).filter(|below| below.starts_with('/'))?;
        let stat = rustix::fs::stat(self.path.join(&path[1..])).ok()?;
        (stat.st_ino == id.0).then(|| path.to_owned())
    }
}

/// A line of /proc/self/mountinfo (proc_pid_mountinfo(5)).
struct Mount {
    /// Which directory of the hierarchy is mounted there.
    root: String,
    point: PathBuf,
}

impl Mount {
    fn cgroup2(line: &str) -> Option<Self> {
        let (mount, filesystem) = line.split_once(" - ")?;
        if filesystem.split(' ').next() != Some("cgroup2") {
            return None;
        }
        let mut fields = mount.split(' ').skip(3);
        Some(Self { root: unescape(fields.next()?), point: PathBuf::from(unescape(fields.next()?)) })
    }

    fn depth_of_root(&self) -> usize {
        self.root.split('/').filter(|name| !name.is_empty()).count()
    }

    /// How /proc/PID/cgroup spells the directory `below` the mount point.
    fn name(&self, below: &Path) -> String {
        let root = self.root.trim_end_matches('/');
        below
            .components()
            .fold(root.to_owned(), |name, component| name + "/" + &component.as_os_str().to_string_lossy())
    }
}

/// mountinfo writes blanks, tabs, line ends and backslashes as three octal digits.
pub(crate) fn unescape(field: &str) -> String {
    let mut out = String::with_capacity(field.len());
    let mut rest = field;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        if let Some(byte) = rest.get(at + 1..at + 4).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            out.push(char::from(byte));
            rest = &rest[at + 4..];
        } else {
            out.push('\\');
            rest = &rest[at + 1..];
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    fn mount_points(mountinfo: &str) -> Vec<PathBuf> {
        mountinfo.lines().filter_map(Mount::cgroup2).map(|m| m.point).collect()
    }

    #[test]
    fn the_v2_hierarchy_of_a_hybrid_host_is_the_cgroup2_mount() {
        assert_eq!(mount_points(HYBRID), [Path::new("/sys/fs/cgroup/unified")]);
    }

    #[test]
    fn a_pure_host_mounts_v2_at_the_top() {
        let pure = "24 18 0:22 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(mount_points(pure), [Path::new("/sys/fs/cgroup")]);
    }

    #[test]
    fn a_mount_point_with_blanks_is_read_as_it_is_spelt() {
        let odd = "24 18 0:22 / /mnt/a\\040b\\134c rw - cgroup2 cgroup2 rw";
        assert_eq!(mount_points(odd), [Path::new("/mnt/a b\\c")]);
    }

    #[test]
    fn a_host_without_v2_is_told_how_to_get_it() {
        let v1 = "40 31 0:37 / /sys/fs/cgroup rw,relatime - cgroup cgroup rw,name=systemd";
        let error = CgroupRoot::among(v1, None).unwrap_err();
        assert!(matches!(error, HierarchyError::NotMounted));
        assert!(error.to_string().contains("mount -t cgroup2"), "{error}");
    }

    #[test]
    fn a_cgroup_is_spelt_from_the_root_of_the_hierarchy() {
        let root =
            |name: &str| CgroupRoot { path: "/sys/fs/cgroup".into(), id: CgroupId(1), name: name.into() };
        assert_eq!(root("").spell("/web.slice/a"), "/web.slice/a");
        assert_eq!(root("/web.slice").spell("/a"), "/web.slice/a");
        assert_eq!(root("/web.slice").spell("/"), "/web.slice");
    }

    #[test]
    fn a_directory_elsewhere_is_no_cgroup_root() {
        let error = CgroupRoot::among(HYBRID, Some(Path::new("/proc"))).unwrap_err();
        assert_eq!(
            error.to_string(),
            "--cgroup-root /proc is no cgroup v2 directory; cgroup v2 is mounted at /sys/fs/cgroup/unified"
        );
    }
}

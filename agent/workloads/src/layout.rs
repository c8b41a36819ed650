//! Which cgroup hierarchies a host has mounted, v1 included.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::DirEntryExt as _,
    path::{Path, PathBuf},
};

use crate::{CgroupId, hierarchy::unescape};

/// The hierarchies of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// Where cgroup v2 is mounted, in the order of the mounts.
    pub v2: Vec<PathBuf>,
    /// Those of v1.
    pub v1: Vec<Hierarchy>,
}

/// A hierarchy of cgroup v1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub point: PathBuf,
    /// Its controllers; none: it only has a name.
    pub controllers: Vec<String>,
}

/// Those of v1 that mark sockets. Before Linux 5.15 and the stable releases that took over its way, a socket cannot both be
/// marked and know its v2 cgroup (`cgroup_sk_alloc_disable` in kernel/cgroup/cgroup.c).
const MARKING: [(&str, &str); 2] = [("net_cls", "net_cls.classid"), ("net_prio", "net_prio.ifpriomap")];

impl Layout {
    /// Of this host, as this process sees it.
    pub fn read() -> io::Result<Self> {
        Ok(Self::of(&fs::read_to_string("/proc/self/mountinfo")?))
    }

    fn of(mountinfo: &str) -> Self {
        let mut layout = Self::default();
        for (mount, filesystem) in mountinfo.lines().filter_map(|line| line.split_once(" - ")) {
            let Some(point) = mount.split(' ').nth(4).map(|point| PathBuf::from(unescape(point))) else {
                continue;
            };
            let mut filesystem = filesystem.split(' ');
            match (filesystem.next(), filesystem.nth(1)) {
                (Some("cgroup2"), _) => layout.v2.push(point),
                (Some("cgroup"), Some(options)) => {
                    let controllers = options.split(',').filter(|o| !is_option(o)).map(str::to_owned);
                    layout.v1.push(Hierarchy { point, controllers: controllers.collect() });
                }
                _ => {}
            }
        }
        layout
    }

    /// The hierarchies of v1 that mark sockets, each with whether a cgroup has made use of it.
    pub fn marking(&self) -> Vec<(&'static str, bool)> {
        let mounted = MARKING.into_iter().filter_map(|(controller, file)| {
            let hierarchy = self.v1.iter().find(|h| h.controllers.iter().any(|c| c == controller))?;
            Some((controller, has_mark(&hierarchy.point, file)))
        });
        mounted.collect()
    }

    /// The names of all cgroups of v2, without the directories that they lie in.
    pub fn names(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        if let Some(point) = self.v2.first() {
            collect_names(point, &mut found);
        }
        found
    }

    /// The directory of the cgroup of v2 with this number; none: it is gone, or out of this process's sight.
    pub fn directory_of(&self, id: CgroupId) -> Option<PathBuf> {
        self.v2.iter().find_map(|point| {
            let itself = rustix::fs::stat(point).is_ok_and(|stat| stat.st_ino == id.0);
            if itself { Some(point.clone()) } else { below(point, id) }
        })
    }
}

/// Whether this is an option of the mount (cgroups(7)) and no controller.
fn is_option(option: &str) -> bool {
    option.contains('=')
        || ["rw", "ro", "xattr", "noprefix", "clone_children", "cpuset_v2_mode", "favordynmods"]
            .contains(&option)
}

fn collect_names(directory: &Path, found: &mut BTreeSet<String>) {
    for child in directories(directory) {
        found.insert(child.file_name().to_string_lossy().into_owned());
        collect_names(&child.path(), found);
    }
}

fn below(directory: &Path, id: CgroupId) -> Option<PathBuf> {
    let children: Vec<_> = directories(directory).collect();
    let found = children.iter().find(|child| child.ino() == id.0).map(fs::DirEntry::path);
    found.or_else(|| children.iter().find_map(|child| below(&child.path(), id)))
}

/// Is anything but zero in `file` of a cgroup or one below it?
fn has_mark(directory: &Path, file: &str) -> bool {
    let marks = fs::read_to_string(directory.join(file)).unwrap_or_default();
    marks.lines().any(is_mark) || directories(directory).any(|child| has_mark(&child.path(), file))
}

/// A class, or an interface with its priority: `65537`, `eth0 3`.
fn is_mark(line: &str) -> bool {
    line.split(' ').next_back().is_some_and(|number| !number.is_empty() && number != "0")
}

/// What cannot be read has none.
fn directories(directory: &Path) -> impl Iterator<Item = fs::DirEntry> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/net_cls,net_prio rw,relatime shared:9 - cgroup cgroup rw,net_cls,net_prio
42 31 0:39 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn a_hybrid_host_has_v1_controllers_beside_v2() {
        let layout = Layout::of(HYBRID);
        assert_eq!(layout.v2, [Path::new("/sys/fs/cgroup/unified")]);
        let controllers: Vec<_> = layout.v1.iter().map(|h| h.controllers.join(",")).collect();
        assert_eq!(controllers, ["", "net_cls,net_prio"]);
    }

    #[test]
    fn a_mark_is_any_number_but_zero() {
        for line in ["65537", "eth0 3"] {
            assert!(is_mark(line), "{line}");
        }
        for line in ["0", "eth0 0", ""] {
            assert!(!is_mark(line), "{line}");
        }
    }

    #[test]
    fn a_mark_deep_below_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let (quiet, marked) = (folder.path().join("a/b"), folder.path().join("a/c"));
        for (directory, class) in [(folder.path(), "0\n"), (&quiet, "0\n"), (&marked, "0\n")] {
            fs::create_dir_all(directory).unwrap();
            fs::write(directory.join("net_cls.classid"), class).unwrap();
        }
        let controllers = vec!["net_cls".to_owned()];
        let layout = Layout {
            v1: vec![Hierarchy { point: folder.path().to_owned(), controllers }],
            ..Layout::default()
        };
        assert_eq!(layout.marking(), [("net_cls", false)]);
        fs::write(marked.join("net_cls.classid"), "65537\n").unwrap();
        assert_eq!(layout.marking(), [("net_cls", true)]);
    }

    #[test]
    fn a_directory_is_found_by_its_number() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("a/b");
        fs::create_dir_all(&deep).unwrap();
        let layout = Layout { v2: vec![folder.path().to_owned()], ..Layout::default() };
        for directory in [folder.path(), &deep] {
            let id = CgroupId(fs::metadata(directory).unwrap().ino());
            assert_eq!(layout.directory_of(id).as_deref(), Some(directory));
        }
        assert_eq!(layout.directory_of(CgroupId(u64::MAX)), None);
        assert!(layout.names().iter().eq(["a", "b"]), "{:?}", layout.names());
    }
}

//! What outlives the agent: maps and links in a BPF file system, under `bulkhead/v<ABI>/cgroup-<id of the root>`.
//!
//! A link that is pinned keeps its program attached, and a program its maps, whether an agent is there or not.

use std::{
    fs::{self, DirBuilder},
    io,
    os::{
        fd::BorrowedFd,
        unix::fs::{DirBuilderExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
};

use aya::programs::links::FdLink;
use bulkhead_common::ABI_VERSION;

use crate::{DatapathError, sys};

/// `BPF_FS_MAGIC` (include/uapi/linux/magic.h).
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

const FOLDER: &str = "bulkhead";
pub(crate) const MAPS: &str = "maps";
pub(crate) const LINKS: &str = "links";

/// The maps that programs and agent share: all of the object. (Its read-only data belongs to the programs alone.)
pub(crate) const SHARED: [&str; 26] = [
    "STATE",
    "EPOCH",
    "GENERATIONS",
    "ENDPOINTS",
    "FOLLOWED",
    "NAMES",
    "CROWDED",
    "NAME",
    "HOSTS",
    "PEERS",
    "PORTS",
    "POLICY",
    "SOCKETS",
    "OLDER",
    "PEER_FLOWS",
    "REFUSALS",
    "SOURCE_SHARES",
    "SUBJECT_SHARES",
    "EVENTS",
    "STARTED",
    "DEPARTURES",
    "LOST",
    "LATE",
    "COUNTER_INDEX",
    "FREE_COUNTERS",
    "COUNTERS",
];

/// The pins of one cgroup root.
#[derive(Clone, Debug)]
pub struct Pins {
    bpffs: PathBuf,
    root: String,
}

impl Pins {
    /// Those for `cgroup_root` in the BPF file system mounted at, or above, `bpffs`.
    pub fn new(bpffs: &Path, cgroup_root: &Path) -> Result<Self, DatapathError> {
        let id = fs::metadata(cgroup_root).map_err(|source| unreadable(cgroup_root, source))?.ino();
        Ok(Self { bpffs: bpffs.to_owned(), root: format!("cgroup-{id}") })
    }

    /// Where the BPF file system should be.
    pub(crate) fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    /// The directory of all of them.
    pub(crate) fn folder(&self) -> PathBuf {
        self.bpffs.join(FOLDER).join(own_version()).join(&self.root)
    }

    /// Makes the directories, for root's eyes alone.
    pub(crate) fn prepare(&self) -> Result<(), DatapathError> {
        is_bpffs(&self.bpffs)?;
        for below in [MAPS, LINKS] {
            let path = self.folder().join(below);
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
            made.map_err(|source| DatapathError::Pin { path, source })?;
        }
        // Who owns a directory removes what is in it, and with that detaches. (Anybody may make one in some file systems.)
        let below = |path: &&Path| *path != self.bpffs;
        self.folder().ancestors().take_while(below).try_for_each(is_ours)
    }

    /// Where a map is pinned.
    pub(crate) fn map(&self, name: &str) -> PathBuf {
        self.folder().join(MAPS).join(name)
    }

    fn link(&self, name: &str) -> PathBuf {
        self.folder().join(LINKS).join(name)
    }

    /// Is a program of this name attached by a pinned link?
    pub(crate) fn attaches(&self, name: &str) -> bool {
        self.link(name).exists()
    }

    /// Puts a program in place of that of its name which is attached. False: none is, or its cgroup is gone.
    pub(crate) fn replace(&self, name: &str, program: BorrowedFd<'_>) -> bool {
        let link = sys::open_pin(&self.link(name));
        link.and_then(|link| sys::update_link(&link, program)).is_ok()
    }

    /// Keeps a link after the agent's end, in place of the one of this name.
    pub(crate) fn keep(&self, name: &str, link: FdLink) -> Result<(), DatapathError> {
        // The descriptor is closed: from here on the link goes with its pin.
        self.keep_as(name, |path| link.pin(path).map(drop).map_err(io::Error::other))
    }

    /// The same, by what `pin` pins.
    pub(crate) fn keep_as(
        &self,
        name: &str,
        pin: impl FnOnce(&Path) -> io::Result<()>,
    ) -> Result<(), DatapathError> {
        // A name with a dot is the kernel's (`bpf_lookup` in kernel/bpf/inode.c).
        let (path, new) = (self.link(name), self.link(&format!("{name}-new")));
        // Left by an agent that was killed just here.
        let _ = fs::remove_file(&new);
        let failed = |source| DatapathError::Pin { path: path.clone(), source };
        pin(&new).and_then(|()| fs::rename(&new, &path)).map_err(failed)
    }

    /// A map of this name of every other version.
    pub(crate) fn of_other_versions(&self, map: &str) -> Result<Vec<PathBuf>, DatapathError> {
        let own = own_version();
        let versions = folders(&self.bpffs.join(FOLDER))?.into_iter().filter(|folder| name_of(folder) != own);
        let maps = versions.map(|folder| folder.join(&self.root).join(MAPS).join(map));
        Ok(maps.filter(|path| path.exists()).collect())
    }

    /// Removes all that is pinned for this root, and with that detaches it.
    pub fn detach(&self) -> Result<usize, DatapathError> {
        self.detach_those(|_| true)
    }

    /// The same for what this version has pinned.
    pub(crate) fn detach_own_version(&self) -> Result<usize, DatapathError> {
        let own = own_version();
        self.detach_those(|version| version == own)
    }

    /// The same for what other versions have pinned.
    pub(crate) fn detach_other_versions(&self) -> Result<usize, DatapathError> {
        let own = own_version();
        self.detach_those(|version| version != own)
    }

    fn detach_those(&self, wanted: impl Fn(&str) -> bool) -> Result<usize, DatapathError> {
        let mut detached = 0;
        for version in folders(&self.bpffs.join(FOLDER))? {
            if wanted(&name_of(&version)) {
                detached += detach_root(&version.join(&self.root))?;
                // Others' pins may be in it.
                let _ = fs::remove_dir(version);
            }
        }
        let _ = fs::remove_dir(self.bpffs.join(FOLDER));
        Ok(detached)
    }
}

/// Removes all that any agent has pinned below `bpffs`, of whatever version and cgroup root, and with that detaches it.
/// Tells how many programs that were.
pub fn detach(bpffs: &Path) -> Result<usize, DatapathError> {
    is_bpffs(bpffs)?;
    let mut detached = 0;
    for version in folders(&bpffs.join(FOLDER))? {
        for root in folders(&version)? {
            detached += detach_root(&root)?;
        }
        remove_folder(&version)?;
    }
    remove_folder(&bpffs.join(FOLDER))?;
    Ok(detached)
}

/// What is pinned for one cgroup root, by whichever version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pinned {
    /// Where.
    pub folder: PathBuf,
    /// Version of what programs and agent share, as the folder spells it: `v1`.
    pub version: String,
    /// Is it this agent's version?
    pub is_own_version: bool,
    /// The cgroup root's number. It may be gone: a link holds no cgroup.
    pub cgroup: Option<u64>,
    /// Programs that are attached.
    pub programs: usize,
}

/// All that any agent has pinned below `bpffs`.
pub(crate) fn pinned(bpffs: &Path) -> Result<Vec<Pinned>, DatapathError> {
    let mut found = Vec::new();
    for version in folders(&bpffs.join(FOLDER))? {
        for folder in folders(&version)? {
            let name = name_of(&version);
            found.push(Pinned {
                is_own_version: name == own_version(),
                version: name,
                cgroup: name_of(&folder).strip_prefix("cgroup-").and_then(|id| id.parse().ok()),
                programs: entries(&folder.join(LINKS))?.len(),
                folder,
            });
        }
    }
    found.sort_by(|a, b| a.folder.cmp(&b.folder));
    Ok(found)
}

/// The folder of what this version has pinned.
fn own_version() -> String {
    format!("v{ABI_VERSION}")
}

/// First the links: a program that is still attached has its maps to the end.
fn detach_root(root: &Path) -> Result<usize, DatapathError> {
    for path in entries(&root.join(LINKS))? {
        // Those that cannot be ended so end soon after their pins.
        let _ = sys::open_pin(&path).and_then(|link| sys::detach_link(&link));
    }
    let detached = remove_files(&root.join(LINKS))?;
    remove_files(&root.join(MAPS))?;
    remove_folder(root)?;
    Ok(detached)
}

pub(crate) fn remove_files(folder: &Path) -> Result<usize, DatapathError> {
    let mut removed = 0;
    for path in entries(folder)? {
        fs::remove_file(&path).map_err(|source| DatapathError::Pin { path, source })?;
        removed += 1;
    }
    remove_folder(folder)?;
    Ok(removed)
}

fn remove_folder(path: &Path) -> Result<(), DatapathError> {
    match fs::remove_dir(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(DatapathError::Pin { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

fn folders(path: &Path) -> Result<Vec<PathBuf>, DatapathError> {
    Ok(entries(path)?.into_iter().filter(|path| path.is_dir()).collect())
}

/// What is in a directory; nothing if it is not there.
pub(crate) fn entries(folder: &Path) -> Result<Vec<PathBuf>, DatapathError> {
    let read = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        read => read.and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect()),
    };
    read.map_err(|source| unreadable(folder, source))
}

fn is_ours(path: &Path) -> Result<(), DatapathError> {
    const WRITABLE_BY_OTHERS: u32 = 0o022;
    let found = fs::metadata(path).map_err(|source| unreadable(path, source))?;
    if found.uid() == rustix::process::geteuid().as_raw() && found.mode() & WRITABLE_BY_OTHERS == 0 {
        return Ok(());
    }
    let source =
        io::Error::other("others could remove what is pinned there: remove the directory, and start again");
    Err(DatapathError::Pin { path: path.to_owned(), source })
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

pub(crate) fn is_bpffs(path: &Path) -> Result<(), DatapathError> {
    match rustix::fs::statfs(path) {
        Ok(found) if found.f_type == BPF_FS_MAGIC => Ok(()),
        _ => Err(DatapathError::BpfFs { path: path.to_owned() }),
    }
}

fn unreadable(path: &Path, source: io::Error) -> DatapathError {
    DatapathError::Read { path: path.to_owned(), source }
}

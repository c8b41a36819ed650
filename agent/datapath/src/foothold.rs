//! Keeps what is pinned while an agent lives, whatever becomes of the mount of its file system.
//!
//! A BPF file system ends with its last mount, and every pin with it: programs would be detached without a word. But an open
//! directory keeps a file system as a mount does. So the agent holds the directory of its pins, and none of the links in it:
//! removing the pins detaches as ever, and unmounting what they lie in does not.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use crate::{
    DatapathError,
    pins::{self, LINKS, MAPS, Pins},
    sys,
};

/// What becomes of enforcement with the agent's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Footing {
    /// Nothing: it is pinned where it should be.
    Firm,
    /// The same again: another file system is mounted there, and everything is pinned in it now.
    Moved,
    /// It ends with it, for no BPF file system is mounted any more at this path. `bulkhead detach` finds nothing there.
    Unmounted(PathBuf),
    /// It has ended before: somebody has removed pins.
    Removed,
}

/// A hold on the directory of the pins.
#[derive(Debug)]
pub(crate) struct Foothold {
    folder: File,
    /// Of the file system.
    device: u64,
    /// When the directory of links was changed last, if every link was there then.
    firm: Option<SystemTime>,
}

/// A change may bear the time of one before it, as exact as the kernel's clock is: so long after it is settled.
const SETTLED: Duration = Duration::from_secs(1);

impl Foothold {
    /// Takes hold of where the pins are now.
    pub(crate) fn of(pins: &Pins) -> Result<Self, DatapathError> {
        let path = pins.folder();
        let unreadable = |source| DatapathError::Read { path: path.clone(), source };
        let folder = File::open(&path).map_err(unreadable)?;
        let device = folder.metadata().map_err(unreadable)?.dev();
        Ok(Self { folder, device, firm: None })
    }

    /// Looks how it stands. What another file system has covered is pinned anew in that one, and `attached` tells which links
    /// there must be.
    pub(crate) fn look(&mut self, pins: &Pins, attached: &[&str]) -> Result<Footing, DatapathError> {
        let mounted = pins.bpffs();
        if pins::is_bpffs(mounted).is_err() {
            return Ok(Footing::Unmounted(mounted.to_owned()));
        }
        let there = fs::metadata(mounted);
        let there = there.map_err(|source| DatapathError::Read { path: mounted.to_owned(), source })?;
        if there.dev() == self.device {
            // Before the links are looked at: what changes meanwhile is seen the next time.
            let changed = fs::metadata(pins.folder().join(LINKS)).and_then(|links| links.modified()).ok();
            if changed.is_some() && changed == self.firm {
                return Ok(Footing::Firm);
            }
            let firm = attached.iter().all(|name| pins.attaches(name));
            self.firm = changed.filter(|changed| firm && changed.elapsed().is_ok_and(|age| age > SETTLED));
            return Ok(if firm { Footing::Firm } else { Footing::Removed });
        }
        if !attached.iter().all(|name| self.path(LINKS).join(name).exists()) {
            return Ok(Footing::Removed);
        }
        self.move_to(pins, attached)?;
        Ok(Footing::Moved)
    }

    /// Pins everything at the path of `pins`, and nowhere else any more.
    fn move_to(&mut self, pins: &Pins, attached: &[&str]) -> Result<(), DatapathError> {
        // Of an attempt that failed, or of an agent of another time: this one enforces here.
        pins.detach()?;
        pins.prepare()?;
        let new = Self::of(pins)?;
        for below in [MAPS, LINKS] {
            let mut names = pins::entries(&self.path(below))?;
            // Who finds the last link there takes all of them to be.
            names.sort_by_key(|path| attached.iter().position(|name| path.ends_with(name)));
            for path in names {
                pin_again(&path, &pins.folder().join(below))?;
            }
        }
        for below in [LINKS, MAPS] {
            pins::remove_files(&self.path(below))?;
        }
        *self = new;
        Ok(())
    }

    /// A path by which the directory is reached though it is not mounted.
    fn path(&self, below: &str) -> PathBuf {
        format!("/proc/self/fd/{}/{below}", self.folder.as_raw_fd()).into()
    }
}

fn pin_again(path: &Path, folder: &Path) -> Result<(), DatapathError> {
    let new = folder.join(path.file_name().unwrap_or_default());
    let pinned = sys::open_pin(path).and_then(|object| sys::pin(object.as_fd(), &new));
    pinned.map_err(|source: io::Error| DatapathError::Pin { path: new, source })
}

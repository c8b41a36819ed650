//! An initial file system for the kernel to unpack: a cpio archive in the format "newc".

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, BufWriter},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use cpio::newc::{self, Builder, ModeFileType};

const EXECUTABLE: u32 = 0o755;
const LINK: u32 = 0o777;

/// An archive that is being written. Nothing is compressed: an emulated machine takes longer to unpack than to read.
#[derive(Debug)]
pub(super) struct Archive {
    to: BufWriter<File>,
    directories: BTreeSet<PathBuf>,
}

impl Archive {
    /// A new one at `path`.
    pub(super) fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("{} cannot be written", path.display()))?;
        Ok(Self { to: BufWriter::new(file), directories: BTreeSet::new() })
    }

    /// A folder, with those around it. Paths have no slash before them.
    pub(super) fn directory(&mut self, path: &Path) -> Result<()> {
        let around: Vec<_> = path.ancestors().filter(|part| !part.as_os_str().is_empty()).collect();
        for part in around.into_iter().rev() {
            if self.directories.insert(part.to_owned()) {
                self.entry(part, EXECUTABLE, ModeFileType::Directory, &[])?;
            }
        }
        Ok(())
    }

    /// A file with this content.
    pub(super) fn file(&mut self, path: &Path, content: &[u8]) -> Result<()> {
        self.parent(path)?;
        self.entry(path, EXECUTABLE, ModeFileType::Regular, content)
    }

    /// A copy of a file of this host.
    pub(super) fn copy(&mut self, path: &Path, from: &Path) -> Result<()> {
        let content = fs::read(from).with_context(|| format!("{} cannot be read", from.display()))?;
        self.file(path, &content)
    }

    /// A symbolic link.
    pub(super) fn link(&mut self, path: &Path, target: &str) -> Result<()> {
        self.parent(path)?;
        self.entry(path, LINK, ModeFileType::Symlink, target.as_bytes())
    }

    /// Ends it.
    pub(super) fn finish(self) -> Result<()> {
        newc::trailer(self.to)?.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok(())
    }

    fn parent(&mut self, path: &Path) -> Result<()> {
        path.parent().map_or(Ok(()), |parent| self.directory(parent))
    }

    fn entry(&mut self, path: &Path, mode: u32, kind: ModeFileType, content: &[u8]) -> Result<()> {
        let name = path.to_str().context("a path in the archive is not UTF-8")?;
        let entry = Builder::new(name).mode(mode).set_mode_file_type(kind);
        let mut writer = entry.write(&mut self.to, content.len().try_into()?);
        io::Write::write_all(&mut writer, content)?;
        writer.finish()?;
        Ok(())
    }
}

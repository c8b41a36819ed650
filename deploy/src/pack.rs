//! The tarball, and checksums of what is published.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::Product;

/// Packs what is [laid out](crate::install) below `root` into `folder`, to be unpacked at `/` without its first component.
pub fn tarball(product: &Product<'_>, root: &Path, folder: &Path) -> Result<PathBuf> {
    settle(root)?;
    let name = format!("bulkhead-{}-{}-linux", product.version, product.arch);
    let path = folder.join(format!("{name}.tar.gz"));
    let packed = Command::new("tar")
        .args([
            "--create",
            "--gzip",
            "--sort=name",
            "--owner=0",
            "--group=0",
            "--numeric-owner",
            "--format=gnu",
        ])
        .arg(format!("--mtime=@{}", product.epoch))
        .arg(format!("--transform=s,^\\.,{name},"))
        .arg("--file")
        .arg(&path)
        .arg("--directory")
        .args([root, Path::new(".")])
        // Without its time in the header.
        .env("GZIP", "-n")
        .output()
        .context("tar cannot be started")?;
    let said = String::from_utf8_lossy(&packed.stderr);
    ensure!(packed.status.success(), "tar: {}\n{said}", packed.status);
    Ok(path)
}

/// Writes SHA256SUMS of files in `folder`, beside them.
pub fn checksums(folder: &Path, files: &[PathBuf]) -> Result<PathBuf> {
    let names = files.iter().filter_map(|path| path.file_name());
    let output = Command::new("sha256sum").args(names).current_dir(folder).output();
    let output = output.context("sha256sum cannot be started (package coreutils)")?;
    ensure!(output.status.success(), "sha256sum: {}", String::from_utf8_lossy(&output.stderr));
    let path = folder.join("SHA256SUMS");
    fs::write(&path, output.stdout)?;
    Ok(path)
}

/// All files below `root`, sorted, as paths from there.
pub(crate) fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut ahead = vec![root.to_owned()];
    while let Some(folder) = ahead.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                ahead.push(path);
            } else {
                found.push(path.strip_prefix(root)?.to_owned());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Folders are for everybody to read, whatever this process's umask is.
pub(crate) fn settle(root: &Path) -> Result<()> {
    let mut ahead = vec![root.to_owned()];
    while let Some(folder) = ahead.pop() {
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))?;
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                ahead.push(path);
            }
        }
    }
    Ok(())
}

//! The Debian package.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    Product,
    pack::{files, settle},
    tree::{SETTINGS, put, read, repository},
};

/// How small a package is, and how long that takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// As Debian's own packages.
    Small,
    /// Not at all.
    None,
}

/// Scripts that dpkg runs, which lie in deploy/deb.
const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

/// Packs what is [laid out](crate::install) below `root`, which gets dpkg's own files, into `folder`.
pub fn deb(product: &Product<'_>, root: &Path, folder: &Path, compression: Compression) -> Result<PathBuf> {
    put(root, "DEBIAN/md5sums", sums(root)?.as_bytes())?;
    put(root, "DEBIAN/conffiles", SETTINGS.map(|path| format!("/{path}\n")).concat().as_bytes())?;
    put(root, "DEBIAN/control", control(product, root)?.as_bytes())?;
    for script in SCRIPTS {
        put(root, format!("DEBIAN/{script}"), &read(&repository().join("deploy/deb").join(script))?)?;
        fs::set_permissions(root.join("DEBIAN").join(script), fs::Permissions::from_mode(0o755))?;
    }
    settle(root)?;
    let package = folder.join(format!("bulkhead_{}_{}.deb", product.version, architecture(product.arch)?));
    let how = if compression == Compression::None { "-Znone" } else { "-Zxz" };
    let packed = Command::new("dpkg-deb")
        .args(["--root-owner-group", how, "--build"])
        .args([root, &package])
        .env("SOURCE_DATE_EPOCH", product.epoch.to_string())
        .output()
        .context("dpkg-deb cannot be started (package dpkg)")?;
    let said = String::from_utf8_lossy(&packed.stderr);
    ensure!(packed.status.success(), "dpkg-deb: {}\n{said}", packed.status);
    Ok(package)
}

/// Debian's name of an architecture.
fn architecture(arch: &str) -> Result<&'static str> {
    match arch {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        _ => anyhow::bail!("Debian's name of the architecture {arch} is not known here"),
    }
}

/// What dpkg and apt show. systemd: it makes the group, and runs the agent.
fn control(product: &Product<'_>, root: &Path) -> Result<String> {
    let mut bytes = 0;
    for path in files(root)? {
        bytes += fs::metadata(root.join(path))?.len();
    }
    Ok(format!(
        "Package: bulkhead\nVersion: {}\nArchitecture: {}\nMaintainer: The authors of Bulkhead <authors@bulkhead.invalid>\n\
         Section: net\nPriority: optional\nInstalled-Size: {}\nDepends: systemd, init-system-helpers (>= 1.52)\n\
         Description: network micro-segmentation by eBPF\n \
         Gives every workload of this machine (a systemd unit, a container, any cgroup) an\n \
         allowlist, keeps environments apart, and reports and explains every connection that it\n \
         refuses. Begins with a dry run, which refuses nothing.\n",
        product.version,
        architecture(product.arch)?,
        bytes.div_ceil(1024),
    ))
}

fn sums(root: &Path) -> Result<String> {
    let settings = SETTINGS.map(PathBuf::from);
    let files = files(root)?.into_iter().filter(|path| !settings.contains(path));
    let output = Command::new("md5sum").args(files).current_dir(root).output();
    let output = output.context("md5sum cannot be started (package coreutils)")?;
    ensure!(output.status.success(), "md5sum: {}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

//! What is installed where.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{Product, pages};

/// Where documentation goes.
pub(crate) const DOC: &str = "usr/share/doc/bulkhead";

/// What an administrator edits, and nobody overwrites.
pub(crate) const SETTINGS: [&str; 2] = ["etc/bulkhead/agent.toml", "etc/bulkhead/policy/starter.toml"];

/// Files of this repository, and where they go.
const FILES: [(&str, &str); 9] = [
    ("deploy/agent.toml", SETTINGS[0]),
    ("deploy/policy/starter.toml", SETTINGS[1]),
    ("deploy/systemd/bulkhead.service", "usr/lib/systemd/system/bulkhead.service"),
    ("deploy/sysusers/bulkhead.conf", "usr/lib/sysusers.d/bulkhead.conf"),
    ("deploy/tmpfiles/bulkhead.conf", "usr/lib/tmpfiles.d/bulkhead.conf"),
    ("README.md", "usr/share/doc/bulkhead/README.md"),
    ("CHANGELOG.md", "usr/share/doc/bulkhead/CHANGELOG.md"),
    ("LICENSE", "usr/share/doc/bulkhead/LICENSE"),
    ("policies/policy.schema.json", "usr/share/doc/bulkhead/policies/policy.schema.json"),
];

/// Folders of this repository of which everything with this ending goes there.
const FOLDERS: [(&str, &str, &str); 2] =
    [("docs", "md", DOC), ("policies", "toml", "usr/share/doc/bulkhead/policies")];

/// Lays everything out below `root`.
pub fn install(product: &Product<'_>, root: &Path) -> Result<()> {
    put(root, "usr/bin/bulkhead", &read(product.binary)?)?;
    fs::set_permissions(root.join("usr/bin/bulkhead"), fs::Permissions::from_mode(0o755))?;
    for (from, to) in FILES {
        put(root, to, &read(&repository().join(from))?)?;
    }
    for (folder, ending, to) in FOLDERS {
        let from = repository().join(folder);
        for entry in fs::read_dir(&from).with_context(|| format!("cannot read {}", from.display()))? {
            let path = entry?.path();
            if path.extension().is_some_and(|found| found == ending) {
                let name = path.file_name().context("a file has a name")?;
                put(root, Path::new(to).join(name), &read(&path)?)?;
            }
        }
    }
    put(root, Path::new(DOC).join("copyright"), copyright(product.notices).as_bytes())?;
    pages::install(product.speaker, root)
}

/// The root of this repository.
pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Writes a file, which everybody may read.
pub(crate) fn put(root: &Path, path: impl AsRef<Path>, contents: &[u8]) -> Result<()> {
    let path = root.join(path);
    let failed = || format!("cannot write {}", path.display());
    fs::create_dir_all(path.parent().context("a file is in a folder")?).with_context(failed)?;
    fs::write(&path, contents).with_context(failed)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).with_context(failed)
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// As Debian wants it: who may do what with the whole, and with its parts.
fn copyright(notices: &str) -> String {
    format!(
        "Bulkhead is under the Apache License 2.0, see LICENSE beside this file (on Debian also \
         /usr/share/common-licenses/Apache-2.0). The BPF programs in it declare \"Dual MIT/GPL\" to the kernel.\n\n\
         It is linked with:\n\n{notices}"
    )
}

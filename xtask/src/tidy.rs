//! `cargo xtask tidy`: what the compiler and clippy do not check.

mod dependencies;
mod licences;
mod links;
mod text;

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

use crate::workspace;

/// Check layers between crates, licences, links of the documentation, and what source files must not hold
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Args {}

/// Something to be put right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// The file and perhaps the line, or the package.
    place: String,
    what: String,
}

impl Finding {
    fn new(place: impl fmt::Display, what: impl fmt::Display) -> Self {
        Self { place: place.to_string(), what: what.to_string() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// A text file of this repository.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// From the root.
    path: String,
    text: String,
}

pub(crate) fn run(_: Args) -> Result<()> {
    check()
}

/// Prints every finding; fails if there is one.
pub(crate) fn check() -> Result<()> {
    let sources = sources()?;
    let mut findings: Vec<Finding> = sources.iter().flat_map(text::check).collect();
    findings.extend(links::check(&sources));
    findings.extend(dependencies::check()?);
    for finding in &findings {
        eprintln!("{finding}");
    }
    ensure!(findings.is_empty(), "{} finding(s)", findings.len());
    Ok(())
}

/// Every text file but what is built and what others wrote.
fn sources() -> Result<Vec<Source>> {
    const SKIPPED: [&str; 5] = [".git", "target", "LICENSE", "Cargo.lock", "corpus"];
    let root = workspace::root();
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let entries =
            fs::read_dir(root.join(&folder)).with_context(|| format!("cannot read {}", folder.display()))?;
        for entry in entries {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            let skipped = SKIPPED.iter().any(|name| Path::new(name) == Path::new(&entry.file_name()));
            let kind = entry.file_type()?;
            if skipped || kind.is_symlink() {
                continue;
            }
            if kind.is_dir() {
                folders.push(path);
            } else if let Ok(text) = fs::read_to_string(root.join(&path)) {
                found.push(Source { path: path.display().to_string(), text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

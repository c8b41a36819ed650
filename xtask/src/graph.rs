//! cargo's resolved graph: which packages there are, and what each needs.

use std::{
    collections::{BTreeMap, BTreeSet},
    env::consts::ARCH,
    path::PathBuf,
};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use crate::workspace::cargo;

/// `cargo metadata`, as far as it is used here.
#[derive(Debug, Deserialize)]
pub(crate) struct Graph {
    pub(crate) packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Package {
    id: String,
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) license: Option<String>,
    /// None for the workspace's own.
    pub(crate) source: Option<String>,
    /// Its Cargo.toml.
    pub(crate) manifest_path: PathBuf,
}

#[derive(Debug, Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Debug, Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Debug, Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Debug, Deserialize)]
struct DependencyKind {
    /// `dev`, `build`, or none for an ordinary one.
    kind: Option<String>,
}

impl Graph {
    /// Of this machine's platform, so that nothing needs to be fetched that is not built anyway. A lock file that does
    /// not fit its manifests is an error.
    pub(crate) fn of(manifest: &str) -> Result<Self> {
        let output = cargo()
            .args(["metadata", "--format-version=1", "--locked", "--manifest-path", manifest])
            .args(["--filter-platform", &format!("{ARCH}-unknown-linux-gnu")])
            .output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim_end());
        serde_json::from_slice(&output.stdout).context("cargo metadata is not understood")
    }

    /// What each package needs to be built: tests may use more.
    pub(crate) fn uses(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let names: BTreeMap<&str, &str> =
            self.packages.iter().map(|package| (package.id.as_str(), package.name.as_str())).collect();
        let built = |dependency: &&Dependency| {
            dependency.dep_kinds.iter().any(|dependency| dependency.kind.as_deref() != Some("dev"))
        };
        let node = |node: &'_ Node| {
            node.deps.iter().filter(built).filter_map(|d| names.get(d.pkg.as_str()).copied()).collect()
        };
        self.resolve.nodes.iter().filter_map(|n| Some((*names.get(n.id.as_str())?, node(n)))).collect()
    }
}

/// Everything that a package needs, however far.
pub(crate) fn below<'a>(package: &'a str, uses: &BTreeMap<&str, BTreeSet<&'a str>>) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    let mut open = vec![package];
    while let Some(package) = open.pop() {
        for used in uses.get(package).into_iter().flatten() {
            if found.insert(*used) {
                open.push(used);
            }
        }
    }
    found
}

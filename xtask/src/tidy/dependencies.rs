//! Who may import whom, and what comes from outside: read off cargo's resolved graph.

use std::{
    collections::{BTreeMap, BTreeSet},
    env::consts::ARCH,
};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::{Finding, licences};
use crate::workspace::{FUZZ, PROGRAMS, cargo};

/// The packages of this workspace and those that they may build upon: the arrows of docs/architecture.md. A package that
/// is not here has no room yet.
const MAY_USE: [(&str, &[&str]); 11] = [
    ("bulkhead-common", &[]),
    ("bulkhead-policy", &["bulkhead-common"]),
    ("bulkhead-workloads", &["bulkhead-common", "bulkhead-policy"]),
    ("bulkhead-report", &["bulkhead-common", "bulkhead-policy"]),
    ("bulkhead-toolchain", &[]),
    ("bulkhead-datapath", &["bulkhead-common", "bulkhead-toolchain"]),
    (
        "bulkhead",
        &["bulkhead-common", "bulkhead-datapath", "bulkhead-policy", "bulkhead-report", "bulkhead-workloads"],
    ),
    ("bulkhead-deploy", &[]),
    ("bulkhead-tests", &["bulkhead-common", "bulkhead-deploy", "bulkhead-policy"]),
    ("bulkhead-worlds", &["bulkhead-common", "bulkhead-policy"]),
    ("xtask", &["bulkhead-deploy", "bulkhead-tests", "bulkhead-toolchain"]),
];

/// What must not be below a package, however far.
const NEVER_BELOW: [(&str, &[&str]); 2] = [
    ("bulkhead-policy", &["aya", "tokio"]),
    // It has to build on a machine without the BPF toolchain.
    ("xtask", &["aya", "bulkhead-datapath"]),
];

/// The only package that names aya.
const NAMES_AYA: &str = "bulkhead-datapath";

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

pub(super) fn check() -> Result<Vec<Finding>> {
    let workspace = Graph::of("Cargo.toml")?;
    let programs = Graph::of(&format!("{PROGRAMS}/Cargo.toml"))?;
    let mut findings = workspace.layers();
    findings.extend(workspace.origins());
    findings.extend(programs.origins());
    findings.extend(Graph::of(&format!("{FUZZ}/Cargo.toml"))?.origins());
    Ok(findings)
}

/// `cargo metadata`, as far as it is used here.
#[derive(Debug, Deserialize)]
struct Graph {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Debug, Deserialize)]
struct Package {
    id: String,
    name: String,
    license: Option<String>,
    /// None for the workspace's own.
    source: Option<String>,
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
    fn of(manifest: &str) -> Result<Self> {
        let output = cargo()
            .args(["metadata", "--format-version=1", "--locked", "--manifest-path", manifest])
            .args(["--filter-platform", &format!("{ARCH}-unknown-linux-gnu")])
            .output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim_end());
        serde_json::from_slice(&output.stdout).context("cargo metadata is not understood")
    }

    /// What each package needs to be built: tests may use more.
    fn uses(&self) -> BTreeMap<&str, BTreeSet<&str>> {
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

    fn layers(&self) -> Vec<Finding> {
        let uses = self.uses();
        let own = self
            .packages
            .iter()
            .filter(|package| package.source.is_none())
            .map(|package| package.name.as_str());
        layer_findings(&own.collect(), &uses)
    }

    fn origins(&self) -> Vec<Finding> {
        let foreign = self.packages.iter().filter_map(|package| Some((package, package.source.as_deref()?)));
        foreign
            .flat_map(|(package, source)| {
                let origin =
                    (source != CRATES_IO).then(|| format!("comes from {source} and not from crates.io"));
                let licence = licences::complaint(package.license.as_deref());
                origin.into_iter().chain(licence).map(|what| Finding::new(&package.name, what))
            })
            .collect()
    }
}

fn layer_findings(own: &BTreeSet<&str>, uses: &BTreeMap<&str, BTreeSet<&str>>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in own {
        let Some((_, may_use)) = MAY_USE.iter().find(|(name, _)| name == package) else {
            findings
                .push(Finding::new(package, "has no place among the layers: give it one in xtask's tidy"));
            continue;
        };
        for used in uses.get(package).into_iter().flatten() {
            if own.contains(used) && !may_use.contains(used) {
                findings.push(Finding::new(package, format!("must not use {used}")));
            }
            if *used == "aya" && *package != NAMES_AYA {
                findings.push(Finding::new(package, format!("names aya, which is {NAMES_AYA}'s alone")));
            }
        }
    }
    for (package, never) in NEVER_BELOW {
        let below = below(package, uses);
        for found in never.iter().filter(|name| below.contains(*name)) {
            findings.push(Finding::new(
                package,
                format!("has {found} below it (cargo tree -p {package} -i {found})"),
            ));
        }
    }
    findings
}

/// Everything that a package needs, however far.
fn below<'a>(package: &'a str, uses: &BTreeMap<&str, BTreeSet<&'a str>>) -> BTreeSet<&'a str> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(edges: &[(&'static str, &'static str)]) -> Vec<String> {
        let mut uses: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (package, used) in edges {
            uses.entry(package).or_default().insert(used);
        }
        let own = MAY_USE.iter().map(|(name, _)| *name).collect();
        layer_findings(&own, &uses).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_arrows_point_one_way() {
        assert_eq!(findings(&[("bulkhead-report", "bulkhead-policy")]), Vec::<String>::new());
        let back = findings(&[("bulkhead-policy", "bulkhead-report")]);
        assert_eq!(back, ["bulkhead-policy: must not use bulkhead-report"]);
    }

    #[test]
    fn the_policy_stays_pure_however_far_down() {
        let found = findings(&[("bulkhead-policy", "innocent"), ("innocent", "tokio")]);
        assert_eq!(found, ["bulkhead-policy: has tokio below it (cargo tree -p bulkhead-policy -i tokio)"]);
    }

    #[test]
    fn only_the_datapath_names_aya() {
        assert_eq!(findings(&[("bulkhead-datapath", "aya")]), Vec::<String>::new());
        assert_eq!(
            findings(&[("bulkhead", "aya")]),
            ["bulkhead: names aya, which is bulkhead-datapath's alone"]
        );
    }
}

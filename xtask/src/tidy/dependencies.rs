//! Who may import whom, and what comes from outside: read off cargo's resolved graph.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;

use super::{Finding, licences};
use crate::{
    graph::{Graph, below},
    workspace::{FUZZ, PROGRAMS},
};

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

impl Graph {
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

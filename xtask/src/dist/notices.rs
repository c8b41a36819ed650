//! The licences of all that the binary is linked with, which want to be passed on.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::Path,
};

use anyhow::{Context as _, Result};

use crate::{
    graph::{Graph, Package, below},
    workspace::PROGRAMS,
};

/// How files are named that hold a licence or a notice.
const NAMES: [&str; 5] = ["COPYING", "COPYRIGHT", "LICENCE", "LICENSE", "NOTICE"];

/// A list of packages, then each text with the packages that come with it.
pub(super) fn gather() -> Result<String> {
    let agent = Graph::of("Cargo.toml")?;
    let programs = Graph::of(&format!("{PROGRAMS}/Cargo.toml"))?;
    let mut packages = foreign(&agent, "bulkhead");
    packages.extend(foreign(&programs, "bulkhead-ebpf"));
    let mut list = BTreeSet::new();
    let mut texts: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in packages {
        let name = format!("{} {}", package.name, package.version);
        list.insert(format!("{name}: {}\n", package.license.as_deref().unwrap_or("no licence")));
        for text in licences(package)? {
            texts.entry(text).or_default().insert(name.clone());
        }
    }
    let mut all: String = list.into_iter().collect();
    for (text, packages) in texts {
        let packages: Vec<_> = packages.into_iter().collect();
        write!(all, "\n----\n{}:\n\n{}\n", packages.join(", "), text.trim_end())?;
    }
    Ok(all)
}

/// What others have written of what a package needs to be built.
fn foreign<'a>(graph: &'a Graph, package: &'static str) -> Vec<&'a Package> {
    let needed = below(package, &graph.uses());
    let packages = graph.packages.iter();
    packages.filter(|package| package.source.is_some() && needed.contains(package.name.as_str())).collect()
}

fn licences(package: &Package) -> Result<Vec<String>> {
    let folder = package.manifest_path.parent().context("a manifest is in a folder")?;
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if is_licence(&path) {
            paths.push(path);
        }
    }
    paths.sort();
    paths.iter().map(|path| Ok(String::from_utf8_lossy(&fs::read(path)?).into_owned())).collect()
}

fn is_licence(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_uppercase();
    path.is_file() && NAMES.iter().any(|licence| name.starts_with(licence))
}

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

/// What is linked and is no package of cargo's: its name, its licence, whose it is. (LLVM's libunwind asks for no notice in
/// programs.)
const RUNTIME: [(&str, &str, &str); 2] = [
    ("musl libc", "MIT", "Copyright (c) 2005-2020 Rich Felker, et al."),
    ("Rust's standard library", "MIT OR Apache-2.0", "Copyright (c) The Rust Project Contributors"),
];

/// The licence of both.
const MIT: &str = "\
Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated documentation
files (the \"Software\"), to deal in the Software without restriction, including without limitation the rights to use, copy,
modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the Software
is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED \"AS IS\", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT
HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
";

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
    for (name, licence, whose) in RUNTIME {
        list.insert(format!("{name}: {licence}\n"));
        texts.entry(format!("{whose}\n\n{MIT}")).or_default().insert(name.to_owned());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_linked_is_named_with_its_licence() {
        let notices = gather().unwrap();
        for linked in
            ["\naya 0.", "\naya-ebpf 0.", "\nmusl libc: MIT\n", "\ntokio 1.", "The Rust Project Contributors"]
        {
            assert!(notices.contains(linked), "{linked:?} is not named");
        }
        assert!(!notices.contains("no licence") && !notices.contains("\nproptest "), "too much is named");
    }
}

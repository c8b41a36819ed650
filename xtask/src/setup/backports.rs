//! Packages that exclude what is installed, in the version that does not.
//!
//! A machine may have part of a program from the distribution's backports, with no source that names them (any more):
//! the stable version of its other part excludes it.

use std::process::Stdio;

use anyhow::{Context as _, Error, Result};
use bulkhead_tests::mirror;

use super::{
    run_lines,
    step::{Step, Wanted},
};
use crate::{
    apt::{Apt, Archive},
    console, workspace,
};

/// Installs packages that were `refused` together: one by one, and those that this machine's sources cannot bring alone either
/// from the backports.
pub(super) fn install(packages: &[Wanted], refused: &Error) -> Result<()> {
    console::note(format!("{refused:#}: one by one"));
    let mut apt = None;
    for package in packages {
        let Err(error) = run_lines(&Step::Packages(vec![package.clone()])) else { continue };
        console::note(format!("{error:#}: trying the distribution's backports, for this package alone"));
        let (apt, suite) = match &mut apt {
            Some(known) => known,
            none => none.insert(backports().with_context(|| format!("{error:#}"))?),
        };
        let mut install = apt.command("apt-get");
        install.args([
            "install",
            "--yes",
            "--no-install-recommends",
            "--no-remove",
            "--target-release",
            suite,
        ]);
        install.arg(&package.name).env("DEBIAN_FRONTEND", "noninteractive").stdout(Stdio::null());
        workspace::succeed(&mut install).with_context(|| {
            let name = &package.name;
            format!("{name} excludes what is installed: see what `apt-get install {name}` would remove")
        })?;
    }
    Ok(())
}

/// This distribution with its backports, and what they are called.
fn backports() -> Result<(Apt, String)> {
    let release = mirror::os_release("VERSION_CODENAME")?;
    let suite = |part: &str| format!("{release}{part}");
    let suites = [
        (suite(""), Archive::Main),
        (suite("-updates"), Archive::Main),
        (suite("-backports"), Archive::Main),
        (suite("-security"), Archive::Security),
    ];
    Ok((Apt::new(&workspace::target_directory().join("backports"), &suites)?, suite("-backports")))
}

//! apt with sources and state of its own: what this machine installs from is left as it is.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use bulkhead_tests::mirror::{self, Mirrors};

use crate::workspace::succeed;

/// What Debian's archives are signed with.
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Suites of Debian on the mirrors that this machine's own sources name.
#[derive(Debug)]
pub(crate) struct Apt {
    options: Vec<String>,
}

/// Which mirror has a suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Archive {
    Main,
    Security,
}

impl Apt {
    /// Fetches the lists of `suites` into the folder `state`.
    pub(crate) fn new<S: AsRef<str>>(state: &Path, suites: &[(S, Archive)]) -> Result<Self> {
        fs::create_dir_all(state.join("lists/partial"))?;
        fs::create_dir_all(state.join("cache/archives/partial"))?;
        // apt takes what it is given for relative to its own folders.
        let state = fs::canonicalize(state)?;
        let sources = state.join("sources.list");
        fs::write(&sources, source_lines(&mirror::mirrors()?, suites)?)?;
        let options: [(&str, PathBuf); 7] = [
            ("Dir::Etc::sourcelist", sources),
            ("Dir::Etc::sourceparts", "/dev/null".into()),
            ("Dir::Etc::preferencesparts", "/dev/null".into()),
            ("Dir::State::Lists", state.join("lists")),
            ("Dir::Cache", state.join("cache")),
            ("APT::Sandbox::User", "root".into()),
            ("Acquire::Languages", "none".into()),
        ];
        let options =
            options.into_iter().map(|(name, value)| format!("--option={name}={}", value.display())).collect();
        let apt = Self { options };
        succeed(apt.command("apt-get").arg("update"))?;
        Ok(apt)
    }

    /// A program of apt's that sees these suites only.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(&self.options).arg("--quiet=2").env("LC_ALL", "C");
        command
    }
}

fn source_lines<S: AsRef<str>>(mirrors: &Mirrors, suites: &[(S, Archive)]) -> Result<String> {
    ensure!(Path::new(KEYS).exists(), "{KEYS} is missing (package debian-archive-keyring)");
    let line = |(suite, archive): &(S, Archive)| {
        let mirror = match archive {
            Archive::Main => &mirrors.main,
            Archive::Security => {
                mirrors.security.as_ref().context("apt's sources name no mirror of security updates")?
            }
        };
        Ok(format!("deb [signed-by={KEYS}] {mirror} {} main\n", suite.as_ref()))
    };
    suites.iter().map(line).collect()
}

//! One step of the installation: what it brings, why, and by which commands.

use std::{
    fmt,
    process::{Command, Stdio},
};

use bulkhead_toolchain::{LINKER, NIGHTLY};

/// Newer ones may want a newer rustc than `rust-version` in Cargo.toml.
const LINKER_VERSION: &str = "0.13.0";
const NEXTEST_VERSION: &str = "0.9.143";

/// One thing to install.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The distribution's lists of packages.
    Lists,
    /// Packages of the distribution.
    Packages(Vec<Wanted>),
    /// Components of the toolchain that compiles user space.
    Components(Vec<&'static str>),
    /// rustup's nightly toolchain.
    Nightly,
    /// Components that it lacks.
    NightlyComponents(Vec<&'static str>),
    /// bpf-linker.
    Linker(LinkerSource),
    /// cargo-nextest.
    Nextest,
}

/// A package to install.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Its name.
    pub(crate) name: String,
    /// What for.
    pub(crate) why: &'static str,
}

impl Wanted {
    pub(crate) fn new(name: &str, why: &'static str) -> Self {
        Self { name: name.to_owned(), why }
    }
}

/// Where bpf-linker comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkerSource {
    /// Built here, with this LLVM of the distribution.
    Llvm(u32),
    /// Its project's own build.
    Prebuilt,
    /// Known once the distribution's lists are.
    Later,
}

/// A command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    environment: Vec<(&'static str, String)>,
    words: Vec<String>,
}

impl Line {
    fn new<const N: usize>(words: [&str; N]) -> Self {
        Self { environment: vec![], words: words.map(str::to_owned).to_vec() }
    }

    fn env(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.environment.push((name, value.into()));
        self
    }

    fn args<'a>(mut self, words: impl IntoIterator<Item = &'a str>) -> Self {
        self.words.extend(words.into_iter().map(str::to_owned));
        self
    }

    /// Ready to be run. It reads nothing, so it cannot wait for an answer.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]).envs(self.environment.iter().map(|(name, value)| (*name, value)));
        command.stdin(Stdio::null());
        if self.words[0] == "apt-get" {
            // dpkg tells of every file's way; what goes wrong comes on the other stream.
            command.stdout(Stdio::null());
        }
        command
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.environment {
            write!(f, "{name}={value} ")?;
        }
        f.write_str(&self.words.join(" "))
    }
}

impl Step {
    /// Whether only root can do it.
    pub(crate) fn needs_root(&self) -> bool {
        matches!(self, Self::Lists | Self::Packages(_))
    }

    /// What it brings and why, a line each.
    pub(crate) fn reasons(&self) -> Vec<(String, String)> {
        let one = |what: &str, why: &str| vec![(what.to_owned(), why.to_owned())];
        match self {
            Self::Lists => one("apt's lists", "what the distribution offers"),
            Self::Packages(packages) => {
                packages.iter().map(|package| (package.name.clone(), package.why.to_owned())).collect()
            }
            Self::Components(names) => one(&names.join(", "), "checks the code; of the toolchain in use"),
            Self::Nightly => one("rustup's nightly", "compiles the BPF programs, with rust-src and clippy"),
            Self::NightlyComponents(names) => {
                one(&names.join(", "), "of rustup's nightly, for the BPF programs")
            }
            Self::Linker(LinkerSource::Llvm(llvm)) => {
                one(LINKER, &format!("links the BPF programs; built here with LLVM {llvm}, a minute or two"))
            }
            Self::Linker(LinkerSource::Prebuilt) => one(
                LINKER,
                "links the BPF programs; its project's own build, since the distribution has no LLVM as new as rustc's",
            ),
            Self::Linker(LinkerSource::Later) => {
                one(LINKER, "links the BPF programs; how is decided once apt's lists are there")
            }
            Self::Nextest => one("cargo-nextest", "runs the tests; built here, some minutes"),
        }
    }

    /// The commands, in order.
    pub(crate) fn lines(&self) -> Vec<Line> {
        match self {
            Self::Lists => vec![Line::new(["apt-get", "update", "-qq"])],
            Self::Packages(packages) => vec![
                // Never at another package's cost: Debian's rustc and rustc-web exclude each other.
                Line::new(["apt-get", "install", "-qq", "--yes", "--no-install-recommends", "--no-remove"])
                    .args(packages.iter().map(|package| package.name.as_str()))
                    .env("DEBIAN_FRONTEND", "noninteractive"),
            ],
            Self::Components(names) => {
                vec![Line::new(["rustup", "component", "add"]).args(names.iter().copied())]
            }
            Self::Nightly => {
                vec![Line::new(["rustup", "toolchain", "install", NIGHTLY, "--profile", "minimal"]).args([
                    "--component",
                    "rust-src,clippy",
                    "--no-self-update",
                ])]
            }
            Self::NightlyComponents(names) => {
                vec![
                    Line::new(["rustup", "component", "add", "--toolchain", NIGHTLY])
                        .args(names.iter().copied()),
                ]
            }
            Self::Linker(LinkerSource::Llvm(llvm)) => vec![
                cargo_install(LINKER, LINKER_VERSION)
                    .args(["--force", "--no-default-features", "--features", &format!("llvm-{llvm}")])
                    .env("LLVM_PREFIX", format!("/usr/lib/llvm-{llvm}")),
            ],
            Self::Linker(LinkerSource::Prebuilt) => vec![
                Line::new(["cargo", "install", "--quiet", "--locked", "cargo-binstall"]),
                Line::new(["cargo", "binstall", "--no-confirm", "--force"])
                    .args([format!("{LINKER}@{LINKER_VERSION}").as_str()]),
            ],
            Self::Linker(LinkerSource::Later) => vec![],
            Self::Nextest => vec![cargo_install("cargo-nextest", NEXTEST_VERSION)],
        }
    }
}

fn cargo_install(name: &str, version: &str) -> Line {
    Line::new(["cargo", "install", "--quiet", "--locked", name, "--version", version])
}

//! What to install, from what there is. Pure: it looks at nothing but the facts.

use bulkhead_toolchain::{DEBIAN_PACKAGES, Way};

use super::{
    facts::{Apt, Facts},
    step::{LinkerSource, Step, Wanted},
};

/// The LLVMs that bpf-linker can be built with: its cargo features, in the version that [`Step::Linker`] installs.
pub(crate) const LINKER_LLVMS: [u32; 3] = [21, 22, 23];

/// The clippy of Debian's compiler.
pub(crate) const DEBIAN_CLIPPY: &str = "rust-web-clippy";

/// What was tried in this run and failed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Failed {
    /// rustup could not fetch nightly or its components.
    pub(crate) nightly: bool,
    /// No compiled bpf-linker could be fetched.
    pub(crate) prebuilt: bool,
}

/// Why no plan leads to a machine that builds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unobtainable {
    /// There is no apt-get to install these with.
    Packages(Vec<&'static str>),
    /// There is no rustup to install these with.
    Components(Vec<&'static str>),
    /// Neither way leads to a compiler with a linker that fits.
    Toolchain {
        /// What stands in rustup's way.
        rustup: &'static str,
        /// What stands in Debian's way.
        debian: &'static str,
    },
}

impl std::fmt::Display for Unobtainable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Packages(names) => write!(
                f,
                "apt-get is not on this machine: install what Debian calls {} with its package manager, then run \
                 `cargo xtask setup` again",
                names.join(", ")
            ),
            Self::Components(names) => {
                write!(f, "this cargo lacks {} and there is no rustup to add it with", names.join(" and "))
            }
            Self::Toolchain { rustup, debian } => write!(
                f,
                "no toolchain for the BPF programs can be had. rustup's nightly: {rustup}. Debian's compiler: {debian}"
            ),
        }
    }
}

impl std::error::Error for Unobtainable {}

/// The steps that are left; none on a machine that builds and tests Bulkhead.
pub(crate) fn plan(facts: &Facts, failed: Failed) -> Result<Vec<Step>, Unobtainable> {
    if !facts.components.is_empty() && !facts.rustup {
        return Err(Unobtainable::Components(facts.components.clone()));
    }
    if !facts.packages.is_empty() && facts.apt.is_none() {
        return Err(Unobtainable::Packages(facts.packages.iter().map(|package| package.name).collect()));
    }
    let toolchain = match Choice::make(facts, failed) {
        Ok(choice) => choice,
        // What cannot be had from lists that were never fetched is not known yet.
        Err(_) if facts.apt.as_ref().is_some_and(|apt| !apt.lists) => return Ok(vec![Step::Lists]),
        Err(unobtainable) => return Err(unobtainable),
    };

    let mut packages: Vec<Wanted> =
        facts.packages.iter().map(|package| Wanted::new(package.name, package.why)).collect();
    packages.extend(toolchain.packages(facts));
    let asks_apt = !packages.is_empty() || toolchain.linker == LinkerState::From(LinkerSource::Later);

    let mut steps = Vec::new();
    if asks_apt {
        steps.push(Step::Lists);
    }
    if !packages.is_empty() {
        steps.push(Step::Packages(packages));
    }
    if !facts.components.is_empty() {
        steps.push(Step::Components(facts.components.clone()));
    }
    if toolchain.way == Way::Rustup {
        match &facts.nightly {
            None => steps.push(Step::Nightly),
            Some(nightly) if !nightly.missing.is_empty() => {
                steps.push(Step::NightlyComponents(nightly.missing.clone()));
            }
            Some(_) => {}
        }
    }
    if let LinkerState::From(source) = toolchain.linker {
        steps.push(Step::Linker(source));
    }
    if !facts.nextest {
        steps.push(Step::Nextest);
    }
    Ok(steps)
}

/// A way to compile the BPF programs, and its linker.
#[derive(Clone, Copy, Debug)]
struct Choice {
    way: Way,
    linker: LinkerState,
}

/// What is to be done for a linker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LinkerState {
    /// Nothing: the installed one fits.
    Fits,
    /// Get it from there.
    From(LinkerSource),
}

impl Choice {
    /// The way that needs nothing; or else the first that needs no compiled linker from elsewhere; or else any.
    fn make(facts: &Facts, failed: Failed) -> Result<Self, Unobtainable> {
        let ways: Vec<Self> = [Way::Rustup, Way::Debian]
            .into_iter()
            .filter(|way| facts.wanted.is_none_or(|wanted| wanted == *way))
            .filter(|way| obstacle(*way, facts, failed).is_none())
            .filter_map(|way| Some(Self { way, linker: linker(llvm(way, facts), facts, failed)? }))
            .collect();
        let complete =
            ways.iter().find(|choice| choice.linker == LinkerState::Fits && complete(choice.way, facts));
        let own = || ways.iter().find(|choice| choice.linker != LinkerState::From(LinkerSource::Prebuilt));
        complete.or_else(own).or(ways.first()).copied().ok_or_else(|| {
            let no_linker = "no bpf-linker with an LLVM as new as its own can be had";
            Unobtainable::Toolchain {
                rustup: obstacle(Way::Rustup, facts, failed).unwrap_or(no_linker),
                debian: obstacle(Way::Debian, facts, failed).unwrap_or(no_linker),
            }
        })
    }

    /// What this way needs from the distribution.
    fn packages(&self, facts: &Facts) -> Vec<Wanted> {
        let mut packages = Vec::new();
        if self.way == Way::Debian && !complete(Way::Debian, facts) {
            let why = if complete(Way::Rustup, facts) {
                "compiles the BPF programs: no linker reads the bitcode of rustup's nightly"
            } else {
                "compiles the BPF programs"
            };
            packages.extend(DEBIAN_PACKAGES.map(|name| Wanted::new(name, why)));
            packages.push(Wanted::new(DEBIAN_CLIPPY, "checks the BPF programs"));
        }
        if let LinkerState::From(LinkerSource::Llvm(llvm)) = self.linker {
            let why = "bpf-linker is built with it";
            for name in
                [&format!("llvm-{llvm}-dev"), &format!("libpolly-{llvm}-dev"), "zlib1g-dev", "libzstd-dev"]
            {
                packages.push(Wanted::new(name, why));
            }
        }
        packages
    }
}

/// Whether the compiler of a way is there with all that belongs to it.
fn complete(way: Way, facts: &Facts) -> bool {
    match way {
        Way::Rustup => facts.nightly.as_ref().is_some_and(|nightly| nightly.missing.is_empty()),
        Way::Debian => facts.debian.is_some_and(|debian| debian.clippy),
    }
}

/// What keeps a compiler from being installed.
fn obstacle(way: Way, facts: &Facts, failed: Failed) -> Option<&'static str> {
    if complete(way, facts) {
        return None;
    }
    match (way, &facts.apt) {
        (Way::Rustup, _) if failed.nightly => Some("rustup could not fetch it"),
        (Way::Rustup, _) if !facts.rustup => Some("rustup is not installed"),
        (Way::Debian, None) => Some("apt-get is not on this machine"),
        (Way::Debian, Some(Apt { compiler: false, .. })) => {
            Some("the distribution offers none that is new enough (Debian 12 has it in bookworm-security)")
        }
        _ => None,
    }
}

/// The LLVM of an installed compiler.
fn llvm(way: Way, facts: &Facts) -> Option<u32> {
    match way {
        Way::Rustup => facts.nightly.as_ref().and_then(|nightly| nightly.llvm),
        Way::Debian => facts.debian.map(|debian| debian.llvm),
    }
}

/// Where a linker for `compiler`'s LLVM comes from; none if from nowhere. As long as the compiler is not installed, an
/// installed linker is left alone and a new one gets the newest LLVM there is.
fn linker(compiler: Option<u32>, facts: &Facts, failed: Failed) -> Option<LinkerState> {
    let fits = |linker: u32| compiler.is_none_or(|compiler| linker >= compiler);
    if facts.linker.as_ref().is_some_and(|linker| linker.llvm.is_none_or(fits)) {
        return Some(LinkerState::Fits);
    }
    let source = match &facts.apt {
        Some(Apt { lists: false, .. }) => Some(LinkerSource::Later),
        Some(Apt { llvms, .. }) => {
            llvms.last().copied().filter(|newest| fits(*newest)).map(LinkerSource::Llvm)
        }
        None => None,
    };
    source.or((!failed.prebuilt).then_some(LinkerSource::Prebuilt)).map(LinkerState::From)
}

#[cfg(test)]
mod tests;

//! What this machine has.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use bulkhead_toolchain::{
    Arch, CLIPPY, Compiler, DEBIAN_PACKAGES, Linker, Missing, Toolchain, WAY_VARIABLE, Way,
};

use super::{
    packages::{PACKAGES, Package, Proof},
    plan::{DEBIAN_CLIPPY, LINKER_LLVMS},
};
use crate::workspace;

/// What decides what is to be installed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// The packages that are missing.
    pub(crate) packages: Vec<&'static Package>,
    /// The components that the toolchain of this build lacks.
    pub(crate) components: Vec<&'static str>,
    /// Whether cargo-nextest is installed.
    pub(crate) nextest: bool,
    /// Whether rustup is.
    pub(crate) rustup: bool,
    /// rustup's nightly.
    pub(crate) nightly: Option<Nightly>,
    /// Debian's compiler for BPF.
    pub(crate) debian: Option<Debian>,
    /// bpf-linker, if it starts.
    pub(crate) linker: Option<Linker>,
    /// The way that the environment asks for.
    pub(crate) wanted: Option<Way>,
    /// What apt-get could install. None: not asked, since nothing is missing, or there is no apt-get.
    pub(crate) apt: Option<Apt>,
}

/// rustup's nightly toolchain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Nightly {
    /// Its LLVM; unknown as long as the toolchain is of no use.
    pub(crate) llvm: Option<u32>,
    /// The components that it lacks.
    pub(crate) missing: Vec<&'static str>,
}

/// Debian's compiler for BPF with its compiled `core`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Debian {
    /// Its LLVM.
    pub(crate) llvm: u32,
    /// Whether its clippy is there too.
    pub(crate) clippy: bool,
}

/// What the distribution offers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Apt {
    /// Whether the lists were ever fetched. Without them the rest is unknown.
    pub(crate) lists: bool,
    /// The LLVMs that bpf-linker could be built with.
    pub(crate) llvms: BTreeSet<u32>,
    /// Whether there is a compiler for BPF, new enough for this workspace.
    pub(crate) compiler: bool,
}

impl Facts {
    /// Looks, and changes nothing.
    pub(crate) fn gather() -> Result<Self, Missing> {
        let target = Arch::host().target();
        let wanted = env::var(WAY_VARIABLE).ok();
        let wanted = wanted.map(|name| Way::named(&name).ok_or(Missing::UnknownWay(name))).transpose()?;
        let facts = Self {
            packages: PACKAGES.iter().filter(|package| !package.installed()).collect(),
            components: missing_components(),
            nextest: program("cargo-nextest").is_some(),
            rustup: program("rustup").is_some(),
            nightly: nightly(target),
            debian: debian(target),
            linker: Linker::find().ok(),
            wanted,
            apt: None,
        };
        let toolchain = Toolchain::find(target).is_ok();
        let apt = if toolchain && facts.packages.is_empty() { None } else { apt() };
        Ok(Self { apt, ..facts })
    }
}

impl Package {
    fn installed(&self) -> bool {
        match self.proof {
            Proof::Program(name) => program(name).is_some(),
            Proof::File(path) => Path::new(path).exists(),
        }
    }
}

/// Finds a program, also where a user's or a service's `PATH` leaves it out.
fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo_home = cargo_home.or_else(|| env::home_dir().map(|home| home.join(".cargo")));
    env::split_paths(&path)
        .chain(cargo_home.map(|home| home.join("bin")))
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
}

/// rustfmt and clippy beside the cargo that runs this.
fn missing_components() -> Vec<&'static str> {
    let cargo = workspace::cargo_path();
    let missing = |program: &str| cargo.is_absolute() && !cargo.with_file_name(program).is_file();
    let components = [("rustfmt", "cargo-fmt"), ("clippy", CLIPPY)];
    components.into_iter().filter(|(_, program)| missing(program)).map(|(component, _)| component).collect()
}

fn nightly(target: &str) -> Option<Nightly> {
    match Compiler::find(Way::Rustup, target) {
        Ok(compiler) => {
            let clippy = compiler.beside(CLIPPY).is_file();
            Some(Nightly { llvm: Some(compiler.llvm), missing: if clippy { vec![] } else { vec!["clippy"] } })
        }
        Err(Missing::RustSrc) => Some(Nightly { llvm: None, missing: vec!["rust-src", "clippy"] }),
        Err(_) => None,
    }
}

fn debian(target: &str) -> Option<Debian> {
    let compiler = Compiler::find(Way::Debian, target).ok()?;
    Some(Debian { llvm: compiler.llvm, clippy: compiler.beside(CLIPPY).is_file() })
}

fn apt() -> Option<Apt> {
    program("apt-get")?;
    let lists = fs::read_dir("/var/lib/apt/lists").is_ok_and(|mut files| {
        files.any(|file| file.is_ok_and(|file| file.file_name().to_string_lossy().contains("_Packages")))
    });
    let llvm_packages = LINKER_LLVMS.map(|llvm| format!("llvm-{llvm}-dev"));
    let policy = Command::new("apt-cache")
        .arg("policy")
        .args(&llvm_packages)
        .args(DEBIAN_PACKAGES)
        .arg(DEBIAN_CLIPPY)
        .env("LC_ALL", "C")
        .output()
        .ok()?;
    let offered = candidates(&String::from_utf8_lossy(&policy.stdout));
    let version_of =
        |package: &str| offered.iter().find(|(name, _)| name == package).map(|(_, version)| version);
    let llvms = LINKER_LLVMS
        .into_iter()
        .zip(&llvm_packages)
        .filter(|(_, package)| version_of(package).is_some())
        .map(|(llvm, _)| llvm)
        .collect();
    let compiler = DEBIAN_PACKAGES
        .into_iter()
        .chain([DEBIAN_CLIPPY])
        .all(|package| version_of(package).is_some_and(|version| new_enough(version)));
    Some(Apt { lists, llvms, compiler })
}

/// The packages that `apt-cache policy` would install, and in which version.
fn candidates(policy: &str) -> Vec<(String, String)> {
    let mut package = "";
    let mut found = Vec::new();
    for line in policy.lines() {
        if let Some(name) = line.strip_suffix(':').filter(|name| !name.starts_with(' ')) {
            package = name;
        } else if let Some(version) = line.trim().strip_prefix("Candidate: ")
            && version != "(none)"
        {
            found.push((package.to_owned(), version.to_owned()));
        }
    }
    found
}

/// Whether a compiler of this version takes this workspace.
fn new_enough(version: &str) -> bool {
    let number = |version: &str| {
        let mut parts = version.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().ok());
        Some((parts.next()??, parts.next()??))
    };
    number(version) >= number(env!("CARGO_PKG_RUST_VERSION"))
}

#[cfg(test)]
mod tests {
    use super::{candidates, new_enough};

    #[test]
    fn a_package_without_a_candidate_is_not_offered() {
        let policy = "llvm-22-dev:\n  Installed: (none)\n  Candidate: 1:22.1.8-1~deb12u1\n  Version table:\n     \
                      1:22.1.8-1~deb12u1 500\nllvm-23-dev:\n  Installed: (none)\n  Candidate: (none)\n";
        assert_eq!(candidates(policy), [("llvm-22-dev".to_owned(), "1:22.1.8-1~deb12u1".to_owned())]);
    }

    #[test]
    fn a_compiler_older_than_the_workspace_asks_for_does_not_count() {
        assert!(new_enough("1.96.0+dfsg1-1~deb12u2"));
        assert!(!new_enough("1.85.0+dfsg3-1~deb12u3"));
    }
}

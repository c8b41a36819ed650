//! The two compilers that know the BPF target.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::Missing;

/// The rustup toolchain of the first way.
pub const NIGHTLY: &str = "nightly";

/// Debian's packages of the second way. They lag rustup's stable by a release or two and live in /usr/bin.
pub const DEBIAN_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"];

/// The linter of either toolchain.
pub const CLIPPY: &str = "cargo-clippy";

/// How a machine comes to a compiler for BPF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// rustup's nightly builds `core` from `rust-src`.
    Rustup,
    /// Debian's compiler brings a compiled `core`.
    Debian,
}

impl Way {
    /// The way that [`WAY_VARIABLE`](crate::WAY_VARIABLE) names.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "rustup" => Some(Self::Rustup),
            "debian" => Some(Self::Debian),
            _ => None,
        }
    }
}

/// A compiler for BPF with the cargo that drives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiler {
    /// Where it comes from.
    pub way: Way,
    /// The cargo beside it: itself, not rustup's proxy, which would obey the outer build's environment.
    pub cargo: PathBuf,
    /// The compiler, likewise itself.
    pub rustc: PathBuf,
    /// The major version of its LLVM.
    pub llvm: u32,
}

impl Compiler {
    /// Looks for the compiler of one way for `target`.
    pub fn find(way: Way, target: &str) -> Result<Self, Missing> {
        match way {
            Way::Rustup => Self::from_rustup(),
            Way::Debian => Self::from_debian(target),
        }
    }

    fn from_rustup() -> Result<Self, Missing> {
        let which = Command::new("rustup")
            .args(["which", "--toolchain", NIGHTLY, "rustc"])
            // Looking must not install.
            .env("RUSTUP_AUTO_INSTALL", "0")
            .output();
        let rustc = which
            .ok()
            .filter(|which| which.status.success())
            .map(|which| PathBuf::from(String::from_utf8_lossy(&which.stdout).trim()))
            .ok_or(Missing::Nightly)?;
        let compiler = Self::with(Way::Rustup, rustc).ok_or(Missing::Nightly)?;
        let sources =
            compiler.sysroot().map(|root| root.join("lib/rustlib/src/rust/library/core/Cargo.toml"));
        if sources.is_some_and(|sources| sources.is_file()) { Ok(compiler) } else { Err(Missing::RustSrc) }
    }

    fn from_debian(target: &str) -> Result<Self, Missing> {
        let core = Path::new("/usr/lib/rustlib").join(target).join("lib");
        let compiled_core = fs::read_dir(core).is_ok_and(|mut libraries| {
            libraries.any(|library| {
                library.is_ok_and(|library| library.file_name().to_string_lossy().starts_with("libcore-"))
            })
        });
        let compiler = Self::with(Way::Debian, "/usr/bin/rustc".into());
        compiler.filter(|_| compiled_core).ok_or(Missing::DebianCompiler)
    }

    /// A program of the same toolchain.
    pub fn beside(&self, program: &str) -> PathBuf {
        self.rustc.with_file_name(program)
    }

    fn with(way: Way, rustc: PathBuf) -> Option<Self> {
        let cargo = rustc.with_file_name("cargo");
        let llvm = llvm_of(&rustc)?;
        cargo.is_file().then_some(Self { way, cargo, rustc, llvm })
    }

    /// `<root>/bin/rustc` -> `<root>`.
    fn sysroot(&self) -> Option<&Path> {
        self.rustc.parent()?.parent()
    }
}

/// None if the compiler does not start.
fn llvm_of(rustc: &Path) -> Option<u32> {
    let version = Command::new(rustc).arg("-vV").output().ok().filter(|version| version.status.success())?;
    llvm_in(&String::from_utf8_lossy(&version.stdout))
}

fn llvm_in(version: &str) -> Option<u32> {
    let llvm = version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    llvm.split('.').next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::llvm_in;

    #[test]
    fn the_compilers_llvm_is_read_from_its_version() {
        let stable =
            "rustc 1.95.0 (59807616e 2026-04-14)\nhost: x86_64-unknown-linux-gnu\nLLVM version: 22.1.2\n";
        assert_eq!(llvm_in(stable), Some(22));
        assert_eq!(llvm_in("rustc 1.95.0 (59807616e 2026-04-14)\n"), None);
    }
}

//! Compiling the programs' workspace for one architecture.

use std::{
    error::Error,
    fmt,
    fs::{self, File},
    io,
    path::Path,
    process::Command,
};

use crate::{CLIPPY, Missing, Toolchain, Way, environment};

/// The machine that the programs will run on, in cargo's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arch {
    /// `x86_64`, `aarch64`, … as in `CARGO_CFG_TARGET_ARCH`. aya-ebpf needs it to read registers.
    pub name: String,
    /// Whether `CARGO_CFG_TARGET_ENDIAN` is `big`.
    pub big_endian: bool,
}

impl Arch {
    /// The machine that runs this.
    pub fn host() -> Self {
        Self { name: std::env::consts::ARCH.to_owned(), big_endian: cfg!(target_endian = "big") }
    }

    /// The compiler's target.
    pub fn target(&self) -> &'static str {
        if self.big_endian { "bpfeb-unknown-none" } else { "bpfel-unknown-none" }
    }

    /// The compiler's flags: which machine's registers and constants, and BTF made from full debug information.
    /// Separated as in `CARGO_ENCODED_RUSTFLAGS`.
    ///
    /// Memory is cleared and copied by stores in place: bpf-linker would have LLVM call a loop over single bytes even for
    /// sixteen of them.
    fn flags(&self) -> String {
        // The kernel and aya-ebpf know one riscv64; rustc several.
        let name = if self.name.starts_with("riscv64") { "riscv64" } else { &self.name };
        format!(
            "--cfg=bpf_target_arch=\"{name}\"\x1f-Cdebuginfo=2\x1f-Clink-arg=--btf\x1f\
             -Clink-arg=--disable-expand-memcpy-in-order"
        )
    }
}

/// A workspace of BPF programs and how to compile it.
#[derive(Clone, Copy, Debug)]
pub struct Programs<'a> {
    /// Where its Cargo.toml is.
    pub directory: &'a Path,
    /// Its cargo features.
    pub features: &'a [&'a str],
    /// Where to build. Not the outer build's own target directory: that one is locked.
    pub target_directory: &'a Path,
    /// What to build for.
    pub arch: &'a Arch,
}

impl Programs<'_> {
    /// Compiles the object `name` with this machine's toolchain and returns it. Silent unless it fails: the warnings of
    /// these crates belong to their own clippy pass, not into everybody's build.
    pub fn compile(&self, name: &str) -> Result<Vec<u8>, CompileError> {
        let toolchain = Toolchain::find(self.arch.target())?;
        // Builds that differ in features or profile put their object in the same place: nobody else's until it is read.
        fs::create_dir_all(self.target_directory)?;
        let lock = File::create(self.target_directory.join(".bulkhead-object"))?;
        lock.lock()?;
        let output = self.build(&toolchain).args(["--quiet", "--bin", name]).output()?;
        if !output.status.success() {
            return Err(CompileError::Failed(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        Ok(fs::read(self.target_directory.join(self.arch.target()).join("release").join(name))?)
    }

    /// clippy on the programs. Not `cargo clippy`: that would start rustup's default one, built for another compiler.
    pub fn clippy(&self, toolchain: &Toolchain) -> Command {
        let mut clippy = Command::new(toolchain.compiler.beside(CLIPPY));
        self.configure(&mut clippy, toolchain, "clippy");
        clippy.env("CARGO", &toolchain.compiler.cargo);
        clippy
    }

    fn build(&self, toolchain: &Toolchain) -> Command {
        let mut cargo = Command::new(&toolchain.compiler.cargo);
        self.configure(&mut cargo, toolchain, "build");
        cargo
    }

    /// Always optimised, in one unit: the verifier sees what the optimiser leaves.
    fn configure(&self, cargo: &mut Command, toolchain: &Toolchain, subcommand: &str) {
        let Toolchain { compiler, linker } = toolchain;
        let target = self.arch.target();
        let linker_variable = format!("CARGO_TARGET_{}_LINKER", target.to_uppercase().replace('-', "_"));
        environment::isolate(cargo);
        cargo
            .current_dir(self.directory)
            .env("RUSTC", &compiler.rustc)
            .env("CARGO_ENCODED_RUSTFLAGS", self.arch.flags())
            .env(linker_variable, &linker.path)
            .arg(subcommand)
            .args(["--release", "--config", "profile.release.codegen-units=1", "--target", target])
            .arg("--target-dir")
            .arg(self.target_directory);
        match compiler.way {
            Way::Rustup => cargo.args(["-Z", "build-std=core"]),
            // The programs use unstable features, and this compiler calls itself stable.
            Way::Debian => cargo.env("RUSTC_BOOTSTRAP", "1"),
        };
        if !self.features.is_empty() {
            cargo.arg("--features").arg(self.features.join(","));
        }
    }
}

/// Why there is no object.
#[derive(Debug)]
pub enum CompileError {
    /// The machine lacks a piece of the toolchain.
    Missing(Missing),
    /// cargo could not be started, or its output not be read.
    Io(io::Error),
    /// The programs do not compile; what the compiler said.
    Failed(String),
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(missing) => missing.fmt(f),
            Self::Io(error) => write!(f, "cannot build the BPF programs: {error}"),
            Self::Failed(output) => write!(f, "the BPF programs do not compile:\n{}", output.trim_end()),
        }
    }
}

impl Error for CompileError {}

impl From<Missing> for CompileError {
    fn from(missing: Missing) -> Self {
        Self::Missing(missing)
    }
}

impl From<io::Error> for CompileError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

#[cfg(test)]
mod tests {
    use super::Arch;

    #[test]
    fn the_target_follows_the_machines_byte_order() {
        let arch = |name: &str, big_endian| Arch { name: name.to_owned(), big_endian };
        assert_eq!(arch("x86_64", false).target(), "bpfel-unknown-none");
        assert_eq!(arch("s390x", true).target(), "bpfeb-unknown-none");
        assert!(arch("riscv64gc", false).flags().starts_with("--cfg=bpf_target_arch=\"riscv64\"\x1f"));
    }
}

//! What a machine lacks, in one sentence each.

use std::{error::Error, fmt};

use crate::{DEBIAN_PACKAGES, LINKER, NIGHTLY, WAY_VARIABLE};

/// The piece without which the BPF programs cannot be compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// [`WAY_VARIABLE`] holds something else than a way.
    UnknownWay(String),
    /// rustup has no nightly toolchain, or there is no rustup.
    Nightly,
    /// The nightly toolchain has no sources to build `core` from.
    RustSrc,
    /// Debian's compiler, cargo or compiled `core` is not installed.
    DebianCompiler,
    /// bpf-linker is neither in `PATH` nor in cargo's own directory.
    Linker,
    /// bpf-linker is there and does not start.
    LinkerBroken(String),
    /// bpf-linker's LLVM is older than the compiler's, so it could not read the bitcode.
    LinkerTooOld {
        /// LLVM's major version in the linker.
        linker: u32,
        /// LLVM's major version in the compiler.
        compiler: u32,
    },
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownWay(name) => {
                return write!(f, "{WAY_VARIABLE}={name} names no toolchain: it is `rustup` or `debian`");
            }
            Self::Nightly => write!(f, "rustup has no {NIGHTLY} toolchain to compile the BPF programs with")?,
            Self::RustSrc => write!(f, "the {NIGHTLY} toolchain lacks the component rust-src")?,
            Self::DebianCompiler => {
                write!(f, "one of Debian's packages {} is missing", DEBIAN_PACKAGES.join(", "))?;
            }
            Self::Linker => write!(f, "{LINKER}, which links the BPF programs, is not installed")?,
            Self::LinkerBroken(why) => write!(f, "{LINKER} does not start ({why})")?,
            Self::LinkerTooOld { linker, compiler } => write!(
                f,
                "{LINKER} links LLVM {linker} and cannot read the bitcode of a compiler with LLVM {compiler}"
            )?,
        }
        f.write_str(": run `cargo xtask setup`")
    }
}

impl Error for Missing {}

//! Finds the toolchain that compiles `ebpf/programs`, and compiles them.
//!
//! Two ways lead to a compiler for `bpfel-unknown-none`, and a machine needs one of them:
//!
//! - **rustup**: a nightly toolchain with `rust-src`, which builds `core` itself (`-Z build-std=core`);
//! - **Debian**: the packages `rustc-web`, `cargo-web` and `libstd-rust-web-dev-bpf`, which bring a compiled `core`.
//!   This is the way where rustup can fetch nothing.
//!
//! Both hand LLVM bitcode to [bpf-linker](https://github.com/aya-rs/bpf-linker), whose LLVM must be at least as new as
//! the compiler's. aya-build does the same job for the first way only.
//!
//! A build script depends on this crate, so it uses the standard library alone.

#![forbid(unsafe_code)]

mod compile;
mod compiler;
mod environment;
mod linker;
mod missing;

use std::env;

pub use compile::{Arch, CompileError, Programs};
pub use compiler::{CLIPPY, Compiler, DEBIAN_PACKAGES, NIGHTLY, Way};
pub use linker::{LINKER, Linker};
pub use missing::Missing;

/// Names the way to take, `rustup` or `debian`, where a machine has both. Unset: rustup first.
pub const WAY_VARIABLE: &str = "BULKHEAD_BPF_TOOLCHAIN";

/// A compiler and a linker that fit each other.
#[derive(Clone, Debug)]
pub struct Toolchain {
    /// What turns the programs into bitcode.
    pub compiler: Compiler,
    /// What turns the bitcode into a BPF object.
    pub linker: Linker,
}

impl Toolchain {
    /// The toolchain of this machine for `target` (such as `bpfel-unknown-none`), or the first piece that it lacks.
    pub fn find(target: &str) -> Result<Self, Missing> {
        let wanted = match env::var(WAY_VARIABLE) {
            Err(_) => None,
            Ok(name) => Some(Way::named(&name).ok_or(Missing::UnknownWay(name))?),
        };
        let linker = Linker::find();
        choose(wanted, |way| Self::pair(Compiler::find(way, target)?, linker.clone()?))
    }

    /// Refuses a linker whose LLVM cannot read the compiler's bitcode. A linker that does not tell (a static one) is
    /// trusted: should it be too old, the link fails.
    fn pair(compiler: Compiler, linker: Linker) -> Result<Self, Missing> {
        match linker.llvm {
            Some(llvm) if llvm < compiler.llvm => {
                Err(Missing::LinkerTooOld { linker: llvm, compiler: compiler.llvm })
            }
            _ => Ok(Self { compiler, linker }),
        }
    }
}

/// The wanted way, or rustup's, or else Debian's; where neither works, what rustup's lacks.
fn choose<T>(wanted: Option<Way>, find: impl Fn(Way) -> Result<T, Missing>) -> Result<T, Missing> {
    match wanted {
        Some(way) => find(way),
        None => find(Way::Rustup).or_else(|missing| find(Way::Debian).map_err(|_| missing)),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn compiler(llvm: u32) -> Compiler {
        Compiler { way: Way::Rustup, cargo: PathBuf::new(), rustc: PathBuf::new(), llvm }
    }

    fn linker(llvm: Option<u32>) -> Linker {
        Linker { path: PathBuf::new(), llvm }
    }

    #[test]
    fn a_linker_with_an_older_llvm_is_refused() {
        let refused = Toolchain::pair(compiler(22), linker(Some(21))).map(|_| ());
        assert_eq!(refused, Err(Missing::LinkerTooOld { linker: 21, compiler: 22 }));
        for llvm in [Some(22), Some(23), None] {
            assert!(Toolchain::pair(compiler(22), linker(llvm)).is_ok(), "{llvm:?} reads LLVM 22");
        }
    }

    #[test]
    fn debians_way_is_taken_where_rustups_lacks_a_piece() {
        let only_debian = |way| match way {
            Way::Rustup => Err(Missing::RustSrc),
            Way::Debian => Ok(way),
        };
        assert_eq!(choose(None, only_debian), Ok(Way::Debian));
        assert_eq!(choose(Some(Way::Rustup), only_debian), Err(Missing::RustSrc));
        assert_eq!(choose(None, Ok), Ok(Way::Rustup));
    }

    #[test]
    fn where_neither_way_works_rustups_missing_piece_is_named() {
        let neither = |way| match way {
            Way::Rustup => Err::<(), _>(Missing::Nightly),
            Way::Debian => Err(Missing::DebianCompiler),
        };
        assert_eq!(choose(None, neither), Err(Missing::Nightly));
        assert_eq!(choose(Some(Way::Debian), neither), Err(Missing::DebianCompiler));
    }
}

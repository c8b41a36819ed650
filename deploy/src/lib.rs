//! Lays Bulkhead out as it is installed, and packs it: as a Debian package, and as a tarball for everybody else. The files that
//! are installed as they are lie beside this crate's sources.
//!
//! By `dpkg-deb`, `tar` and `gzip` themselves, which every Debian has: a package is a handful of files, and tests pack the
//! binary that they test by the same code.

#![forbid(unsafe_code)]

mod deb;
mod pack;
mod pages;
mod tree;

use std::path::Path;

pub use self::{
    deb::{Compression, deb},
    pack::{checksums, tarball},
    tree::install,
};

/// What is packed.
#[derive(Clone, Copy, Debug)]
pub struct Product<'a> {
    /// The `bulkhead` to install.
    pub binary: &'a Path,
    /// One that runs here, and makes the manual pages and completions.
    pub speaker: &'a Path,
    /// As in Cargo.toml.
    pub version: &'a str,
    /// As rustc spells it: `x86_64`, `aarch64`.
    pub arch: &'a str,
    /// Licences of what the binary is linked with.
    pub notices: &'a str,
    /// When the sources were last changed, in seconds of Unix time: the time of every file, so that packages of the same
    /// sources are the same.
    pub epoch: u64,
}

//! Where this workspace lies and the cargo that builds it.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

/// The workspace of the BPF programs, below [`root`].
pub(crate) const PROGRAMS: &str = "ebpf/programs";

/// The workspace of the fuzz targets, below [`root`].
pub(crate) const FUZZ: &str = "fuzz";

/// The profile for what runs in emulated machines.
pub(crate) const EMULATED: &str = "emulated";

/// The folder of the outer Cargo.toml.
pub(crate) fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The cargo that runs this command, in the workspace's root.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(cargo_path());
    cargo.current_dir(root());
    cargo
}

/// The cargo that runs this command; a path where cargo itself started it.
pub(crate) fn cargo_path() -> PathBuf {
    env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")).into()
}

/// Where cargo puts what it builds.
pub(crate) fn target_directory() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |target| root().join(target))
}

/// Where the programs of a profile are.
pub(crate) fn programs(profile: &str) -> PathBuf {
    target_directory().join(if profile == "dev" { "debug" } else { profile })
}

/// Runs a command to its end; an error tells which one failed and how.
pub(crate) fn succeed(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {}", shown(command)))?;
    ensure!(status.success(), "{} failed ({status})", shown(command));
    Ok(())
}

fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

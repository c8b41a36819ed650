//! Where the programs under test lie.
//!
//! The probe belongs to this package, so cargo builds it with the tests. The agent is another package's: nothing on
//! stable cargo makes a test depend on it, so the first test of a run builds it, in the same target directory and
//! profile. A stale agent can therefore never be tested by mistake. `BULKHEAD_BIN` names one that is built already
//! (a release package, a binary for another kernel).

use std::{
    env,
    ffi::OsString,
    fs::{self, File},
    io::{Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use anyhow::{Context as _, Result, anyhow, ensure};

/// The agent, built from this tree.
pub fn agent() -> Result<&'static Path> {
    static AGENT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    AGENT.get_or_init(|| find_agent().map_err(|e| format!("{e:#}"))).as_deref().map_err(|e| anyhow!("{e}"))
}

/// The probe.
pub fn probe() -> Result<PathBuf> {
    let path = profile_dir()?.join("bulkhead-probe");
    ensure!(
        path.exists(),
        "{} is not built: cargo build -p bulkhead-tests --bins (needed where only one test target is built)",
        path.display()
    );
    Ok(path)
}

fn find_agent() -> Result<PathBuf> {
    if let Some(built) = env::var_os("BULKHEAD_BIN") {
        return Ok(built.into());
    }
    let profile = profile_dir()?;
    build_once(&profile)?;
    Ok(profile.join("bulkhead"))
}

/// Builds the agent unless another process of the same test run has.
fn build_once(profile: &Path) -> Result<()> {
    let run = env::var("NEXTEST_RUN_ID").unwrap_or_default();
    let mut stamp = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(profile.join(".bulkhead-built"))?;
    stamp.lock()?;
    let mut built_by = String::new();
    stamp.read_to_string(&mut built_by)?;
    if !run.is_empty() && built_by == run {
        return Ok(());
    }
    build(profile)?;
    stamp.set_len(0)?;
    stamp.rewind()?;
    Ok(stamp.write_all(run.as_bytes())?)
}

fn build(profile: &Path) -> Result<()> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let name = match profile.file_name().and_then(|n| n.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let built = Command::new(cargo)
        .args(["build", "--quiet", "--package", "bulkhead", "--profile", name, "--target-dir"])
        .arg(target_dir()?)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()?;
    ensure!(built.status.success(), "the agent does not build:\n{}", String::from_utf8_lossy(&built.stderr));
    Ok(())
}

/// The target directory: for what is dear to fetch or to build.
pub fn target_dir() -> Result<PathBuf> {
    Ok(profile_dir()?.parent().context("the target directory has no parent")?.to_owned())
}

/// `target/<profile>`, of the test or program that runs.
fn profile_dir() -> Result<PathBuf> {
    let own = fs::canonicalize(env::current_exe()?)?;
    let dir = own.parent().context("the executable has no directory")?;
    Ok(if dir.ends_with("deps") { dir.parent().context("deps has no parent")? } else { dir }.to_owned())
}

//! Tools of others that come from the Python Package Index, each in an environment of its own: installed once, and found in the
//! target directory by later runs.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::artifact;

/// The environment with what tests/NAME/requirements.txt lists, every package with its version.
pub fn environment(name: &str) -> Result<PathBuf> {
    let list = Path::new(env!("CARGO_MANIFEST_DIR")).join(name).join("requirements.txt");
    let requirements = fs::read_to_string(&list)?;
    let folder = artifact::target_dir()?.join(name);
    fs::create_dir_all(&folder)?;
    let lock = File::create(folder.join("lock"))?;
    lock.lock()?;
    let (python, installed) = (folder.join("python"), folder.join("installed"));
    if fs::read_to_string(&installed).ok().as_ref() != Some(&requirements) {
        let made = Command::new("python3").args(["-m", "venv", "--clear"]).arg(&python).output();
        let made = made.context("python3 cannot be started: run `cargo xtask setup`")?;
        ensure!(made.status.success(), "python3 -m venv: {}", String::from_utf8_lossy(&made.stderr));
        let pip = Command::new(python.join("bin/pip"))
            .args(["install", "--quiet", "--disable-pip-version-check", "--requirement"])
            .arg(&list)
            .output()?;
        ensure!(pip.status.success(), "pip install: {}", String::from_utf8_lossy(&pip.stderr));
        fs::write(&installed, requirements)?;
    }
    Ok(python)
}

//! `cargo xtask dist`: what is published. A package for Debian and a tarball for everybody else, of one static binary for each
//! architecture, with checksums.

mod notices;

use std::{
    env::{self, consts::ARCH},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use bulkhead_deploy::{Compression, Product, checksums, deb, install, tarball};

use crate::{
    console, setup,
    workspace::{self, cargo, succeed},
};

/// Architectures of which all is tested or at least built, this machine's first.
const ARCHES: [&str; 2] = ["x86_64", "aarch64"];

/// Build what is published, into dist in the target directory
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Args {
    /// Do not ask before installing what is missing
    #[arg(long, short)]
    yes: bool,
}

pub(crate) fn run(args: Args) -> Result<()> {
    setup::ensure(args.yes)?;
    ensure!(ARCHES.contains(&ARCH), "nothing is published for {ARCH}: build on {}", ARCHES.join(" or "));
    let folder = workspace::target_directory().join("dist");
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot clear {}", folder.display()))?;
    }
    fs::create_dir_all(&folder)?;
    console::step("licences of what is linked");
    let notices = notices::gather()?;
    let epoch = epoch()?;
    let mut published = Vec::new();
    // What this machine can run comes first: it makes the manual pages of all.
    let mut arches = ARCHES;
    arches.sort_by_key(|arch| *arch != ARCH);
    let mut speaker = PathBuf::new();
    for arch in arches {
        console::step(format!("bulkhead for {arch}"));
        let binary = match build(arch) {
            Ok(binary) => binary,
            Err(error) if arch != ARCH => {
                console::note(format!("not built: {error:#}"));
                continue;
            }
            Err(error) => return Err(error),
        };
        if arch == ARCH {
            speaker.clone_from(&binary);
        }
        let product = Product {
            binary: &binary,
            speaker: &speaker,
            version: env!("CARGO_PKG_VERSION"),
            arch,
            notices: &notices,
            epoch,
        };
        published.extend(pack(&product, &folder)?);
    }
    published.push(checksums(&folder, &published)?);
    for path in published {
        console::note(format!("{} ({} KiB)", path.display(), fs::metadata(&path)?.len().div_ceil(1024)));
    }
    Ok(())
}

fn pack(product: &Product<'_>, folder: &Path) -> Result<[PathBuf; 2]> {
    let root = tempfile::tempdir()?;
    install(product, root.path())?;
    // The other way round dpkg's own files would be in the tarball.
    let tarball = tarball(product, root.path(), folder)?;
    Ok([tarball, deb(product, root.path(), folder, Compression::Small)?])
}

/// Linked statically, so that it runs on any distribution; by rustc's own linker, so that no other architecture's compiler is
/// needed.
fn build(arch: &str) -> Result<PathBuf> {
    let target = format!("{arch}-unknown-linux-musl");
    succeed(Command::new("rustup").args(["--quiet", "target", "add", &target]))?;
    let linker = format!("CARGO_TARGET_{}_LINKER", target.replace('-', "_").to_uppercase());
    // The same binary whoever builds it, but for the folders in the line information of the BPF programs.
    let remap = [(workspace::root().canonicalize()?, "/bulkhead"), (cargo_home()?, "/cargo")];
    let flags = remap.map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display()));
    succeed(
        cargo()
            .args(["build", "--quiet", "--locked", "--release", "--package", "bulkhead", "--target", &target])
            .args(["--config", "profile.release.strip=\"symbols\""])
            .env(linker, "rust-lld")
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}")),
    )?;
    Ok(workspace::target_directory().join(target).join("release/bulkhead"))
}

fn cargo_home() -> Result<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    home.or_else(|| Some(env::home_dir()?.join(".cargo"))).context("neither CARGO_HOME nor HOME is set")
}

/// When the sources were last changed: reproducible-builds.org asks for `SOURCE_DATE_EPOCH`.
fn epoch() -> Result<u64> {
    if let Ok(epoch) = env::var("SOURCE_DATE_EPOCH") {
        return epoch.parse().context("SOURCE_DATE_EPOCH is no number of seconds");
    }
    let output = Command::new("git")
        .args(["log", "-1", "--format=%ct"])
        .current_dir(workspace::root())
        .output()
        .context("git cannot be started (package git)")?;
    let said = String::from_utf8_lossy(&output.stdout);
    said.trim().parse().context("git does not tell of the last commit: set SOURCE_DATE_EPOCH")
}

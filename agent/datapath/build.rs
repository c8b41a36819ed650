//! Compiles the BPF programs into `OUT_DIR/bulkhead`, which the crate embeds.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use bulkhead_toolchain::{Arch, Linker, Programs, WAY_VARIABLE};

const OBJECT: &str = "bulkhead";

fn main() -> ExitCode {
    // Not a Result: its Debug form would bury the one sentence that tells what to do.
    match embed() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn embed() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
    let programs = root.join("ebpf/programs");
    let out = PathBuf::from(variable("OUT_DIR")?);
    let log = env::var_os("CARGO_FEATURE_LOG").is_some();
    let arch = Arch {
        name: variable("CARGO_CFG_TARGET_ARCH")?,
        big_endian: variable("CARGO_CFG_TARGET_ENDIAN")? == "big",
    };
    // <target>/<profile>/build/<package>/out: one directory below <target> for every profile, since the programs are
    // always built alike.
    let target = out.ancestors().nth(4).ok_or("OUT_DIR lies too high")?.join("bpf");
    let features: &[&str] = if log { &["log"] } else { &[] };

    let object = Programs { directory: &programs, features, target_directory: &target, arch: &arch }
        .compile(OBJECT)?;
    fs::write(out.join(OBJECT), object)?;
    watch(&root);
    Ok(())
}

/// Names what the object is made of. Not the whole of ebpf/programs: a target directory there would never be at rest.
/// Only after success, since a failed build script runs again anyway and cargo would print the list above the error.
fn watch(root: &Path) {
    println!("cargo::rerun-if-env-changed={WAY_VARIABLE}");
    let sources = [
        "Cargo.toml",
        "ebpf/common/Cargo.toml",
        "ebpf/common/src",
        "ebpf/programs/Cargo.lock",
        "ebpf/programs/Cargo.toml",
        "ebpf/programs/src",
    ];
    for source in sources {
        println!("cargo::rerun-if-changed={}", root.join(source).display());
    }
    if let Ok(linker) = Linker::find() {
        println!("cargo::rerun-if-changed={}", linker.path.display());
    }
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|_| format!("cargo did not set {name}"))
}

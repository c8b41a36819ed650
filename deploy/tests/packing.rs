//! What is published: complete, and the same whoever packs it when.

#![forbid(unsafe_code)]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use bulkhead_deploy::{Compression, Product, checksums, deb, install, tarball};
use tempfile::TempDir;

/// Says what a `bulkhead` with one command would.
const SPEAKER: &str = "#!/bin/sh\necho \"$@\"\necho 'bulkhead\\-run(1)'\n";

/// Packs a binary that speaks thus, in a folder of its own.
fn pack() -> (TempDir, Vec<PathBuf>) {
    let folder = tempfile::tempdir().unwrap();
    let binary = folder.path().join("bulkhead");
    fs::write(&binary, SPEAKER).unwrap();
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o700)).unwrap();
    let product = Product {
        binary: &binary,
        speaker: &binary,
        version: "1.2.3",
        arch: "aarch64",
        notices: "somebody's licence\n",
        epoch: 1_700_000_000,
    };
    let root = folder.path().join("root");
    install(&product, &root).unwrap();
    let tarball = tarball(&product, &root, folder.path()).unwrap();
    let deb = deb(&product, &root, folder.path(), Compression::Small).unwrap();
    (folder, vec![tarball, deb])
}

fn listed(program: &str, arguments: &[&str], file: &Path) -> String {
    let output = Command::new(program).args(arguments).arg(file).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn both_hold_all_that_is_installed() {
    let (_folder, packed) = pack();
    let by_name = packed.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(by_name, ["bulkhead-1.2.3-aarch64-linux.tar.gz", "bulkhead_1.2.3_arm64.deb"]);
    let in_tarball = listed("tar", &["--list", "--file"], &packed[0]);
    let in_deb = listed("dpkg-deb", &["--contents"], &packed[1]);
    for path in [
        "/usr/bin/bulkhead",
        "/etc/bulkhead/agent.toml",
        "/etc/bulkhead/policy/starter.toml",
        "/usr/lib/systemd/system/bulkhead.service",
        "/usr/share/man/man1/bulkhead.1.gz",
        "/usr/share/man/man1/bulkhead-run.1.gz",
        "/usr/share/bash-completion/completions/bulkhead",
        "/usr/share/zsh/vendor-completions/_bulkhead",
        "/usr/share/fish/vendor_completions.d/bulkhead.fish",
        "/usr/share/doc/bulkhead/copyright",
        "/usr/share/doc/bulkhead/operations.md",
        "/usr/share/doc/bulkhead/policies/server.toml",
    ] {
        for (name, list) in [("tarball", &in_tarball), ("package", &in_deb)] {
            assert!(list.lines().any(|line| line.ends_with(path)), "the {name} has no {path}:\n{list}");
        }
    }
    assert!(in_tarball.lines().all(|line| line.starts_with("bulkhead-1.2.3-aarch64-linux/")), "{in_tarball}");
    assert!(!in_tarball.contains("DEBIAN"), "dpkg's own files are in the tarball");
    assert!(in_deb.lines().all(|line| line.contains("root/root")), "somebody's files: {in_deb}");
}

#[test]
fn what_is_packed_twice_is_the_same() {
    let (_one, first) = pack();
    // Times are kept in seconds.
    thread::sleep(Duration::from_millis(1_100));
    let (_other, second) = pack();
    for (first, second) in first.iter().zip(&second) {
        let same = fs::read(first).unwrap() == fs::read(second).unwrap();
        assert!(same, "{} and {} differ", first.display(), second.display());
    }
}

#[test]
fn checksums_are_what_sha256sum_expects() {
    let (folder, packed) = pack();
    let sums = checksums(folder.path(), &packed).unwrap();
    let mut check = Command::new("sha256sum");
    check.args(["--check", "--strict"]).arg(&sums).current_dir(folder.path());
    assert!(check.status().unwrap().success());
    assert_eq!(fs::read_to_string(&sums).unwrap().lines().count(), packed.len());
}

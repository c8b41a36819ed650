//! Machines as people have them, and what each one still needs.

use bulkhead_toolchain::Linker;

use super::*;
use crate::setup::{
    facts::{Debian, Nightly},
    packages::PACKAGES,
};

/// A machine that builds by rustup's nightly.
fn ready() -> Facts {
    Facts {
        nextest: true,
        rustup: true,
        nightly: Some(Nightly { llvm: Some(22), missing: vec![] }),
        linker: Some(with_llvm(22)),
        ..Facts::default()
    }
}

fn with_llvm(llvm: u32) -> Linker {
    Linker { path: "/usr/local/bin/bpf-linker".into(), llvm: Some(llvm) }
}

/// Debian 12 with rustup's stable and nothing else, its package lists fetched.
fn fresh() -> Facts {
    Facts { packages: PACKAGES.iter().collect(), rustup: true, apt: Some(debian_12()), ..Facts::default() }
}

fn debian_12() -> Apt {
    Apt { lists: true, llvms: [22].into(), compiler: true }
}

fn steps(facts: &Facts) -> Vec<Step> {
    plan(facts, Failed::default()).expect("this machine can be set up")
}

fn names(steps: &[Step]) -> Vec<&str> {
    let packages = steps.iter().find_map(|step| match step {
        Step::Packages(packages) => Some(packages),
        _ => None,
    });
    packages.into_iter().flatten().map(|package| package.name.as_str()).collect()
}

#[test]
fn a_ready_machine_needs_nothing() {
    assert_eq!(steps(&ready()), []);
    let by_debian = Facts { nightly: None, debian: Some(Debian { llvm: 22, clippy: true }), ..ready() };
    assert_eq!(steps(&by_debian), [], "Debian's compiler is as good as nightly");
}

#[test]
fn a_fresh_debian_gets_everything_with_rustups_nightly() {
    let steps = steps(&fresh());
    let names = names(&steps);
    for package in ["gcc", "debootstrap", "llvm-22-dev", "libpolly-22-dev"] {
        assert!(names.contains(&package), "{package} is not among {names:?}");
    }
    assert!(!names.contains(&"rustc-web"), "one compiler is enough");
    assert_eq!(steps[0], Step::Lists);
    assert_eq!(steps[2..], [Step::Nightly, Step::Linker(LinkerSource::Llvm(22)), Step::Nextest]);
}

#[test]
fn lists_are_fetched_before_anything_is_decided_on_them() {
    let never_updated = Facts { apt: Some(Apt::default()), ..fresh() };
    assert_eq!(steps(&never_updated)[0], Step::Lists);
    assert!(steps(&never_updated).contains(&Step::Linker(LinkerSource::Later)));
    let no_rustup = Facts { rustup: false, ..never_updated };
    assert_eq!(steps(&no_rustup), [Step::Lists], "Debian's compiler may be in them");
}

#[test]
fn where_rustup_cannot_fetch_debians_compiler_comes_in() {
    let offline = Failed { nightly: true, ..Failed::default() };
    let planned = plan(&fresh(), offline).expect("Debian has a compiler");
    assert!(names(&planned).contains(&"libstd-rust-web-dev-bpf"), "{planned:?}");
    assert!(names(&planned).contains(&DEBIAN_CLIPPY), "{planned:?}");
    assert!(!planned.contains(&Step::Nightly));
}

#[test]
fn a_nightly_ahead_of_every_llvm_gives_way_to_debians_compiler() {
    let facts = Facts {
        nightly: Some(Nightly { llvm: Some(24), missing: vec![] }),
        apt: Some(debian_12()),
        ..ready()
    };
    assert!(names(&steps(&facts)).contains(&"rustc-web"), "{:?}", steps(&facts));
}

#[test]
fn a_linker_too_old_for_its_compiler_is_replaced() {
    let facts = Facts { linker: Some(with_llvm(21)), apt: Some(debian_12()), ..ready() };
    assert_eq!(steps(&facts).last(), Some(&Step::Linker(LinkerSource::Llvm(22))));
}

#[test]
fn a_distribution_without_a_new_llvm_gets_a_compiled_linker() {
    let ubuntu = Apt { lists: true, ..Apt::default() };
    let facts = Facts { linker: None, apt: Some(ubuntu), ..ready() };
    assert_eq!(steps(&facts), [Step::Linker(LinkerSource::Prebuilt)]);
}

#[test]
fn only_what_is_missing_of_nightly_is_added() {
    let facts = Facts {
        nightly: Some(Nightly { llvm: None, missing: vec!["rust-src", "clippy"] }),
        apt: Some(debian_12()),
        ..ready()
    };
    assert_eq!(steps(&facts), [Step::NightlyComponents(vec!["rust-src", "clippy"])]);
}

#[test]
fn the_way_that_the_environment_asks_for_is_taken() {
    let facts = Facts { wanted: Some(Way::Debian), apt: Some(debian_12()), ..ready() };
    assert!(names(&steps(&facts)).contains(&"rustc-web"));
}

#[test]
fn where_neither_way_works_both_obstacles_are_named() {
    let facts = Facts { rustup: false, nightly: None, apt: None, ..ready() };
    let refused = plan(&facts, Failed::default()).expect_err("nothing can compile the programs");
    let expected = "no toolchain for the BPF programs can be had. rustup's nightly: rustup is not installed. \
                    Debian's compiler: apt-get is not on this machine";
    assert_eq!(refused.to_string(), expected);
}

#[test]
fn without_apt_get_the_missing_packages_are_named() {
    let facts = Facts { packages: vec![&PACKAGES[0]], ..ready() };
    assert_eq!(plan(&facts, Failed::default()), Err(Unobtainable::Packages(vec!["gcc"])));
}

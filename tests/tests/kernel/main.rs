//! What the programs must do on every kernel, with real processes in real cgroups and networks.
//!
//! `cargo xtask vm` runs this binary on one kernel after the other, where all tests share one agent; nextest runs
//! each test in a process of its own. A test that a kernel cannot take is skipped with the reason, which
//! `cargo xtask vm` holds against what it expects of that kernel.

#![forbid(unsafe_code)]

mod attacks;
mod births;
mod clock;
mod counters;
mod creation;
mod departures;
mod evasion;
mod generations;
mod groups;
mod headers;
mod heirs;
mod loopback;
mod neighbours;
mod packets;
mod protocols;
mod reports;
mod ring;
mod site;
mod sockets;
mod sources;
mod survival;
mod transports;
mod verifier;

use std::{
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Result;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use site::Site;

/// A test: its name, and what it does.
type Case = (&'static str, fn(&Site) -> Result<()>);

/// The site, once a test has asked for it.
type Shared = Arc<Mutex<Option<Site>>>;

fn main() -> ExitCode {
    if let Some(code) = ring::client() {
        return code;
    }
    let shared = Shared::default();
    let cases = [
        attacks::CASES,
        births::CASES,
        clock::CASES,
        creation::CASES,
        departures::CASES,
        evasion::CASES,
        generations::CASES,
        groups::CASES,
        headers::CASES,
        heirs::CASES,
        loopback::CASES,
        neighbours::CASES,
        protocols::CASES,
        ring::CASES,
        sockets::CASES,
        sources::CASES,
        survival::CASES,
        transports::CASES,
        verifier::CASES,
        // They use up what workloads may have reported for some seconds.
        reports::CASES,
        // The last: it leaves more to report than is read in a moment.
        counters::CASES,
    ];
    let trials = cases.concat().into_iter().map(|(name, case)| {
        let shared = Arc::clone(&shared);
        Trial::ignorable_test(name, move || complete(run(&shared, case)))
    });
    let conclusion = libtest_mimic::run(&Arguments::from_args(), trials.collect());
    let site = shared.lock().unwrap_or_else(PoisonError::into_inner).take();
    match site.map(Site::end).transpose() {
        Ok(_) => conclusion.exit_code(),
        Err(error) => {
            eprintln!("{error:?}");
            ExitCode::FAILURE
        }
    }
}

/// Why this kernel cannot take a test: an error that says so skips it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Skip(&'static str);

fn complete(result: Result<()>) -> Result<Completion, Failed> {
    match result {
        Ok(()) => Ok(Completion::Completed),
        Err(error) => match error.downcast::<Skip>() {
            Ok(Skip(why)) => Ok(Completion::ignored_with(why)),
            Err(error) => Err(format!("{error:?}").into()),
        },
    }
}

/// One at a time: they share cgroups and ports.
fn run(shared: &Shared, case: fn(&Site) -> Result<()>) -> Result<()> {
    let mut site = shared.lock().unwrap_or_else(PoisonError::into_inner);
    if site.is_none() {
        *site = Some(Site::new()?);
    }
    site.as_ref().map_or(Ok(()), case)
}

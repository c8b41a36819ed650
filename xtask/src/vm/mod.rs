//! `cargo xtask vm`: the kernel tests on real kernels of every age, in emulated machines.

mod archive;
mod expected;
mod kernels;
mod machine;
mod payload;
mod results;
mod table;
mod vmlinux;

use std::{
    collections::VecDeque,
    fs,
    num::NonZero,
    panic::resume_unwind,
    sync::{Mutex, PoisonError, mpsc},
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};

use self::{kernels::Kernel, machine::Machine, payload::Payload, results::Run};
use crate::{console, figures, setup, workspace::target_directory};

/// Run the kernel tests on kernels from Debian, old and new, each in an emulated machine
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Kernels: a series such as 5.10 or 6.1, one with the BPF security module as 5.10+lsm, or `newest` [default: all
    /// that Bulkhead promises to run on]
    versions: Vec<String>,
    /// Only the tests whose name contains this
    #[arg(long)]
    test: Option<String>,
    /// Machines at a time, with 1.5 GB of memory each [default: one for each processor and one more, since they
    /// wait much of their time]
    #[arg(long)]
    jobs: Option<usize>,
    /// Ask the mirror for newer kernels of these series
    #[arg(long)]
    update: bool,
    /// Put what the verifiers went through into docs/performance.md
    #[arg(long, conflicts_with = "test")]
    write: bool,
    /// Do not ask before installing what is missing
    #[arg(long, short)]
    yes: bool,
}

/// The kernels that Bulkhead promises to run on: the oldest, the long-term ones between, and the newest there is.
const MATRIX: [&str; 6] = ["5.10", "5.10+lsm", "6.1", "6.12", "6.18", "newest"];

/// A kernel to test, and how it is booted.
#[derive(Clone, Debug)]
struct Candidate {
    /// As asked for: a series, perhaps with a variant.
    name: String,
    kernel: Kernel,
    /// Kernel parameters of the variant.
    parameters: &'static str,
}

/// Fetches, boots, tests; fails unless every test passed or was skipped as expected.
pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(cfg!(target_arch = "x86_64"), "the emulated machines are x86-64: run this on such a host");
    setup::ensure(args.yes)?;
    let directory = target_directory().join("vm");
    fs::create_dir_all(&directory)?;
    let names: Vec<&str> = if args.versions.is_empty() {
        MATRIX.to_vec()
    } else {
        args.versions.iter().map(String::as_str).collect()
    };
    console::step("kernels, and tests to run on them");
    // The one waits for the mirror, the other for the compiler.
    let (candidates, payload) = thread::scope(|scope| {
        let payload = scope.spawn(|| Payload::build(&directory.join("payload")));
        let candidates = candidates(&names, &directory, args.update);
        (candidates, payload.join().unwrap_or_else(|panic| resume_unwind(panic)))
    });
    let (candidates, payload) = (candidates?, payload?);
    console::step(console::plural(candidates.len(), "emulated machine"));
    let runs = boot_all(&candidates, &payload, args, &directory)?;
    println!("{}", table::render(&runs));
    if args.write {
        figures::write("vm", &table::verified(&runs))?;
    }
    let verdict = expected::judge(&runs, args.test.is_none());
    for finding in &verdict.findings {
        println!("{finding}");
    }
    println!("{} passed, {} failed, {} skipped as expected", verdict.passed, verdict.failed, verdict.skipped);
    ensure!(verdict.failed == 0, "logs are in {}", directory.display());
    Ok(())
}

fn candidates(names: &[&str], directory: &std::path::Path, update: bool) -> Result<Vec<Candidate>> {
    let mut source = kernels::Source::new(directory.join("kernels"), update)?;
    names
        .iter()
        .map(|name| {
            let (series, parameters) = match name.split_once('+') {
                None => (*name, ""),
                Some((series, "lsm")) => (series, "lsm=lockdown,yama,apparmor,bpf"),
                Some((_, other)) => anyhow::bail!("{name}: no variant is called {other}; there is +lsm"),
            };
            let kernel = source.obtain(series)?;
            console::note(format!("{name}: {}", kernel.release));
            Ok(Candidate { name: (*name).to_owned(), kernel, parameters })
        })
        .collect()
}

/// Boots them, a few at a time; the runs are in the order of the candidates.
fn boot_all(
    candidates: &[Candidate],
    payload: &Payload,
    args: &Args,
    directory: &std::path::Path,
) -> Result<Vec<Run>> {
    let queue: Mutex<VecDeque<_>> = Mutex::new(candidates.iter().enumerate().collect());
    let (sender, receiver) = mpsc::channel();
    let mut runs = thread::scope(|scope| {
        let jobs = args.jobs.unwrap_or_else(|| thread::available_parallelism().map_or(1, NonZero::get) + 1);
        for _ in 0..jobs.clamp(1, candidates.len().max(1)) {
            let (sender, queue) = (sender.clone(), &queue);
            scope.spawn(move || {
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    let Some((number, candidate)) = next else { break };
                    let start = Instant::now();
                    let run = boot(candidate, payload, args.test.as_deref(), directory);
                    if sender.send((number, candidate, run, start.elapsed())).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        let mut runs = Vec::new();
        for (number, candidate, run, took) in receiver {
            let run = run.with_context(|| candidate.name.clone())?;
            console::note(format!(
                "{} ({}): {}, {:.0} s",
                candidate.name,
                candidate.kernel.release,
                console::plural(run.results.len(), "test"),
                took.as_secs_f32()
            ));
            runs.push((number, run));
        }
        Ok::<_, anyhow::Error>(runs)
    })?;
    runs.sort_by_key(|(number, _)| *number);
    Ok(runs.into_iter().map(|(_, run)| run).collect())
}

fn boot(
    candidate: &Candidate,
    payload: &Payload,
    filter: Option<&str>,
    directory: &std::path::Path,
) -> Result<Run> {
    let image = directory.join(format!("{}.cpio", candidate.name));
    payload.write_image(&candidate.kernel, &image)?;
    let machine = Machine {
        kernel: &candidate.kernel.vmlinux(),
        image: &image,
        parameters: candidate.parameters,
        filter,
        log: &directory.join(format!("{}.log", candidate.name)),
        results: &directory.join(format!("{}.results", candidate.name)),
    };
    let output = machine.run()?;
    fs::remove_file(&image)?;
    Ok(Run::of(&candidate.name, &candidate.kernel.release, &output))
}

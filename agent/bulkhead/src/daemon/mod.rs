//! `bulkhead run`: wires what follows the cgroups, what compiles, what enforces and what reports.

mod enforcement;
mod ledger;
mod metrics;
mod names;
mod priority;
mod refusals;
mod signals;
mod sinks;
mod switched_off;
mod unseen;

use std::{
    io::{self, Write as _},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use bulkhead_datapath::{DatapathError, Pins};
use bulkhead_policy::{Diagnostics, Policy, Source, load};
use bulkhead_report::{Enricher, Sinks};
use bulkhead_workloads::{CgroupId, CgroupRoot, HierarchyError, WatchError, Watcher};
use tokio::{sync::mpsc, time::sleep_until};

use self::{enforcement::Enforcement, metrics::Metrics, refusals::Refusals, signals::Signals};
use crate::{
    cli::Output,
    control::{Question, Server, ServerError},
    lock::{Lock, LockError},
    output::{self, plural},
    policy_files::{self, PolicyFilesError},
    settings::Settings,
};

/// Addresses are looked for this long after a change of cgroups, then in growing distances: a process comes after its
/// cgroup, and its addresses after it.
const SOON: Duration = Duration::from_millis(50);
/// Looking for addresses takes at most one in so many parts of the time, however busy the cgroups are.
const SHARE: u32 = 20;
/// And this often anyway: an address may change without a cgroup.
const SELDOM: Duration = Duration::from_secs(5);
/// How long the last reports may take to be printed.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why the agent does not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    #[error(transparent)]
    Files(#[from] PolicyFilesError),
    #[error("the policy does not compile; `bulkhead check` shows the same")]
    Policy { sources: Vec<Source>, findings: Diagnostics },
    #[error(transparent)]
    Hierarchy(#[from] HierarchyError),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Watch(#[from] WatchError),
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    #[error(transparent)]
    Control(#[from] ServerError),
    #[error("cannot read the addresses of this machine: {0}")]
    Addresses(io::Error),
    #[error("the thread that reports refusals has ended: this is a bug")]
    ReportsEnded,
    #[error("cannot start")]
    Start(#[from] io::Error),
}

/// Enforces a policy until told to stop.
pub(crate) fn run(settings: &Settings, output: Output) -> Result<(), RunError> {
    if switched_off::by_the_kernels_command_line() {
        return switched_off::wait(output);
    }
    let sources = policy_files::read(&settings.policy)?;
    let policy = read_policy(&sources, settings.dry_run)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let names = sources.into_iter().map(|source| source.name).collect();
    let ended = runtime.block_on(serve(settings, output, policy, names));
    // Whoever still reads /proc has nobody left to tell.
    runtime.shutdown_background();
    ended
}

fn read_policy(sources: &[Source], dry_run: bool) -> Result<Policy, RunError> {
    let loaded =
        load(sources).map_err(|findings| RunError::Policy { sources: sources.to_vec(), findings })?;
    if !loaded.warnings.is_empty() {
        eprint!("{}", loaded.warnings.render(sources, output::color(&io::stderr())));
    }
    let mut policy = loaded.policy;
    if dry_run {
        policy.dry_run();
    }
    Ok(policy)
}

async fn serve(
    settings: &Settings,
    output: Output,
    policy: Policy,
    files: Vec<String>,
) -> Result<(), RunError> {
    let root = CgroupRoot::find(settings.cgroup_root.as_deref())?;
    let _lock = Lock::take(&root)?;
    let mut signals = Signals::listen()?;
    let (mut watcher, there) = Watcher::start(root.clone())?;
    let policy = Arc::new(policy);
    let pins = Pins::new(&settings.bpffs, root.path())?;
    let mut enforcement =
        Enforcement::start(Arc::clone(&policy), root.clone(), &pins, watcher.tree(), &there)?;
    enforcement.put_in_force(&watcher.look_again())?;

    let tree = watcher.tree();
    let of_process = root.clone();
    let enricher = Enricher::new(policy, move |cgroup, pid| {
        let known = tree.read().path(CgroupId(cgroup));
        known.or_else(|| of_process.path_of_process(pid, CgroupId(cgroup)))
    });
    let sinks = Sinks::start(sinks::destinations(&settings.sinks, output))?;
    let mut refusals = Refusals::start(enforcement.take_events()?, enricher, sinks)?;

    priority::soon();
    let (questions, mut asked) = mpsc::channel(16);
    let server = Server::start(&settings.control_socket, questions)?;
    let (scrapes, mut waiting) = mpsc::channel(16);
    let metrics = Metrics::serve(settings.metrics, scrapes);
    enforcement.attach()?;
    let started = Instant::now();
    announce(&enforcement, settings, output);

    let mut pace = SOON;
    let mut look_for_addresses = tokio::time::Instant::now() + pace;
    let ended = loop {
        tokio::select! {
            signal = signals.next() => {
                tracing::info!(signal, "stopping");
                break Ok(());
            }
            () = refusals.ended() => break Err(RunError::ReportsEnded),
            changes = watcher.changed() => {
                match changes {
                    Ok(changes) => enforcement.follow(&changes),
                    Err(error) => break Err(error.into()),
                }
                while enforcement.is_crowded() && enforcement.make_room() {
                    enforcement.settle(&watcher.look_again());
                }
                pace = enforcement.cost_of_search().saturating_mul(SHARE).max(SOON);
                look_for_addresses = look_for_addresses.min(tokio::time::Instant::now() + pace);
            }
            () = sleep_until(look_for_addresses) => {
                enforcement.look_for_addresses();
                pace = (pace * 2).min(SELDOM);
                look_for_addresses = tokio::time::Instant::now() + pace;
            }
            inventory = enforcement.addresses_found() => enforcement.take_addresses(inventory),
            Some(Question::Status(answer)) = asked.recv() => {
                let mut status = enforcement.status(&files, settings.dry_run, started, refusals.counts());
                status.warnings.extend(metrics.warning());
                // Who asked may be gone.
                let _ = answer.send(status);
            }
            Some(scrape) = waiting.recv() => {
                let _ = scrape.send(enforcement.measures(settings.dry_run, started, &refusals));
            }
        }
    };
    drop(server);
    drop(metrics);
    // First of all: whose terminal is gone has nobody left to print to, and waits to get back in.
    let keeps = settings.keeps();
    if keeps {
        drop(enforcement);
    } else {
        enforcement.detach()?;
    }
    // What has been refused so far is reported.
    refusals.finish(PATIENCE);
    take_leave(keeps, output);
    ended
}

/// Says that every connection meets the programs from now on: one line on standard error, for who waits for it.
fn announce(enforcement: &Enforcement, settings: &Settings, output: Output) {
    let policy = enforcement.policy();
    let (workloads, environments) = (policy.workloads.len(), policy.environments.len());
    let root: PathBuf = enforcement.root().path().to_owned();
    let line = match output {
        Output::Json => serde_json::json!({
            "status": "ready",
            "pid": std::process::id(),
            "dry_run": settings.dry_run,
            "workloads": workloads,
            "environments": environments,
            "rules": policy.rules.len(),
            "cgroup_root": root,
            "generation": enforcement.generation(),
        })
        .to_string(),
        Output::Human => format!(
            "ready: {} {} in {} below {}; {}",
            if settings.dry_run { "watching (dry run, nothing is refused)" } else { "enforcing" },
            plural(workloads, "workload"),
            plural(environments, "environment"),
            root.display(),
            if settings.keeps() {
                "Ctrl-C stops the agent, `bulkhead detach` the enforcement"
            } else {
                "stop with Ctrl-C"
            }
        ),
    };
    tell(&line);
    for warning in enforcement.warnings() {
        tracing::warn!("{warning}");
    }
}

/// Says what goes on without the agent.
fn take_leave(keeps: bool, output: Output) {
    let said = match output {
        Output::Json => serde_json::json!({ "status": "stopped", "enforcing": keeps }).to_string(),
        Output::Human if keeps => {
            "stopped: the kernel goes on enforcing, until `bulkhead detach` or the next agent".to_owned()
        }
        Output::Human => "stopped: nothing is enforced any more".to_owned(),
    };
    tell(&said);
}

/// One line on standard error, for who waits for it. There may be nobody: a terminal closes.
fn tell(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

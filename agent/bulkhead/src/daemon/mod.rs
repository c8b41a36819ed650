//! `bulkhead run`: wires what follows the cgroups, what compiles, what enforces and what reports.

mod beginning;
mod canary;
mod cuts;
mod enforcement;
mod guard;
mod history;
mod keeper;
mod ledger;
mod metrics;
mod notify;
mod outlets;
mod priority;
mod proposals;
mod refusals;
mod reload;
mod signals;
mod sinks;
mod switched_off;
mod wall_clock;
mod watched_files;

use std::{
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use bulkhead_datapath::{DatapathError, Pins};
use bulkhead_policy::{Diagnostics, Source};
use bulkhead_report::{Enricher, Feed, Policies, Sinks};
use bulkhead_workloads::{CgroupId, CgroupRoot, HierarchyError, WatchError, Watcher};
use tokio::{
    sync::mpsc,
    time::{interval, sleep_until},
};

pub(crate) use self::canary::{be_canary, is_canary};
use self::{
    canary::CanaryError,
    enforcement::{Enforcement, Held},
    keeper::Keeper,
    metrics::Metrics,
    notify::Notify,
    outlets::Outlets,
    proposals::Proposals,
    refusals::Refusals,
    reload::Reload,
    signals::{Asked, Signals},
    wall_clock::WallClock,
    watched_files::WatchedFiles,
};
use crate::{
    cli::Output,
    control::{Question, Records, Server, ServerError},
    lock::{Lock, LockError},
    log::Log,
    output::plural,
    policy_files::PolicyFilesError,
    settings::Settings,
    state::StateError,
};

/// Addresses are looked for this long after a change of cgroups, then in growing distances: a process comes after its
/// cgroup, and its addresses after it.
const SOON: Duration = Duration::from_millis(50);
/// Looking for addresses takes at most one in so many parts of the time, however busy the cgroups are.
const SHARE: u32 = 20;
/// And this often anyway: an address may change without a cgroup.
const SELDOM: Duration = Duration::from_secs(5);
/// Or less often, on a host with so many workloads that it would take more than one in so many parts of the time.
const SHARE_AT_REST: u32 = 1_000;
/// How often the pins are looked after.
const PINS: Duration = Duration::from_secs(2);
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
    State(#[from] StateError),
    #[error(transparent)]
    Watch(#[from] WatchError),
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    #[error(transparent)]
    Control(#[from] ServerError),
    #[error(transparent)]
    Canary(#[from] CanaryError),
    #[error("cannot read the addresses of this machine: {0}")]
    Addresses(io::Error),
    #[error("the thread that reports refusals has ended: this is a bug")]
    ReportsEnded,
    #[error("cannot start")]
    Start(#[from] io::Error),
}

/// Enforces a policy until told to stop.
pub(crate) fn run(settings: &Settings, output: Output, log: &Log) -> Result<(), RunError> {
    if switched_off::by_the_kernels_command_line() {
        return switched_off::wait(output, log);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(serve(settings, output, log));
    // Whoever still reads /proc has nobody left to tell.
    runtime.shutdown_background();
    ended
}

async fn serve(settings: &Settings, output: Output, log: &Log) -> Result<(), RunError> {
    let root = CgroupRoot::find(settings.cgroup_root.as_deref())?;
    let _lock = Lock::take(&root)?;
    let mut keeper = if settings.dry_run { Keeper::idle() } else { Keeper::open(&settings.state_dir)? };
    // Before they are read: what changes in between is seen.
    let mut files = WatchedFiles::new(settings);
    let beginning = beginning::choose(settings, &keeper, log)?;
    let mut signals = Signals::listen(settings.reloads_on_signal())?;
    let mut notify = Notify::from_environment()?;
    let clock = WallClock::watch()?;
    let (mut watcher, _) = Watcher::start(root.clone())?;
    let pins = Pins::new(&settings.bpffs, root.path())?;
    let policies = Policies::default();
    let held = Held::new(beginning.written.clone(), &root, &watcher.tree()).map_err(RunError::Addresses)?;
    let mut enforcement = Enforcement::start(held, root.clone(), &pins, &mut watcher, policies.clone())?;

    let tree = watcher.tree();
    let of_process = root.clone();
    let noted = policies.clone();
    let enricher = Enricher::new(policies, move |cgroup, pid| {
        let known = tree.read().path(CgroupId(cgroup));
        known.or_else(|| of_process.path_of_process(pid, CgroupId(cgroup)))
    });
    let sinks = Sinks::start(sinks::destinations(&settings.sinks, output))?;
    let (feed, flows) = (Feed::default(), Feed::default());
    let history = history::start(settings, enforcement.tally(), noted, &flows)?;
    let kept = history.as_ref().map(|(history, _)| history.clone());
    let records = Records::new(feed.clone(), flows, kept.clone());
    let outlets = Outlets { sinks, feed, history };
    let mut refusals = Refusals::start(enforcement.take_events()?, enricher, outlets)?;

    priority::soon();
    let (questions, mut asked) = mpsc::channel(16);
    let server = Server::start(&settings.control_socket, questions, records)?;
    let (scrapes, mut waiting) = mpsc::channel(16);
    let metrics = Metrics::serve(settings.metrics, scrapes).await;
    enforcement.attach()?;
    if let Err(error) = canary::is_refused(&mut enforcement) {
        enforcement.withdraw()?;
        return Err(error.into());
    }
    enforcement.dismiss_others()?;
    let started = Instant::now();
    log.say(&announced(&enforcement, settings, output, &notify));
    for warning in enforcement.warnings() {
        tracing::warn!("{warning}");
    }
    beginning.keep(&mut keeper);
    let observer = enforcement.take_observer()?;
    let mut proposals = Proposals::new(root, watcher.tree(), observer, settings.dry_run);

    let mut reload = Reload::default();
    let begun_with = Arc::clone(enforcement.in_force().policy());
    let mut look_after_pins = interval(PINS);
    let mut pace = SOON;
    let mut look_for_addresses = tokio::time::Instant::now() + pace;
    let ended = loop {
        reload.begin(settings, &mut proposals, &enforcement);
        let trial_ends = enforcement.trial_ends();
        tokio::select! {
            signal = signals.next() => match signal {
                Asked::Stop(signal) => {
                    tracing::info!(signal, "stopping");
                    break Ok(());
                }
                Asked::Reload => reload.want(&enforcement),
            },
            () = files.changed() => reload.want(&enforcement),
            answer = reload.answer() => reload.note(answer, &enforcement),
            () = notify.beat() => {}
            () = clock.was_set() => enforcement.follow_the_clock(),
            _ = look_after_pins.tick() => drop(enforcement.look_after_pins()),
            () = refusals.ended() => break Err(RunError::ReportsEnded),
            changes = watcher.changed() => {
                match changes {
                    Ok(changes) => enforcement.follow(&changes),
                    Err(error) => break Err(error.into()),
                }
                enforcement.make_room(&mut watcher);
                pace = enforcement.cost_of_search().saturating_mul(SHARE).max(SOON);
                look_for_addresses = look_for_addresses.min(tokio::time::Instant::now() + pace);
            }
            () = sleep_until(look_for_addresses) => {
                enforcement.look_for_addresses();
                let seldom = enforcement.cost_of_search().saturating_mul(SHARE_AT_REST).max(SELDOM);
                pace = (pace * 2).min(seldom);
                look_for_addresses = tokio::time::Instant::now() + pace;
            }
            inventories = enforcement.addresses_found() => enforcement.take_addresses(inventories),
            looked_at = proposals.looked_at() => {
                proposals::act(looked_at, &mut enforcement, &mut keeper, &mut watcher);
            }
            () = sleep_until(trial_ends.unwrap_or_else(Instant::now).into()), if trial_ends.is_some() => {
                if enforcement.is_trial_over() {
                    let generation = enforcement.in_force().number();
                    tracing::warn!(generation, "not confirmed in time: the policy before is in force again");
                }
            }
            Some(question) = asked.recv() => match question {
                Question::Status(answer) => {
                    let mut status = enforcement.status(settings.dry_run, started, refusals.counts());
                    if Arc::ptr_eq(&begun_with, enforcement.in_force().policy()) {
                        status.warnings.extend(beginning.notes.iter().cloned());
                    }
                    status.warnings.extend(reload.warning(&enforcement));
                    status.warnings.extend(keeper.warning());
                    status.warnings.extend(metrics.warning());
                    status.warnings.extend(log.warning());
                    enforcement.add_traffic(status, answer);
                }
                Question::Traffic(wanted, reply) => enforcement.tell_traffic(wanted, reply),
                Question::Draft(refused, reply) => enforcement.tell_draft(&refused, reply),
                Question::Rules(answer) => enforcement.tell_rules(kept.clone(), answer),
                Question::Workloads(answer) => enforcement.tell_workloads(answer),
                Question::Plan(proposal, caller, reply) => {
                    proposals.plan(proposal, caller.pid, reply, &enforcement);
                }
                Question::Apply(proposal, caller, reply) => {
                    proposals.apply(proposal, caller.pid, reply, &enforcement);
                }
                Question::Compare(candidate, reply) => proposals.compare(candidate, reply, &enforcement),
                Question::Comparison(reply) => enforcement.tell_comparison(reply),
                Question::EndComparison(reply) => enforcement.end_comparison(reply),
                Question::Confirm(what, reply) => {
                    let _ = reply.send(proposals::confirm(&what, &mut enforcement, &mut keeper));
                }
                Question::RollBack(caller, reply) => match proposals::end_trial(&mut enforcement) {
                    Some(ended) => drop(reply.send(ended)),
                    None => proposals.go_back(&keeper, caller.pid, reply, &enforcement),
                },
            },
            Some(scrape) = waiting.recv() => {
                let _ = scrape.send(enforcement.measures(settings.dry_run, started, &refusals, log));
            }
        }
    };
    notify.stopping();
    drop(server);
    drop(metrics);
    // First of all: whose terminal is gone has nobody left to print to, and waits to get back in.
    let keeps = settings.keeps();
    let outlives = keeps && enforcement.look_after_pins();
    if keeps {
        drop(enforcement);
    } else {
        enforcement.detach()?;
    }
    // What has been refused so far is reported.
    refusals.finish(PATIENCE);
    log.say(&leave(outlives, output));
    ended
}

/// Tells the service manager that every connection meets the programs from now on; in a line for who waits for it on standard
/// error, too.
fn announced(enforcement: &Enforcement, settings: &Settings, output: Output, notify: &Notify) -> String {
    let policy = enforcement.in_force().policy();
    let (workloads, environments) = (policy.workloads.len(), policy.environments.len());
    let root: PathBuf = enforcement.root().path().to_owned();
    let doing = format!(
        "{} {} in {} below {}",
        if settings.dry_run { "watching (dry run, nothing is refused)" } else { "enforcing" },
        plural(workloads, "workload"),
        plural(environments, "environment"),
        root.display(),
    );
    notify.ready(&doing);
    match output {
        Output::Json => serde_json::json!({
            "status": "ready",
            "pid": std::process::id(),
            "dry_run": settings.dry_run,
            "workloads": workloads,
            "environments": environments,
            "rules": policy.rules.len(),
            "cgroup_root": root,
            "generation": enforcement.in_force().number(),
        })
        .to_string(),
        Output::Human if settings.keeps() => {
            format!("ready: {doing}; Ctrl-C stops the agent, `bulkhead detach` the enforcement")
        }
        Output::Human => format!("ready: {doing}; stop with Ctrl-C"),
    }
}

/// What goes on without the agent.
fn leave(outlives: bool, output: Output) -> String {
    match output {
        Output::Json => serde_json::json!({ "status": "stopped", "enforcing": outlives }).to_string(),
        Output::Human if outlives => {
            "stopped: the kernel goes on enforcing, until `bulkhead detach` or the next agent".to_owned()
        }
        Output::Human => "stopped: nothing is enforced any more".to_owned(),
    }
}

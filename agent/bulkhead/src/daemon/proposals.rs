//! Policies that somebody proposes: looked at off the thread that follows cgroups, and then put in force or not.

use std::{panic::resume_unwind, sync::Arc, thread, time::Duration};

use bulkhead_datapath::Observer;
use bulkhead_policy::{Difference, Source, diff};
use bulkhead_workloads::{CgroupRoot, SharedTree, Watcher};
use serde_json::Value;
use tokio::task::JoinHandle;

use super::{
    beginning,
    cuts::{self, Cuts, Refused},
    enforcement::{Confirmed, Enforcement, Held},
    guard,
    keeper::Keeper,
};
use crate::{
    control::{Applied, Candidate, Confirmation, Plan, Proposal, Refusal, Reply, Shadow},
    input::now_ns,
    policy_files,
};

/// The shortest time within which somebody can confirm, and the longest that makes sense.
const TIMES: [Duration; 2] = [Duration::from_secs(1), Duration::from_hours(24)];

/// What is proposed now, if anything is.
pub(super) struct Proposals {
    root: CgroupRoot,
    tree: SharedTree,
    observer: Arc<Observer>,
    dry_run: bool,
    pending: Option<Pending>,
}

struct Pending {
    look: JoinHandle<Result<Ready, Refusal>>,
    then: Then,
}

/// What is to become of a policy that has been looked at.
pub(super) enum Then {
    /// It is only to be told.
    Tell {
        /// Who asks, and the processes above it.
        session: Vec<u32>,
        reply: Reply<Plan>,
    },
    PutInForce {
        session: Vec<u32>,
        time: Option<Duration>,
        force: bool,
        reply: Reply<Applied>,
    },
    /// It is only to be compared with what is in force.
    Compare {
        reply: Reply<Shadow>,
    },
}

impl Then {
    fn refuse(self, refusal: Refusal) {
        // Who asked may be gone.
        match self {
            Self::Tell { reply, .. } => drop(reply.send(Err(refusal))),
            Self::PutInForce { reply, .. } => drop(reply.send(Err(refusal))),
            Self::Compare { reply } => drop(reply.send(Err(refusal))),
        }
    }
}

/// A policy that has been looked at.
pub(super) struct Ready {
    held: Held,
    refused: Vec<Refused>,
    warnings: Vec<Value>,
    /// With the policy in force, if it was asked for.
    changes: Option<Difference>,
}

impl Proposals {
    pub(super) fn new(root: CgroupRoot, tree: SharedTree, observer: Observer, dry_run: bool) -> Self {
        Self { root, tree, observer: Arc::new(observer), dry_run, pending: None }
    }

    /// Somebody wants to know what a policy would change.
    pub(super) fn plan(
        &mut self,
        proposal: Proposal,
        caller: Option<u32>,
        reply: Reply<Plan>,
        now: &Enforcement,
    ) {
        let sources = proposal.policy.into_iter().map(Source::from).collect();
        self.look_at(sources, Then::Tell { session: guard::ancestors(caller), reply }, now);
    }

    /// Somebody wants a policy in force.
    pub(super) fn apply(
        &mut self,
        proposal: Proposal,
        caller: Option<u32>,
        reply: Reply<Applied>,
        now: &Enforcement,
    ) {
        let Proposal { policy, confirm_within, force } = proposal;
        let time = match confirm_within.map(Duration::try_from_secs_f64) {
            None => None,
            Some(Ok(time)) if (TIMES[0]..=TIMES[1]).contains(&time) => Some(time),
            Some(_) => {
                let error = "confirm_within is to be between a second and a day: give another time";
                drop(reply.send(Err(Refusal { error: error.to_owned(), ..Refusal::default() })));
                return;
            }
        };
        let sources = policy.into_iter().map(Source::from).collect();
        let session = guard::ancestors(caller);
        self.look_at(sources, Then::PutInForce { session, time, force, reply }, now);
    }

    /// The policy files are to be in force: nobody's session is to be looked after, and nobody can force it.
    pub(super) fn reload(&mut self, sources: Vec<Source>, reply: Reply<Applied>, now: &Enforcement) {
        self.look_at(sources, Then::PutInForce { session: Vec::new(), time: None, force: false, reply }, now);
    }

    /// Is none being looked at?
    pub(super) fn are_none(&self) -> bool {
        self.pending.is_none()
    }

    /// Somebody wants to know what a policy would decide otherwise.
    pub(super) fn compare(&mut self, candidate: Candidate, reply: Reply<Shadow>, now: &Enforcement) {
        let sources = candidate.policy.into_iter().map(Source::from).collect();
        self.look_at(sources, Then::Compare { reply }, now);
    }

    /// Somebody wants the policy back that was confirmed before the last one.
    pub(super) fn go_back(
        &mut self,
        keeper: &Keeper,
        caller: Option<u32>,
        reply: Reply<Applied>,
        now: &Enforcement,
    ) {
        let Some(previous) = &keeper.policies().previous else {
            drop(reply.send(Err(refusal(
                "there is nothing to roll back to: no policy was confirmed before this one",
            ))));
            return;
        };
        let session = guard::ancestors(caller);
        let then = Then::PutInForce { session, time: None, force: false, reply };
        self.look_at(previous.sources(), then, now);
    }

    /// Begins to look at a policy: one after the other, for each is compared with what is in force.
    fn look_at(&mut self, sources: Vec<Source>, then: Then, now: &Enforcement) {
        if self.pending.is_some() {
            return then.refuse(refusal("another policy is being looked at: try again in a moment"));
        }
        if let Err(error) = policy_files::not_blank(&sources) {
            return then.refuse(refusal(format!("nothing has changed: {error}")));
        }
        if matches!(then, Then::Compare { .. })
            && let Err(refusal) = can_be_compared_with(now)
        {
            return then.refuse(refusal);
        }
        let old = matches!(then, Then::Tell { .. })
            .then(|| (Arc::clone(now.in_force().policy()), now.in_force().inventory().clone()));
        // What is only compared cuts nothing.
        let cuts = !matches!(then, Then::Compare { .. });
        let (root, tree, dry_run) = (self.root.clone(), self.tree.clone(), self.dry_run);
        let observer = Arc::clone(&self.observer);
        let look = tokio::task::spawn_blocking(move || {
            let (written, warnings) =
                beginning::compile(sources, dry_run).map_err(|(_, findings)| Refusal {
                    error: format!("the policy does not compile, and nothing has changed:\n{findings}"),
                    findings: findings
                        .iter()
                        .filter_map(|finding| serde_json::to_value(finding).ok())
                        .collect(),
                    ..Refusal::default()
                })?;
            let changes = old.map(|(old, inventory)| diff(&old, &written.policy, &inventory, now_ns()));
            let held = Held::new(written, &root, &tree)
                .map_err(|error| refusal(format!("cannot read the addresses of this machine: {error}")))?;
            let live = if cuts {
                observer.connections(|cgroup| held.workload(cgroup).is_some())
            } else {
                Vec::new()
            };
            let warnings = warnings.iter().filter_map(|warning| serde_json::to_value(warning).ok()).collect();
            Ok(Ready { refused: cuts::refused(live, &held, now_ns()), held, warnings, changes })
        });
        self.pending = Some(Pending { look, then });
    }

    /// Waits until a policy has been looked at; for ever if none is. May be cancelled.
    pub(super) async fn looked_at(&mut self) -> (Result<Ready, Refusal>, Then) {
        let Some(pending) = &mut self.pending else { return std::future::pending().await };
        let looked = (&mut pending.look).await;
        let Some(Pending { then, .. }) = self.pending.take() else { return std::future::pending().await };
        let ready = looked.unwrap_or_else(|error| {
            Err(refusal(format!("the policy could not be looked at ({error}): this is a bug")))
        });
        (ready, then)
    }
}

/// Does what is to become of a policy that has been looked at.
pub(super) fn act(
    (ready, then): (Result<Ready, Refusal>, Then),
    enforcement: &mut Enforcement,
    keeper: &mut Keeper,
    watcher: &mut Watcher,
) {
    let ready = match ready {
        Ok(ready) => ready,
        Err(refusal) => return then.refuse(refusal),
    };
    match then {
        Then::Tell { session, reply } => {
            let now = enforcement.in_force();
            let Cuts { told, more } =
                cuts::cut(ready.refused, &enforcement.before(), ready.held.policy(), &session, now_ns());
            let plan = Plan {
                generation: now.number(),
                policy_hash: ready.held.hash().to_owned(),
                warnings: ready.warnings,
                changes: ready.changes.unwrap_or_default(),
                cut: told,
                more_cut: more,
            };
            drop(reply.send(Ok(plan)));
        }
        Then::PutInForce { reply, .. } if reply.is_closed() => {
            tracing::warn!("nothing has changed: who asked for a policy has not waited for the answer");
        }
        Then::PutInForce { session, time, force, reply } => {
            let done = put_in_force(ready, &session, time, force, (enforcement, keeper, watcher));
            drop(reply.send(done));
        }
        Then::Compare { reply } => drop(reply.send(compare(ready.held, enforcement, watcher))),
    }
}

fn put_in_force(
    ready: Ready,
    session: &[u32],
    time: Option<Duration>,
    force: bool,
    (enforcement, keeper, watcher): (&mut Enforcement, &mut Keeper, &mut Watcher),
) -> Result<Applied, Refusal> {
    let Ready { mut held, refused, .. } = ready;
    let Cuts { told: cut, more: more_cut } =
        cuts::cut(refused, &enforcement.before(), held.policy(), session, now_ns());
    let guarded: Vec<_> = cut.iter().filter(|cut| cut.guard.is_some() && cut.verdict == "denied").collect();
    if !force && !guarded.is_empty() {
        let error = "nothing has changed: the policy would cut connections that somebody may need to get back in. Allow \
                     them, or apply it with --force, and best with --confirm-within";
        let cut = guarded.into_iter().cloned().collect();
        return Err(Refusal { error: error.to_owned(), cut, ..Refusal::default() });
    }
    let mut notes = Vec::new();
    let before = keeper.policies().clone();
    // What is for a while only is kept as it is confirmed: here it is seen whether that will be possible.
    let after = if time.is_some() { before.clone() } else { keeper.with_confirmed(held.written()) };
    // The one waits for the disk, the other for the kernel.
    let (kept, prepared) = thread::scope(|scope| {
        let kept = scope.spawn(|| keeper.keep(after));
        let prepared = enforcement.prepare(&mut held);
        (kept.join().unwrap_or_else(|panic| resume_unwind(panic)), prepared)
    });
    if let Err(why) = &kept {
        if !force {
            return Err(refusal(format!(
                "nothing has changed: the policy would be lost with the next start, since it cannot be kept ({why}). \
                 Mend that, or apply it with --force"
            )));
        }
        notes.push(format!("the policy is in force until the next start only: {why}"));
    }
    let (hash, names) = (held.hash().to_owned(), beginning::names(held.sources()));
    let compared = enforcement.shadow();
    if let Err(error) = prepared.and_then(|()| enforcement.change_to(held, time, watcher)) {
        let why = format!("{:#}", anyhow::Error::new(error));
        if kept.is_ok()
            && let Err(lost) = keeper.keep(before)
        {
            tracing::error!("what was confirmed before is not kept any more: {lost}");
        }
        return Err(refusal(format!("nothing has changed: the kernel did not take the policy: {why}")));
    }
    notes.extend(compared.map(|shadow| {
        let Shadow { policy, since, .. } = shadow;
        format!(
            "{} is no longer compared (since {since:.0}), for another policy is in force: begin anew with `bulkhead shadow`",
            policy.join(", ")
        )
    }));
    let generation = enforcement.in_force().number();
    tracing::info!(generation, policy = names, confirm_within = ?time, cut = cut.len(), "another policy is in force");
    let confirm_within = enforcement.trial_ends().and(time).map(|time| time.as_secs_f64());
    Ok(Applied { generation, policy_hash: hash, confirm_within, cut, more_cut, notes })
}

/// While a policy waits to be confirmed, what is in force may be another one in a moment: what was counted would be of
/// neither.
fn can_be_compared_with(now: &Enforcement) -> Result<(), Refusal> {
    match now.on_trial() {
        None => Ok(()),
        Some(_) => Err(refusal(
            "a policy waits to be confirmed: `bulkhead confirm` or `bulkhead rollback` comes first",
        )),
    }
}

fn compare(held: Held, enforcement: &mut Enforcement, watcher: &mut Watcher) -> Result<Shadow, Refusal> {
    can_be_compared_with(enforcement)?;
    let names = beginning::names(held.sources());
    enforcement.compare(held, watcher).map_err(|error| {
        let why = anyhow::Error::new(error);
        refusal(format!("not compared: the kernel did not take the policy: {why:#}"))
    })?;
    let shadow = enforcement.shadow().ok_or_else(|| refusal("the comparison has ended just now"))?;
    tracing::info!(generation = shadow.generation, policy = names, "compared with the policy in force");
    Ok(shadow)
}

/// What is in force for a while is to stay.
pub(super) fn confirm(
    what: &Confirmation,
    enforcement: &mut Enforcement,
    keeper: &mut Keeper,
) -> Result<Applied, Refusal> {
    let Some(held) = enforcement.on_trial() else {
        return Err(refusal("nothing waits to be confirmed: what is in force stays so"));
    };
    if !what.means(held.hash()) {
        let hash = held.hash();
        return Err(refusal(format!(
            "nothing is confirmed: another policy waits for that, {hash}. Somebody has applied it since; `bulkhead plan` shows \
             what differs"
        )));
    }
    // First of all: what cannot be kept is not confirmed, and falls back.
    let before = keeper.confirm(held.written()).map_err(|why| {
        refusal(format!("not confirmed: the policy cannot be kept ({why}). Mend that and try again"))
    })?;
    let (failed, why) = match enforcement.confirm() {
        Ok(Confirmed::Yes) => (false, String::new()),
        Ok(Confirmed::TooLate) => (true, "too late: the policy before it is in force again".to_owned()),
        Err(error) => (true, format!("not confirmed: {:#}", anyhow::Error::new(error))),
    };
    if failed {
        if let Err(lost) = keeper.keep(before) {
            tracing::error!("what was confirmed before is not kept any more: {lost}");
        }
        return Err(refusal(why));
    }
    let generation = enforcement.in_force().number();
    tracing::info!(generation, "confirmed: it is in force for good");
    Ok(in_force(enforcement))
}

/// Ends what is in force for a while; none: there is no such thing, nor has it ended by itself just now.
pub(super) fn end_trial(enforcement: &mut Enforcement) -> Option<Result<Applied, Refusal>> {
    if enforcement.on_trial().is_none() {
        return enforcement.takes_note_of_lapse().then(|| {
            Err(refusal(
                "nothing has changed: nobody confirmed the policy on trial in time, and the one before it is in force again. \
                 Say `bulkhead rollback` once more for the one that was confirmed before that",
            ))
        });
    }
    let ended = enforcement.end_trial();
    Some(match ended {
        Ok(()) => {
            let generation = enforcement.in_force().number();
            tracing::info!(generation, "rolled back: the policy before is in force again");
            Ok(in_force(enforcement))
        }
        Err(error) => Err(refusal(format!("not rolled back: {:#}", anyhow::Error::new(error)))),
    })
}

fn in_force(enforcement: &Enforcement) -> Applied {
    let held = enforcement.in_force();
    Applied {
        generation: held.number(),
        policy_hash: held.hash().to_owned(),
        confirm_within: None,
        cut: Vec::new(),
        more_cut: 0,
        notes: Vec::new(),
    }
}

pub(super) fn refusal(error: impl Into<String>) -> Refusal {
    Refusal { error: error.into(), ..Refusal::default() }
}

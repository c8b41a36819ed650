//! A policy beside the one in force, which refuses nothing: what it would decide otherwise is counted.

use std::sync::Arc;

use bulkhead_datapath::{DatapathError, Differences};
use bulkhead_policy::Policy;
use bulkhead_report::Difference;
use bulkhead_workloads::Watcher;
use jiff::Timestamp;

use super::{Enforcement, Held};
use crate::{
    control::{self, Comparison, Refusal, Reply},
    daemon::{beginning, priority},
};

/// The policy that is compared, if one is.
#[derive(Default)]
pub(super) struct Compared {
    shadow: Option<Shadow>,
    /// Why none is any more; none: none was, or it is known only to the agent before this one.
    ended: Option<String>,
}

/// A policy that is compared with the one in force.
struct Shadow {
    held: Held,
    /// What it is compared with. Another one in force ends it.
    in_force: Arc<Policy>,
    in_force_hash: String,
    /// Number of its generation as it began.
    first: u32,
    since: Timestamp,
}

impl Compared {
    /// An agent before this one has been comparing, and its programs ended with it.
    pub(super) fn with_the_agent_before() -> Self {
        let ended = "the agent that compared one has ended, and the comparison with it";
        tracing::warn!("{ended}: begin it anew with `bulkhead shadow`");
        Self { shadow: None, ended: Some(ended.to_owned()) }
    }

    /// The policy, with what it takes to bring it up to date.
    pub(super) fn held(&mut self) -> Option<&mut Held> {
        self.shadow.as_mut().map(|shadow| &mut shadow.held)
    }

    pub(super) fn policy(&self) -> Option<&Held> {
        self.shadow.as_ref().map(|shadow| &shadow.held)
    }

    /// Ends it, if there is one.
    pub(super) fn end(&mut self, why: &str) {
        if let Some(Shadow { held, .. }) = self.shadow.take() {
            let (policy, now) = (beginning::names(held.sources()), Timestamp::now());
            tracing::info!(policy, "no longer compared with the policy in force: {why}");
            self.ended = Some(format!("{why}, at {now:.0}, which ended the comparison with {policy}"));
        }
    }
}

impl Shadow {
    fn told(&self) -> control::Shadow {
        control::Shadow {
            policy: self.held.sources().iter().map(|source| source.name.clone()).collect(),
            policy_hash: self.held.hash().to_owned(),
            generation: self.held.number(),
            compared_with: self.in_force_hash.clone(),
            since: self.since,
        }
    }
}

impl Enforcement {
    /// Compares a policy with the one in force from now on, in place of another that is compared. After an error either that
    /// one still is, or none.
    pub(in crate::daemon) fn compare(
        &mut self,
        held: Held,
        watcher: &mut Watcher,
    ) -> Result<(), DatapathError> {
        let mut held = held.only_compared();
        held.prepare(&mut self.datapath, &self.policies)?;
        // As when it is put in force.
        let changes = watcher.look_again();
        self.follow(&changes);
        held.follow(&mut self.datapath, &changes)?;
        if let Err(error) = self.datapath.compare(held.number()) {
            let ended = self.datapath.end_comparison();
            self.compared.end("another was to be compared");
            return ended.and(Err(error));
        }
        self.compared.end("another is compared");
        let in_force = self.in_force();
        let shadow = Shadow {
            in_force: Arc::clone(in_force.policy()),
            in_force_hash: in_force.hash().to_owned(),
            first: held.number(),
            since: Timestamp::now(),
            held,
        };
        self.compared = Compared { shadow: Some(shadow), ended: None };
        self.ledger.fold();
        // Its addresses have been found a while ago.
        self.look_for_addresses();
        Ok(())
    }

    /// What is compared.
    pub(in crate::daemon) fn shadow(&self) -> Option<control::Shadow> {
        self.compared.shadow.as_ref().map(Shadow::told)
    }

    /// Tells what the policy that is compared has decided otherwise so far, on another thread: to go through all counters may
    /// take a tenth of a second. Who asked may be gone.
    pub(in crate::daemon) fn tell_comparison(&self, to: Reply<Comparison>) {
        let Some(shadow) = &self.compared.shadow else {
            let ended = self.compared.ended.clone();
            return drop(to.send(Ok(Comparison { ended, ..Comparison::default() })));
        };
        let (tally, policies) = (self.datapath.tally(), self.policies.clone());
        let (told, in_force, first) = (shadow.told(), Arc::clone(&shadow.in_force), shadow.first);
        tokio::task::spawn_blocking(move || {
            priority::ordinary();
            let read = match tally.differences(first) {
                Ok(Some(Differences { kinds, untold })) => {
                    let differences = Difference::of(&kinds, told.generation, &policies, &in_force);
                    Ok(Comparison { shadow: Some(told), ended: None, differences, untold })
                }
                Ok(None) => Err(refusal("the comparison has ended just now: ask again".to_owned())),
                Err(error) => {
                    let why = anyhow::Error::new(error);
                    Err(refusal(format!("what was counted cannot be read: {why:#}")))
                }
            };
            let _ = to.send(read);
        });
    }

    /// Ends a comparison; tells what it has come to.
    pub(in crate::daemon) fn end_comparison(&mut self, to: Reply<Comparison>) {
        if self.compared.shadow.is_none() {
            let ended = self.compared.ended.iter().map(|ended| format!(": {ended}"));
            let error = std::iter::once("no policy is compared".to_owned()).chain(ended).collect();
            return drop(to.send(Err(refusal(error))));
        }
        let done = self.datapath.end_comparison();
        self.note(done);
        self.ledger.fold();
        self.tell_comparison(to);
        self.compared.end("somebody has asked for it");
    }
}

fn refusal(error: String) -> Refusal {
    Refusal { error, ..Refusal::default() }
}

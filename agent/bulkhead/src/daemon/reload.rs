//! Policy files that are to be in force as they are now: asked for by a signal, or since they have changed.

use std::sync::Arc;

use bulkhead_policy::Policy;
use tokio::sync::oneshot;

use super::{
    enforcement::Enforcement,
    proposals::{Proposals, refusal},
};
use crate::{
    control::{Applied, Refusal},
    policy_files,
    settings::Settings,
};

/// A reload that is wanted, or under way.
#[derive(Default)]
pub(super) struct Reload {
    wanted: bool,
    answer: Option<oneshot::Receiver<Result<Applied, Refusal>>>,
    /// What was in force as the last one failed, and why it did.
    failed: Option<(Arc<Policy>, String)>,
}

impl Reload {
    /// The files are to be in force.
    pub(super) fn want(&mut self, now: &Enforcement) {
        self.wanted = true;
        if now.on_trial().is_some() {
            tracing::info!(
                "the policy files are read when the policy on trial has been confirmed or is gone"
            );
        }
    }

    /// Begins, if one is wanted and nobody else's policy is looked at or on trial: that is to be confirmed first, or to end.
    pub(super) fn begin(&mut self, settings: &Settings, proposals: &mut Proposals, now: &Enforcement) {
        if !self.wanted || !proposals.are_none() || now.on_trial().is_some() {
            return;
        }
        self.wanted = false;
        let (reply, answer) = oneshot::channel();
        self.answer = Some(answer);
        match policy_files::read(&settings.policy) {
            Ok(sources) => proposals.reload(sources, reply, now),
            Err(error) => {
                let error = format!("nothing has changed: {:#}", anyhow::Error::new(error));
                // The answer is awaited here.
                let _ = reply.send(Err(refusal(error)));
            }
        }
    }

    /// Waits for what comes of it; for ever if none is under way. May be cancelled.
    pub(super) async fn answer(&mut self) -> Result<Applied, Refusal> {
        let Some(answer) = &mut self.answer else { return std::future::pending().await };
        let answer = answer.await.unwrap_or_else(|_| Err(refusal("nobody has answered: this is a bug")));
        self.answer = None;
        answer
    }

    /// Says in the log what has come of it.
    pub(super) fn note(&mut self, answer: Result<Applied, Refusal>, now: &Enforcement) {
        self.failed = match answer {
            Ok(applied) => {
                let cut = applied.cut.len() + applied.more_cut;
                tracing::info!(generation = applied.generation, cut, "the policy files are in force");
                None
            }
            Err(refusal) => {
                let why = in_one_line(&refusal);
                tracing::error!("the policy files are not put in force: {why}");
                Some((Arc::clone(now.in_force().policy()), why))
            }
        };
    }

    /// What the operator should look after, as long as the same policy is in force.
    pub(super) fn warning(&self, now: &Enforcement) -> Option<String> {
        let (then, why) = self.failed.as_ref()?;
        Arc::ptr_eq(then, now.in_force().policy())
            .then(|| format!("the policy files were read anew, and are not in force: {why}"))
    }
}

/// For a log.
fn in_one_line(refusal: &Refusal) -> String {
    let cut = refusal.cut.iter().map(|cut| format!("; {}", cut.in_words()));
    std::iter::once(refusal.error.replace('\n', " ")).chain(cut).collect()
}

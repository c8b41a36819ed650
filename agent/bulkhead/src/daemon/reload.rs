//! Policy files that are to be in force as they are now: asked for by a signal, or since they have changed.

use std::sync::Arc;

use bulkhead_policy::Policy;
use tokio::sync::oneshot;

use super::{
    enforcement::Enforcement,
    proposals::{Proposals, refusal},
};
use crate::{
    control::{Applied, Cut, Refusal},
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

/// So much is said of a refusal: a policy may have hundreds of mistakes, or cut as many connections.
const SAID: usize = 5;

/// For a log: the beginning, and how much more there is.
fn in_one_line(refusal: &Refusal) -> String {
    let mut lines = refusal.error.lines();
    let why: Vec<_> = lines.by_ref().take(1 + SAID).collect();
    let cut = refusal.cut.iter().take(SAID).map(Cut::in_words);
    let said: Vec<_> = std::iter::once(why.join(" ")).chain(cut).collect();
    let more = match lines.count() + refusal.cut.len().saturating_sub(SAID) {
        0 => String::new(),
        more => format!(" (and {more} more: `bulkhead plan` shows them all)"),
    };
    said.join("; ") + &more
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_gets_the_beginning_of_it() {
        let mistakes: Vec<_> = (0..8).map(|n| format!("mistake {n}")).collect();
        let long =
            Refusal { error: format!("it does not compile:\n{}", mistakes.join("\n")), ..Refusal::default() };
        assert_eq!(
            in_one_line(&long),
            "it does not compile: mistake 0 mistake 1 mistake 2 mistake 3 mistake 4 (and 3 more: `bulkhead plan` shows \
             them all)"
        );
        let short = Refusal { error: "no".into(), ..Refusal::default() };
        assert_eq!(in_one_line(&short), "no");
    }
}

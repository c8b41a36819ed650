//! Which policy an agent starts with.
//!
//! The one that was confirmed last, whatever the files say now: they may have been edited and not applied, or applied and not
//! confirmed by somebody who was locked out, and a machine that boots has nobody to ask. Who names a policy on the command
//! line has asked for that one, unless it is the very one that was named last time as well.

use bulkhead_policy::{Diagnostics, Policy, Source, load};

use super::{RunError, enforcement::Written, keeper::Keeper};
use crate::{log::Log, output, policy_files, settings::Settings, state::Kept};

/// The policy to start with, and what the operator should know about the choice.
#[derive(Debug)]
pub(super) struct Beginning {
    pub(super) written: Written,
    /// Content hash of the policy that the agent was given; none: that cannot be read.
    pub(super) given: Option<String>,
    pub(super) notes: Vec<String>,
}

impl Beginning {
    /// Keeps the policy that the agent has begun to enforce.
    pub(super) fn keep(&self, keeper: &mut Keeper) {
        let kept = keeper.policies();
        let mut now = kept.clone();
        if kept.confirmed.as_ref().is_none_or(|confirmed| confirmed.hash != self.written.hash) {
            now = now.confirm(Kept::new(&self.written.sources, self.written.hash.clone()));
        }
        now.given.clone_from(&self.given);
        if now != *kept
            && let Err(why) = keeper.keep(now)
        {
            tracing::warn!("the policy is in force until the next start only: {why}");
        }
    }
}

/// Chooses.
pub(super) fn choose(settings: &Settings, keeper: &Keeper, log: &Log) -> Result<Beginning, RunError> {
    let given = given(settings, log);
    let kept = keeper.policies();
    let Some(confirmed) = &kept.confirmed else {
        let written = given?;
        return Ok(Beginning { given: Some(written.hash.clone()), written, notes: Vec::new() });
    };
    let at = confirmed.confirmed;
    let (given, mut notes) = match given {
        Ok(written) if written.hash == confirmed.hash => {
            // The same, and its files are where they say.
            return Ok(Beginning { given: Some(written.hash.clone()), written, notes: Vec::new() });
        }
        Ok(written) if settings.names_policy && kept.given.as_ref() != Some(&written.hash) => {
            let note = format!("the policy confirmed at {at:.0} is replaced by the one of the command line");
            return Ok(Beginning { given: Some(written.hash.clone()), written, notes: vec![note] });
        }
        Ok(written) => {
            let note = format!(
                "the policy confirmed at {at:.0} is in force, and {} says otherwise: see `bulkhead plan`, and put it in \
                 force with `bulkhead apply`",
                names(&written.sources)
            );
            (Some(written.hash), vec![note])
        }
        Err(error) => {
            let note = format!(
                "the policy confirmed at {at:.0} is in force, for the one given cannot be used: {:#}",
                anyhow::Error::new(error)
            );
            (kept.given.clone(), vec![note])
        }
    };
    match compile(confirmed.sources(), settings.dry_run) {
        Ok((written, _)) => Ok(Beginning { written, given, notes }),
        Err((_, findings)) => {
            notes.push(format!("the policy confirmed at {at:.0} no longer compiles: {findings}"));
            let written = self::given(settings, log)?;
            Ok(Beginning { given: Some(written.hash.clone()), written, notes })
        }
    }
}

fn given(settings: &Settings, log: &Log) -> Result<Written, RunError> {
    let sources = policy_files::read(&settings.policy)?;
    match compile(sources, settings.dry_run) {
        Ok((written, warnings)) => {
            if !warnings.is_empty() {
                log.say(warnings.render(&written.sources, output::color(&std::io::stderr())).trim_end());
            }
            Ok(written)
        }
        Err((sources, findings)) => Err(RunError::Policy { sources, findings }),
    }
}

/// A policy and what there is to say of it, or else its text and what is wrong with it.
pub(super) fn compile(
    sources: Vec<Source>,
    dry_run: bool,
) -> Result<(Written, Diagnostics), (Vec<Source>, Diagnostics)> {
    match load(&sources) {
        Ok(loaded) => {
            let mut policy: Policy = loaded.policy;
            // Of what was written, not of how it is run: `bulkhead check` tells the same.
            let hash = policy.content_hash().to_string();
            if dry_run {
                policy.dry_run();
            }
            Ok((Written { policy: policy.into(), sources, hash }, loaded.warnings))
        }
        Err(findings) => Err((sources, findings)),
    }
}

/// Names of the files.
pub(super) fn names(sources: &[Source]) -> String {
    sources.iter().map(|source| source.name.as_str()).collect::<Vec<_>>().join(", ")
}

//! Keeps on disk which policy is confirmed. A dry run keeps nothing: what it watches by has not been enforced.

use std::path::Path;

use super::enforcement::Written;
use crate::state::{Kept, Policies, StateDir, StateError};

/// What is confirmed, and where that is kept.
#[derive(Debug)]
pub(super) struct Keeper {
    place: Place,
    policies: Policies,
    /// Why nothing can be kept, as far as that is known.
    failing: Option<String>,
}

#[derive(Debug)]
enum Place {
    /// Nowhere: nothing is to be kept.
    Nowhere,
    Folder(StateDir),
    /// It should be kept, and cannot be.
    Broken(String),
}

impl Keeper {
    /// Keeps nothing.
    pub(super) fn idle() -> Self {
        Self { place: Place::Nowhere, policies: Policies::default(), failing: None }
    }

    /// Keeps it in `folder`. One that cannot be used keeps nobody from enforcing; two agents do not share one.
    pub(super) fn open(folder: &Path) -> Result<Self, StateError> {
        let opened = StateDir::open(folder).and_then(|state| Ok((state.read()?, state)));
        match opened {
            Ok((policies, state)) => {
                let failing = state.is_writable().err().map(in_words);
                Ok(Self { place: Place::Folder(state), policies, failing })
            }
            Err(error @ StateError::Taken(_)) => Err(error),
            Err(error) => {
                let why = in_words(error);
                Ok(Self {
                    place: Place::Broken(why.clone()),
                    policies: Policies::default(),
                    failing: Some(why),
                })
            }
        }
    }

    /// What is kept.
    pub(super) fn policies(&self) -> &Policies {
        &self.policies
    }

    /// What the operator should look after.
    pub(super) fn warning(&self) -> Option<String> {
        let why = self.failing.as_ref()?;
        Some(match self.policies.confirmed {
            None => {
                format!("the policy is in force until the next start only, since it cannot be kept: {why}")
            }
            Some(_) => {
                format!(
                    "the next start has the policy that was kept last, since another cannot be kept: {why}"
                )
            }
        })
    }

    /// Keeps `policies` instead of what is kept. After an error that is as before.
    pub(super) fn keep(&mut self, policies: Policies) -> Result<(), String> {
        let kept = match &self.place {
            Place::Nowhere => Ok(()),
            Place::Broken(why) => Err(why.clone()),
            Place::Folder(state) => state.write(&policies).map_err(in_words),
        };
        self.failing = kept.as_ref().err().cloned();
        kept?;
        self.policies = policies;
        Ok(())
    }

    /// What is kept once this policy is confirmed.
    pub(super) fn with_confirmed(&self, written: &Written) -> Policies {
        self.policies.clone().confirm(Kept::new(&written.sources, written.hash.clone()))
    }

    /// Keeps this policy as confirmed; tells what was kept before.
    pub(super) fn confirm(&mut self, written: &Written) -> Result<Policies, String> {
        let before = self.policies.clone();
        self.keep(self.with_confirmed(written))?;
        Ok(before)
    }
}

fn in_words(error: StateError) -> String {
    format!("{:#}", anyhow::Error::new(error))
}

//! Which policy each generation was compiled from: records carry the number of the one that refused.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use bulkhead_policy::Policy;

/// So many generations back are known: records wait in the kernel for a moment, not for hours.
const KNOWN: usize = 64;

/// The policies of the generations, for those who explain records. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Policies(Arc<RwLock<BTreeMap<u32, Arc<Policy>>>>);

impl Policies {
    /// Notes what a generation is compiled from, before anything is judged by it.
    pub fn note(&self, generation: u32, policy: Arc<Policy>) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        known.insert(generation, policy);
        while known.len() > KNOWN {
            known.pop_first();
        }
    }

    /// The policy of a generation; none: it is an earlier agent's, or long gone.
    pub fn of(&self, generation: u32) -> Option<Arc<Policy>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&generation).cloned()
    }

    /// Number of the last generation noted; 0: none has been.
    pub(crate) fn last(&self) -> u32 {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .last_key_value()
            .map_or(0, |(number, _)| *number)
    }
}

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
        while known.len() > KNOWN
            && let Some(oldest) = oldest_to_forget(&known)
        {
            known.remove(&oldest);
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

/// The oldest generation that may be forgotten: not the last one of a policy that somebody holds, for that may be in force
/// however many came and went since.
fn oldest_to_forget(known: &BTreeMap<u32, Arc<Policy>>) -> Option<u32> {
    let is_last_of_held = |number: u32, policy: &Arc<Policy>| {
        let same = known.iter().filter(|(_, other)| Arc::ptr_eq(other, policy));
        let (last, count) = same.fold((0, 0), |(_, count), (number, _)| (*number, count + 1));
        last == number && Arc::strong_count(policy) > count
    };
    known.iter().find(|(number, policy)| !is_last_of_held(**number, policy)).map(|(number, _)| *number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_known_however_many_come_and_go() {
        let policies = Policies::default();
        let lasting = Arc::new(Policy::default());
        policies.note(1, Arc::clone(&lasting));
        policies.note(2, Arc::clone(&lasting));
        for number in 3..1_000 {
            policies.note(number, Arc::new(Policy::default()));
        }
        let of = |number| policies.of(number).is_some();
        assert_eq!([of(1), of(2), of(3), of(999)], [false, true, false, true]);
        policies.note(1_000, Arc::clone(&lasting));
        for number in 1_001..2_000 {
            policies.note(number, Arc::new(Policy::default()));
        }
        assert_eq!([of(2), of(1_000), of(1_999)], [false, true, true]);
    }
}

//! Which policy each generation was compiled from: records carry the number of the one that judged.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use bulkhead_common::PeerId;
use bulkhead_policy::{NamedClass, PeerClass, Policy};

/// So many generations back are known: records wait in the kernel for a moment, not for hours.
const KNOWN: usize = 64;
/// Of so many the classes are known, too. The kernel holds three, and what it has counted of others is read in seconds.
const WITH_CLASSES: usize = 8;

/// The policies of the generations, for those who explain records. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Policies(Arc<RwLock<BTreeMap<u32, Known>>>);

#[derive(Debug, Default)]
struct Known {
    policy: Arc<Policy>,
    classes: BTreeMap<PeerId, PeerClass>,
    /// Is it only compared with what is in force?
    is_compared: bool,
}

impl Policies {
    /// Notes what a generation is compiled from, and its classes of peers, before anything is judged by it.
    pub fn note(&self, generation: u32, policy: Arc<Policy>, classes: BTreeMap<PeerId, PeerClass>) {
        self.insert(generation, Known { policy, classes, is_compared: false });
    }

    /// The same of one that is only compared with what is in force.
    pub fn note_compared(&self, generation: u32, policy: Arc<Policy>, classes: BTreeMap<PeerId, PeerClass>) {
        self.insert(generation, Known { policy, classes, is_compared: true });
    }

    fn insert(&self, generation: u32, new: Known) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        known.insert(generation, new);
        while known.len() > KNOWN
            && let Some(oldest) = oldest_to_forget(&known)
        {
            known.remove(&oldest);
        }
        let past: Vec<u32> = known.keys().rev().skip(WITH_CLASSES).copied().collect();
        for number in past {
            if !is_last_of_held(&known, number)
                && let Some(past) = known.get_mut(&number)
            {
                past.classes.clear();
            }
        }
    }

    /// The last class of a generation, to ask for those that come after it.
    pub fn last_class(&self, generation: u32) -> PeerId {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let last = known.get(&generation).and_then(|known| known.classes.last_key_value());
        last.map_or(PeerId::NONE, |(class, _)| *class)
    }

    /// Notes classes that have come up since.
    pub fn learn(&self, generation: u32, classes: BTreeMap<PeerId, PeerClass>) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get_mut(&generation) {
            known.classes.extend(classes);
        }
    }

    /// The policy of a generation; none: it is an earlier agent's, or long gone.
    pub fn of(&self, generation: u32) -> Option<Arc<Policy>> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&generation)
            .map(|known| Arc::clone(&known.policy))
    }

    /// A class of a generation, with its name.
    pub(crate) fn class(&self, generation: u32, class: PeerId) -> Option<(PeerClass, NamedClass)> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let Known { policy, classes, .. } = known.get(&generation)?;
        let class = classes.get(&class)?;
        Some((class.clone(), class.named(policy)))
    }

    /// The policy of the last generation noted that is not only compared.
    pub(crate) fn latest(&self) -> Option<Arc<Policy>> {
        self.of(self.last())
    }

    /// Number of the last generation noted that is not only compared; 0: none has been.
    pub(crate) fn last(&self) -> u32 {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.iter().rfind(|(_, known)| !known.is_compared).map_or(0, |(number, _)| *number)
    }
}

/// The oldest generation that may be forgotten.
fn oldest_to_forget(known: &BTreeMap<u32, Known>) -> Option<u32> {
    known.keys().copied().find(|number| !is_last_of_held(known, *number))
}

/// Is this the last generation of a policy that somebody holds? Then it may be in force, however many came and went since.
fn is_last_of_held(known: &BTreeMap<u32, Known>, number: u32) -> bool {
    let Some(Known { policy, .. }) = known.get(&number) else { return false };
    let same = known.iter().filter(|(_, other)| Arc::ptr_eq(&other.policy, policy));
    let (last, count) = same.fold((0, 0), |(_, count), (number, _)| (*number, count + 1));
    last == number && Arc::strong_count(policy) > count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_only_compared_is_not_the_latest() {
        let policies = Policies::default();
        assert_eq!((policies.last(), policies.latest().is_some()), (0, false));
        policies.note(1, Arc::new(Policy::default()), BTreeMap::new());
        policies.note_compared(2, Arc::new(Policy::default()), BTreeMap::new());
        assert_eq!((policies.last(), policies.of(2).is_some()), (1, true));
        policies.note(3, Arc::new(Policy::default()), BTreeMap::new());
        assert_eq!(policies.last(), 3);
    }

    #[test]
    fn what_is_held_is_known_however_many_come_and_go() {
        let policies = Policies::default();
        let lasting = Arc::new(Policy::default());
        policies.note(1, Arc::clone(&lasting), BTreeMap::new());
        policies.note(2, Arc::clone(&lasting), BTreeMap::new());
        for number in 3..1_000 {
            policies.note(number, Arc::new(Policy::default()), BTreeMap::new());
        }
        let of = |number| policies.of(number).is_some();
        assert_eq!([of(1), of(2), of(3), of(999)], [false, true, false, true]);
        policies.note(1_000, Arc::clone(&lasting), BTreeMap::new());
        for number in 1_001..2_000 {
            policies.note(number, Arc::new(Policy::default()), BTreeMap::new());
        }
        assert_eq!([of(2), of(1_000), of(1_999)], [false, true, true]);
    }
}

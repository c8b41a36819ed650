//! Classes of peers: the sets of terms that some end matches, by number.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use bulkhead_common::PeerId;

use super::terms::Term;

/// The classes of peers, numbered from 1 in the order in which they are met. Each goes with its last use, and its
/// number is not given again: whoever still looks a gone class up finds nothing.
#[derive(Debug, Default)]
pub(super) struct Classes {
    numbers: HashMap<Arc<[Term]>, PeerId>,
    by_number: BTreeMap<PeerId, Class>,
    /// The number last given.
    last: u32,
    /// Classes met or left since [`Self::settle`].
    touched: BTreeMap<PeerId, Touched>,
}

#[derive(Debug)]
struct Class {
    terms: Arc<[Term]>,
    /// Ends and entries of the table of addresses that bear its number.
    uses: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Touched {
    Met,
    Left,
}

/// A class with what it matches.
pub(super) type Numbered = (PeerId, Arc<[Term]>);

impl Classes {
    /// The class of the peers that match exactly `terms`.
    pub(super) fn of(&mut self, mut terms: Vec<Term>) -> PeerId {
        terms.sort_unstable();
        terms.dedup();
        if terms.is_empty() {
            return PeerId::NONE;
        }
        if let Some(known) = self.numbers.get(terms.as_slice()) {
            return *known;
        }
        // Out of numbers, a peer is one that only rules for everybody match.
        let Some(next) = self.last.checked_add(1).filter(|next| PeerId(*next) != PeerId::ANY) else {
            return PeerId::NONE;
        };
        self.last = next;
        let (id, terms) = (PeerId(next), Arc::<[Term]>::from(terms));
        self.numbers.insert(Arc::clone(&terms), id);
        self.by_number.insert(id, Class { terms, uses: 0 });
        self.touched.insert(id, Touched::Met);
        id
    }

    /// One more end or entry bears this number.
    pub(super) fn hold(&mut self, id: PeerId) {
        if let Some(class) = self.by_number.get_mut(&id) {
            class.uses += 1;
        }
    }

    /// One less does.
    pub(super) fn release(&mut self, id: PeerId) {
        if let Some(class) = self.by_number.get_mut(&id) {
            class.uses -= 1;
            if class.uses == 0 {
                self.touched.entry(id).or_insert(Touched::Left);
            }
        }
    }

    /// The classes that have come into use since the last call, and those that have gone out of use and are forgotten.
    pub(super) fn settle(&mut self) -> (Vec<Numbered>, Vec<Numbered>) {
        let (mut new, mut gone) = (Vec::new(), Vec::new());
        for (id, touched) in std::mem::take(&mut self.touched) {
            let Some(class) = self.by_number.get(&id) else { continue };
            let numbered = (id, Arc::clone(&class.terms));
            if class.uses > 0 {
                new.extend((touched == Touched::Met).then_some(numbered));
                continue;
            }
            self.numbers.remove(&numbered.1);
            self.by_number.remove(&id);
            gone.extend((touched == Touched::Left).then_some(numbered));
        }
        (new, gone)
    }

    /// All of them, in ascending order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (PeerId, &[Term])> {
        self.by_number.iter().map(|(id, class)| (*id, &*class.terms))
    }

    /// What a class matches.
    pub(super) fn terms(&self, id: PeerId) -> &[Term] {
        self.by_number.get(&id).map_or(&[], |class| &class.terms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_goes_with_its_last_use_and_its_number_is_not_given_again() {
        let mut classes = Classes::default();
        let (web, db) = (vec![Term(1)], vec![Term(1), Term(2)]);
        let first = classes.of(web.clone());
        classes.hold(first);
        classes.hold(first);
        assert_eq!(classes.settle(), (vec![(first, web.clone().into())], vec![]));
        classes.release(first);
        assert_eq!(classes.settle(), (vec![], vec![]), "still used");
        classes.release(first);
        let second = classes.of(db.clone());
        classes.hold(second);
        assert_eq!(classes.settle(), (vec![(second, db.into())], vec![(first, web.clone().into())]));
        let again = classes.of(web);
        assert!(again > second, "{again:?}");
    }

    #[test]
    fn a_class_that_is_left_and_used_again_has_not_changed() {
        let mut classes = Classes::default();
        let id = classes.of(vec![Term(7)]);
        classes.hold(id);
        classes.settle();
        classes.release(id);
        let again = classes.of(vec![Term(7)]);
        classes.hold(again);
        assert_eq!(classes.settle(), (vec![], vec![]));
    }

    #[test]
    fn without_numbers_left_a_peer_is_nobody_in_particular() {
        let mut classes = Classes { last: u32::MAX - 1, ..Classes::default() };
        assert_eq!(classes.of(vec![Term(1)]), PeerId::NONE);
    }
}

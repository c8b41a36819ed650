//! Addresses and names by who of them fare alike.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bulkhead_common::PeerId;

use super::side::Side;
use crate::{
    inventory::Inventory,
    language::Policy,
    parties::{Addresses, Alike},
    unresolved::Roll,
};

/// Of so many groups together each is written out.
const WRITTEN: usize = 8;

/// Addresses and names in groups that neither policy tells apart.
pub(super) struct Groups {
    all: Vec<Group>,
    by_class: [HashMap<PeerId, Vec<usize>>; 2],
}

struct Group {
    /// As it is told of.
    words: String,
    /// As an exception: one group at most is told of as whoever is no other.
    itself: String,
    /// In both policies.
    classes: [PeerId; 2],
}

impl Groups {
    pub(super) fn new(
        sides: [&Side<'_>; 2],
        policies: [&Policy; 2],
        inventory: &Inventory,
        roll: &Roll,
    ) -> Self {
        let mut groups: BTreeMap<[PeerId; 2], Alike> = BTreeMap::new();
        for who in roll.iter() {
            let classes = sides.map(|side| side.outlook.class(who));
            // Whom no rule names is known by his address alone.
            if classes != [PeerId::NONE; 2] {
                groups.entry(classes).or_default().names.push(roll.name(who).to_owned());
            }
        }
        for (first, last) in Addresses::new(policies, inventory).ranges() {
            let classes = sides.map(|side| side.outlook.compiled.peer(first).class);
            groups.entry(classes).or_default().add(first, last);
        }
        // Of two that are scattered, "everybody else" would not tell which.
        let mut scattered = groups.iter().filter(|(_, alike)| alike.is_scattered());
        let rest = match (scattered.next(), scattered.next()) {
            (Some((classes, _)), None) => Some(*classes),
            _ => None,
        };
        let group = |(classes, alike): (_, Alike)| {
            let itself = alike.in_words();
            let words = if rest == Some(classes) {
                alike.names.into_iter().chain(["everybody else".to_owned()]).collect::<Vec<_>>().join(", ")
            } else {
                itself.clone()
            };
            Group { words, itself, classes }
        };
        let all: Vec<_> = groups.into_iter().map(group).collect();
        let by_class = [0, 1].map(|side| {
            let mut groups: HashMap<PeerId, Vec<usize>> = HashMap::new();
            for (n, group) in all.iter().enumerate() {
                groups.entry(group.classes[side]).or_default().push(n);
            }
            groups
        });
        Self { all, by_class }
    }

    /// One of them in words, with its classes in both policies.
    pub(super) fn get(&self, group: usize) -> (&str, [PeerId; 2]) {
        let Group { words, classes, .. } = &self.all[group];
        (words, *classes)
    }

    /// Those in one of these classes of the first policy or of the second one.
    pub(super) fn among(&self, classes: [&[PeerId]; 2]) -> BTreeSet<usize> {
        let of = |side: usize| classes[side].iter().filter_map(move |class| self.by_class[side].get(class));
        of(0).chain(of(1)).flatten().copied().collect()
    }

    /// Everybody else, in words, if there is anybody.
    pub(super) fn all_but(&self, some: &BTreeSet<usize>) -> Option<String> {
        let count = self.all.len() - some.len();
        if count == 0 {
            return None;
        }
        if count <= WRITTEN {
            let others = self.all.iter().enumerate().rev().filter(|(n, _)| !some.contains(n));
            return Some(others.map(|(_, group)| &*group.words).collect::<Vec<_>>().join(", "));
        }
        let exceptions: Vec<_> = some.iter().map(|group| &*self.all[*group].itself).collect();
        let but = if exceptions.is_empty() { "" } else { " but " };
        Some(format!("every address{but}{}", exceptions.join(", ")))
    }
}

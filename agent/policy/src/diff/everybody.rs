//! Changes between workloads that follow from what each of them may do with everybody. They are as many as there are pairs:
//! told port by port, of all together who fare alike there.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Access, Change, LAST_SERVICE, services};
use crate::steps::Steps;

/// Of so many workloads, or of all but so many, each is named.
const NAMED: usize = 32;

/// Until when an end lets everybody through: before and after.
pub(super) type Open = [u64; 2];

/// It never does.
pub(super) const CLOSED: Open = [0; 2];

/// What changes between twins, but where a rule names both: these pairs are `named`. By direction and twins, ends are `open`
/// for everybody.
pub(super) fn changes(
    twins: &[Vec<&str>],
    named: &BTreeSet<(usize, usize)>,
    open: &[Vec<Steps<Open>>; 2],
) -> impl Iterator<Item = Change> {
    let mut edges = Vec::new();
    for (end, all) in open.iter().enumerate() {
        for (twin, steps) in all.iter().enumerate() {
            edges.extend(steps.ranges(LAST_SERVICE).map(|(first, _, open)| (first, end, twin, open)));
        }
    }
    edges.sort_unstable();
    let backwards = named.iter().map(|(from, to)| (*to, *from));
    let mut crowds = [Crowd::new(twins, named.iter().copied()), Crowd::new(twins, backwards)];
    let mut found: BTreeMap<(String, String, Access), Vec<(u128, u128)>> = BTreeMap::new();
    let mut rest = edges.chunk_by(|a, b| a.0 == b.0).peekable();
    while let Some(edges) = rest.next() {
        for (_, end, twin, open) in edges {
            crowds[*end].set(*twin, *open);
        }
        let first = edges[0].0;
        let last = rest.peek().map_or(LAST_SERVICE, |next| next[0].0 - 1);
        for alike in between(&crowds) {
            let ranges = found.entry(alike).or_default();
            match ranges.last_mut() {
                Some(before) if before.1 + 1 == first => before.1 = last,
                _ => ranges.push((first, last)),
            }
        }
    }
    found.into_iter().map(|((from, to, change), ranges)| {
        let services = ranges.into_iter().flat_map(|(first, last)| services(first, last)).collect();
        Change { from, to, change, services }
    })
}

/// Who gets to whom, or no longer does, on ports for which the ends are open as they are now.
fn between([from, to]: &[Crowd<'_>; 2]) -> Vec<(String, String, Access)> {
    // Who gets to the same others is told of together.
    let mut alike: BTreeMap<(Access, Vec<Open>), Vec<Open>> = BTreeMap::new();
    for a in from.by_open.keys() {
        let mut reached: BTreeMap<Access, Vec<Open>> = BTreeMap::new();
        for b in to.by_open.keys() {
            if let Some(access) = Access::of(a[0].min(b[0]), a[1].min(b[1])) {
                reached.entry(access).or_default().push(*b);
            }
        }
        for reached in reached {
            alike.entry(reached).or_default().push(*a);
        }
    }
    let mut found = Vec::new();
    for ((access, to_open), from_open) in alike {
        let (senders, receivers) = (from.part(&from_open), to.part(&to_open));
        if senders.workloads() <= receivers.workloads() {
            found.extend(senders.with(&receivers).into_iter().map(|(a, b)| (a, b, access)));
        } else {
            found.extend(receivers.with(&senders).into_iter().map(|(b, a)| (a, b, access)));
        }
    }
    found
}

/// All workloads as one end of connections.
struct Crowd<'a> {
    twins: &'a [Vec<&'a str>],
    /// By twins: those at the other end whom a rule names with them.
    named: HashMap<usize, BTreeSet<usize>>,
    open: Vec<Open>,
    by_open: BTreeMap<Open, Members>,
}

/// Those of a crowd whose ends are open alike.
#[derive(Default)]
struct Members {
    twins: BTreeSet<usize>,
    workloads: usize,
}

impl<'a> Crowd<'a> {
    /// All of them are closed.
    fn new(twins: &'a [Vec<&'a str>], pairs: impl Iterator<Item = (usize, usize)>) -> Self {
        let mut named: HashMap<usize, BTreeSet<usize>> = HashMap::new();
        for (own, far) in pairs {
            named.entry(own).or_default().insert(far);
        }
        let all = Members { twins: (0..twins.len()).collect(), workloads: twins.iter().map(Vec::len).sum() };
        Self { twins, named, open: vec![CLOSED; twins.len()], by_open: [(CLOSED, all)].into() }
    }

    fn set(&mut self, twin: usize, open: Open) {
        let before = std::mem::replace(&mut self.open[twin], open);
        let workloads = self.twins[twin].len();
        let left = self.by_open.entry(before).or_default();
        left.twins.remove(&twin);
        left.workloads -= workloads;
        if left.twins.is_empty() {
            self.by_open.remove(&before);
        }
        let joined = self.by_open.entry(open).or_default();
        joined.twins.insert(twin);
        joined.workloads += workloads;
    }

    /// Those whose ends are open as any of these.
    fn part(&self, open: &[Open]) -> Part<'_> {
        let (inside, outside): (Vec<_>, Vec<_>) =
            self.by_open.iter().partition(|(own, _)| open.contains(own));
        let [inside, outside] =
            [inside, outside].map(|all| all.into_iter().map(|(_, members)| members).collect());
        Part { crowd: self, inside, outside }
    }

    fn workloads<'t>(&self, twins: impl Iterator<Item = &'t usize>) -> usize {
        twins.map(|twin| self.twins[*twin].len()).sum()
    }
}

/// Some of a crowd.
struct Part<'c> {
    crowd: &'c Crowd<'c>,
    inside: Vec<&'c Members>,
    outside: Vec<&'c Members>,
}

impl Part<'_> {
    fn workloads(&self) -> usize {
        self.inside.iter().map(|members| members.workloads).sum()
    }

    fn twins(&self) -> impl Iterator<Item = usize> {
        self.inside.iter().flat_map(|members| &members.twins).copied()
    }

    fn holds(&self, twin: usize) -> bool {
        self.inside.iter().any(|members| members.twins.contains(&twin))
    }

    /// Those of the others whom a rule names with these twins.
    fn named_with(&self, twin: usize, others: &Self) -> BTreeSet<usize> {
        let named = self.crowd.named.get(&twin).into_iter().flatten();
        named.copied().filter(|other| others.holds(*other)).collect()
    }

    /// The same twins, if they are one workload, which has nothing to do with itself.
    fn itself(&self, twin: usize) -> Option<usize> {
        (self.crowd.twins[twin].len() == 1).then_some(twin)
    }

    /// Who has to do with whom of `others`, who are no fewer, in words.
    fn with(&self, others: &Self) -> Vec<(String, String)> {
        if self.workloads() > NAMED {
            return self.in_bulk_with(others).into_iter().collect();
        }
        let mut alike: BTreeMap<BTreeSet<usize>, Vec<usize>> = BTreeMap::new();
        for twin in self.twins() {
            let mut named = self.named_with(twin, others);
            // Of several it goes without saying.
            self.itself(twin).map(|itself| named.remove(&itself));
            alike.entry(named).or_default().push(twin);
        }
        let in_words = |(named, twins): (BTreeSet<usize>, Vec<usize>)| {
            let itself = if let [only] = twins[..] { self.itself(only) } else { None };
            let names = twins.iter().flat_map(|twin| &self.crowd.twins[*twin]).copied();
            Some((listed(names.collect()), others.in_words(&named, itself)?))
        };
        alike.into_iter().filter_map(in_words).collect()
    }

    /// The same of so many that nobody reads who of them is named by a rule with whom.
    fn in_bulk_with(&self, others: &Self) -> Option<(String, String)> {
        let is_free = |twin: &usize| {
            let mut apart = self.named_with(*twin, others);
            apart.extend(self.itself(*twin).filter(|itself| others.holds(*itself)));
            others.crowd.workloads(apart.iter()) < others.workloads()
        };
        self.twins().find(is_free)?;
        let is_named =
            |twin| self.crowd.named.get(&twin).is_some_and(|all| all.iter().any(|o| others.holds(*o)));
        let note = if self.twins().any(is_named) { ", where no rule names both" } else { "" };
        let [own, far] = [self, others].map(|part| part.in_words(&BTreeSet::new(), None));
        Some((own?, far? + note))
    }

    /// All but those who are `named` and `itself`, if anybody is left.
    fn in_words(&self, named: &BTreeSet<usize>, itself: Option<usize>) -> Option<String> {
        let some_names = |twins: &mut dyn Iterator<Item = usize>| -> Vec<&str> {
            let others = twins.filter(|twin| itself != Some(*twin));
            others.flat_map(|twin| &self.crowd.twins[twin]).copied().take(NAMED + 1).collect()
        };
        let mut left = some_names(&mut self.twins().filter(|twin| !named.contains(twin)));
        if left.len() <= NAMED {
            return (!left.is_empty()).then(|| listed(left));
        }
        let outside = self.outside.iter().flat_map(|members| &members.twins).chain(named).copied();
        let missing = some_names(&mut { outside });
        if missing.len() <= NAMED {
            let every = if itself.is_some() { "every other workload" } else { "every workload" };
            return Some(if missing.is_empty() {
                every.into()
            } else {
                format!("{every} but {}", listed(missing))
            });
        }
        left.truncate(NAMED);
        let gone = named.iter().chain(itself.iter().filter(|itself| self.holds(**itself)));
        let more = self.workloads() - self.crowd.workloads(gone) - NAMED;
        Some(format!("{} and {more} more workloads", listed(left)))
    }
}

fn listed(mut names: Vec<&str>) -> String {
    names.sort_unstable();
    names.join(", ")
}

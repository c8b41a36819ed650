//! What a policy has to know of a directory to tell what is below it.

use super::names::{Name, Starred};
use crate::{
    identity::{Identity, weigh},
    language::{Part, Pattern, Policy, Selector, WorkloadId},
};

/// What is known of a directory. Two in the same state have the same future.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct State {
    /// Globs that may match further down: which, and which of its components comes next. Sorted.
    globs: Vec<(u32, u32)>,
    /// Are it and all above it slices, so that units may be in it?
    pub(super) slices: bool,
    /// Characters of its path, as long as units and globs compete.
    path: Length,
    /// What it is, as long as a glob may be more specific.
    held: Option<Held>,
    /// May somebody other than root have made it?
    pub(super) delegated: bool,
}

/// A number of characters, or the least that it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Length {
    least: usize,
    exact: bool,
}

impl Default for Length {
    fn default() -> Self {
        Self { least: 0, exact: true }
    }
}

/// A match, and how specific it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Held {
    specificity: Length,
    who: Who,
}

/// [`Identity`], in an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Who {
    Workload(WorkloadId),
    Unidentified,
}

/// Where a name leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// What the directory is, if it is not what the one above it is.
    pub(super) identity: Option<Identity>,
    /// None: nothing below can be matched.
    pub(super) state: Option<State>,
}

/// The selectors that match by path.
#[derive(Clone, Debug)]
pub(super) struct Selectors {
    globs: Vec<Glob>,
    units: Vec<(Pattern, WorkloadId)>,
}

#[derive(Clone, Debug)]
struct Glob {
    parts: Vec<Part>,
    specificity: usize,
    who: WorkloadId,
}

/// A pattern that a name in a directory may match, and what follows.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wanted {
    /// The component of a glob.
    Component(u32, u32),
    /// A unit of systemd.
    Unit(u32),
}

impl Selectors {
    pub(super) fn new(policy: &Policy) -> Self {
        let (mut globs, mut units) = (Vec::new(), Vec::new());
        for (n, workload) in policy.workloads.iter().enumerate() {
            let who = WorkloadId(n);
            for (selector, _) in &workload.selectors {
                match selector {
                    Selector::Cgroup(glob) => globs.push(Glob {
                        parts: glob.parts().to_vec(),
                        specificity: glob.specificity(),
                        who,
                    }),
                    Selector::Systemd(unit) => units.push((unit.clone(), who)),
                    Selector::Container { .. } | Selector::Kubernetes { .. } => {}
                }
            }
        }
        Self { globs, units }
    }

    /// The root of the tree: what it is, and what may be below it.
    pub(super) fn root(&self) -> Step {
        let state = State { slices: true, ..State::default() };
        let reached = (0..self.globs.len()).map(|g| (index(g), 0)).collect();
        self.settle(&state, reached, None, state.clone())
            .unwrap_or(Step { identity: Some(Identity::Unidentified), state: None })
    }

    /// The same directory, in which somebody other than root may have made something.
    pub(super) fn delegate(&self, state: &State) -> Option<State> {
        self.reduce(State { delegated: true, ..state.clone() })
    }

    /// What names in a directory may match: patterns spelt out, and those with a wildcard.
    pub(super) fn wanted(&self, state: &State) -> impl Iterator<Item = (&Pattern, Wanted)> {
        let components = state.globs.iter().filter_map(|&(g, at)| match self.part(g, at)? {
            Part::One(pattern) => Some((pattern, Wanted::Component(g, at))),
            Part::Any => None,
        });
        let units = self.units.iter().enumerate().filter(|_| state.slices);
        components.chain(units.map(|(u, (pattern, _))| (pattern, Wanted::Unit(index(u)))))
    }

    /// What a new directory is, of which it is known what it matches. None: the name decides, and is not known well
    /// enough.
    pub(super) fn step(&self, from: &State, name: Name<'_>, matched: &[Wanted]) -> Option<Step> {
        let crosses = |&(g, at): &(u32, u32)| matches!(self.part(g, at), Some(Part::Any));
        let mut reached: Vec<_> = from.globs.iter().copied().filter(crosses).collect();
        let mut unit: Option<(usize, Identity)> = None;
        for wanted in matched {
            match *wanted {
                Wanted::Component(g, at) => reached.push((g, at + 1)),
                Wanted::Unit(u) => {
                    let (pattern, who) = &self.units[u as usize];
                    unit = Some(weigh(unit, (pattern.specificity(), Identity::Workload(*who))));
                }
            }
        }
        let (length, exact) = name.length();
        let path = Length { least: from.path.least + 1 + length, exact: from.path.exact && exact };
        let next = State {
            slices: from.slices && name.is_slice(),
            path,
            held: from.held,
            delegated: from.delegated,
            globs: Vec::new(),
        };
        self.settle(from, reached, unit, next)
    }

    /// Finishes a step: which globs match the directory itself, which match wins, and what is left to know.
    fn settle(
        &self,
        from: &State,
        reached: Vec<(u32, u32)>,
        unit: Option<(usize, Identity)>,
        mut next: State,
    ) -> Option<Step> {
        let mut glob: Option<(usize, Identity)> = None;
        let mut ahead = reached;
        let mut open = Vec::new();
        while let Some((g, at)) = ahead.pop() {
            match self.part(g, at) {
                None => {
                    let Glob { specificity, who, .. } = self.globs[g as usize];
                    glob = Some(weigh(glob, (specificity, Identity::Workload(who))));
                }
                Some(part) => {
                    // `**` may match nothing.
                    if *part == Part::Any {
                        ahead.push((g, at + 1));
                    }
                    open.push((g, at));
                }
            }
        }
        open.sort_unstable();
        open.dedup();
        next.globs = open;
        next.held = strongest(from, glob, unit)?;
        let who = |held: Option<Held>| held.map(|held| held.who);
        let identity = (who(next.held) != who(from.held)).then(|| next.held.map(|held| held.who.into()));
        Some(Step { identity: identity.flatten(), state: self.reduce(next) })
    }

    /// The same state without what makes no difference any more.
    fn reduce(&self, mut state: State) -> Option<State> {
        if state.delegated {
            // No unit of the system's, and below a match no name that means anything.
            state.slices = false;
            if state.held.is_some() {
                return None;
            }
        }
        if let Some(held) = state.held {
            state.globs.retain(|&(g, _)| self.globs[g as usize].specificity >= held.specificity.least);
        }
        state.slices &= !self.units.is_empty();
        let most = state.globs.iter().map(|&(g, _)| self.globs[g as usize].specificity).max();
        match most {
            // A unit is more specific than whatever is above it, so that nothing else matters.
            None if state.slices => Some(State { slices: true, ..State::default() }),
            None => None,
            Some(most) => {
                if !state.slices {
                    state.path = Length::default();
                } else if 2 * (state.path.least + 1) > most {
                    // Whatever unit comes wins over these globs.
                    state.path = Length { least: most / 2, exact: false };
                }
                Some(state)
            }
        }
    }

    fn part(&self, glob: u32, at: u32) -> Option<&Part> {
        self.globs[glob as usize].parts.get(at as usize)
    }
}

/// The match that wins in a directory: what was held above it, the strongest glob or the strongest unit. The outer
/// none: it depends on how long the path is.
#[expect(clippy::option_option, reason = "the outer one is `?`'s")]
fn strongest(
    from: &State,
    glob: Option<(usize, Identity)>,
    unit: Option<(usize, Identity)>,
) -> Option<Option<Held>> {
    if from.delegated && from.held.is_some() {
        return Some(from.held);
    }
    let mut best = from.held;
    if let Some(found) = glob {
        best = match best {
            Some(held) if held.specificity.least > found.0 => best,
            Some(held) if !held.specificity.exact => return None,
            held => Held::of(weigh(held.map(Held::weight), found), true),
        };
    }
    if let Some((own, who)) = unit {
        // A unit's path counts as spelt out, so that it wins over whatever is above it.
        let specificity = 2 * (from.path.least + 1) + own;
        best = match glob {
            Some((other, _)) if specificity <= other => {
                if !from.path.exact {
                    return None;
                }
                Held::of(weigh(best.map(Held::weight), (specificity, who)), true)
            }
            _ => Held::of((specificity, who), from.path.exact),
        };
    }
    Some(best)
}

impl Held {
    fn of((least, who): (usize, Identity), exact: bool) -> Option<Self> {
        let who = match who {
            Identity::None => return None,
            Identity::Workload(workload) => Who::Workload(workload),
            Identity::Unidentified => Who::Unidentified,
        };
        Some(Self { specificity: Length { least, exact }, who })
    }

    fn weight(self) -> (usize, Identity) {
        (self.specificity.least, self.who.into())
    }
}

impl From<Who> for Identity {
    fn from(who: Who) -> Self {
        match who {
            Who::Workload(workload) => Self::Workload(workload),
            Who::Unidentified => Self::Unidentified,
        }
    }
}

/// Which of the starred patterns match a name. None: it cannot be told.
pub(super) fn starred(patterns: &[(Starred, Wanted)], name: Name<'_>) -> Option<Vec<Wanted>> {
    let mut matched = Vec::new();
    for (pattern, wanted) in patterns {
        if pattern.matches(name)? {
            matched.push(*wanted);
        }
    }
    Some(matched)
}

fn index(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

//! The cgroup selectors of a policy as a deterministic automaton over the names of directories, for the kernel to
//! tell what a new cgroup is before anything runs in it.
//!
//! A directory stands in a [state](state::State): all that [`Policy::identify`] still has to know of it. What a new
//! directory in it is follows from that state, its name, and whether somebody other than root could have chosen it.
//! Names are looked up by their beginning, and where patterns such as `job-*.scope` compete by their end as well. What
//! that cannot decide (`a*b*c`) is [`Identity::Unidentified`] until the agent tells better.
//!
//! [`Policy::identify`]: crate::Policy::identify

mod names;
mod state;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};

use bulkhead_common::{FIRST_LIST, NAME_BYTES, STATE_BITS, STATE_DEAD, STATE_DELEGATED, STATE_LOST};

use self::{
    names::{Name, SLICE, Starred, overlaps},
    state::{Selectors, State, Step, Wanted, starred},
};
use crate::{
    identity::{CgroupDir, Identity},
    language::Policy,
};

/// How many states there may be. What lies beyond is the agent's to tell.
const MAX_STATES: usize = 65_536;

/// The names of cgroups that mean something, by the state of the cgroup that holds them.
#[derive(Clone, Debug)]
pub struct Automaton {
    selectors: Selectors,
    root: Target,
    /// By number, two for each: as root made the directory, and delegated.
    states: Vec<State>,
    numbers: HashMap<State, u32>,
    edges: HashMap<(u32, Vec<u8>), Leads>,
    endings: u32,
}

/// Where a name leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leads {
    /// There.
    To(Target),
    /// Where the longest of the name's endings leads that this list has.
    ByEnding(u32),
}

/// What a directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// What it is, if it is not what the one above it is.
    pub identity: Option<Identity>,
    /// Its state.
    pub state: u32,
}

/// What cannot be told here.
const LOST: Target = Target { identity: Some(Identity::Unidentified), state: STATE_LOST };

/// The first state with a number of its own: those before it are dead or lost.
const FIRST: u32 = 4;

const _: () = assert!(FIRST as usize + 2 * MAX_STATES <= 1 << STATE_BITS);

impl Automaton {
    /// The automaton of a policy's selectors.
    pub fn new(policy: &Policy) -> Self {
        let selectors = Selectors::new(policy);
        let root = selectors.root();
        let mut automaton = Self {
            selectors,
            root: LOST,
            states: Vec::new(),
            numbers: HashMap::new(),
            edges: HashMap::new(),
            endings: FIRST_LIST,
        };
        automaton.root = automaton.target(Some(root));
        for state in [STATE_LOST, STATE_LOST | STATE_DELEGATED] {
            automaton.edges.insert((state, Vec::new()), Leads::To(LOST));
        }
        let mut next = 0;
        while let Some(state) = automaton.states.get(next).cloned() {
            let number = automaton.numbers[&state];
            // What is delegated is only ever asked as such.
            if !state.delegated {
                automaton.draw(number, &state);
            }
            if let Some(delegated) = automaton.selectors.delegate(&state) {
                automaton.draw(number | STATE_DELEGATED, &delegated);
            }
            next += 1;
        }
        automaton
    }

    /// Every name, or beginning of names, that leads somewhere: the state or list in which it is looked up, and its
    /// bytes. A name spelt out ends in a zero byte, and endings are written backwards. The longest that fits holds; if
    /// none does, the directory is what the one above it is, and so is all below it.
    pub fn edges(&self) -> impl ExactSizeIterator<Item = (u32, &[u8], Leads)> {
        self.edges.iter().map(|((of, name), leads)| (*of, name.as_slice(), *leads))
    }

    /// The state of the directory at the end of `path`; an empty path is the root of the tree.
    pub fn state(&self, path: &[CgroupDir<'_>]) -> u32 {
        path.iter().fold(self.root.state, |state, dir| {
            let asked = if dir.delegated { state | STATE_DELEGATED } else { state };
            let target = self.follow(asked, dir.name.as_bytes());
            let state = if target == LOST { self.look_closer(asked, dir.name) } else { target.state };
            // What is below delegated names is delegated.
            if dir.delegated && state != STATE_DEAD { state | STATE_DELEGATED } else { state }
        })
    }

    /// What the kernel makes of a new directory with this name.
    pub(crate) fn follow(&self, state: u32, name: &[u8]) -> Target {
        let mut spelt = name.to_vec();
        spelt.push(0);
        match self.longest(state, &spelt) {
            None => Target { identity: None, state: STATE_DEAD },
            Some(Leads::To(target)) => target,
            Some(Leads::ByEnding(list)) => {
                let backwards: Vec<u8> = name.iter().rev().copied().collect();
                match self.longest(list, &backwards) {
                    Some(Leads::To(target)) => target,
                    _ => Target { identity: None, state: STATE_DEAD },
                }
            }
        }
    }

    fn longest(&self, of: u32, name: &[u8]) -> Option<Leads> {
        let lengths = (0..=name.len().min(NAME_BYTES)).rev();
        lengths.map(|length| (of, name[..length].to_vec())).find_map(|key| self.edges.get(&key).copied())
    }

    /// The state that a name leads to which lookups cannot decide.
    fn look_closer(&self, state: u32, name: &str) -> u32 {
        let Some(from) = state.checked_sub(FIRST).and_then(|n| self.states.get(n as usize / 2)) else {
            return STATE_LOST;
        };
        let from =
            if state & STATE_DELEGATED == 0 { Some(from.clone()) } else { self.selectors.delegate(from) };
        let Some(from) = from else { return STATE_DEAD };
        let reached = Outgoing::new(&self.selectors, &from).step(&self.selectors, &from, Name::Whole(name));
        match reached.map(|step| step.state) {
            Some(Some(state)) => self.numbers.get(&state).copied().unwrap_or(STATE_LOST),
            Some(None) => STATE_DEAD,
            None => STATE_LOST,
        }
    }

    /// Draws the edges that leave a state.
    fn draw(&mut self, number: u32, state: &State) {
        let selectors = self.selectors.clone();
        let outgoing = Outgoing::new(&selectors, state);
        for name in outgoing.spelt_out() {
            let target = self.target(outgoing.step(&selectors, state, Name::Whole(&name)));
            self.insert(number, (name + "\0").into_bytes(), Leads::To(target));
        }
        for prefix in &outgoing.prefixes {
            let suffixes = outgoing.suffixes(prefix);
            let list = if suffixes.len() == 1 { None } else { Some(self.endings) };
            self.endings += u32::from(list.is_some());
            for suffix in suffixes {
                let name = Name::Ends { prefix, suffix };
                let target = self.target(outgoing.step(&selectors, state, name));
                match list {
                    None => self.insert(number, prefix.as_bytes().to_vec(), Leads::To(target)),
                    Some(list) => self.insert(list, suffix.bytes().rev().collect(), Leads::To(target)),
                }
            }
            if let Some(list) = list {
                self.insert(number, prefix.as_bytes().to_vec(), Leads::ByEnding(list));
            }
        }
    }

    /// Names too long to be compared whole are not decided.
    fn insert(&mut self, of: u32, mut name: Vec<u8>, leads: Leads) {
        let whole = name.len() <= NAME_BYTES;
        name.truncate(NAME_BYTES);
        let entry = self.edges.entry((of, name)).or_insert(leads);
        if !whole {
            *entry = Leads::To(LOST);
        }
    }

    /// The target of a step, whose state gets a number if it is new.
    fn target(&mut self, step: Option<Step>) -> Target {
        let Some(Step { identity, state }) = step else { return LOST };
        let Some(state) = state else { return Target { identity, state: STATE_DEAD } };
        if let Some(&number) = self.numbers.get(&state) {
            return Target { identity, state: number };
        }
        if self.states.len() == MAX_STATES {
            return LOST;
        }
        let pair = u32::try_from(self.states.len()).unwrap_or(u32::MAX / 4);
        let number = FIRST + 2 * pair + u32::from(state.delegated);
        self.states.push(state.clone());
        self.numbers.insert(state, number);
        Target { identity, state: number }
    }
}

/// What names in a directory are asked for.
struct Outgoing<'s> {
    literals: HashMap<&'s str, Vec<Wanted>>,
    starred: Vec<(Starred, Wanted)>,
    prefixes: BTreeSet<String>,
    slices: bool,
}

impl<'s> Outgoing<'s> {
    fn new(selectors: &'s Selectors, state: &State) -> Self {
        let mut literals: HashMap<_, Vec<_>> = HashMap::new();
        let mut starred = Vec::new();
        for (pattern, wanted) in selectors.wanted(state) {
            match Starred::new(pattern) {
                Some(pattern) => starred.push((pattern, wanted)),
                None => literals.entry(pattern.as_str()).or_default().push(wanted),
            }
        }
        // Every other name begins with nothing.
        let prefixes = starred.iter().map(|(pattern, _)| pattern.prefix.clone()).chain([String::new()]);
        Self { literals, prefixes: prefixes.collect(), starred, slices: state.slices }
    }

    /// How names that begin with `prefix` may end, so that it makes a difference.
    fn suffixes(&self, prefix: &str) -> BTreeSet<&str> {
        let patterns = self.starred.iter().filter(|(pattern, _)| prefix.starts_with(&pattern.prefix));
        let suffixes = patterns.map(|(pattern, _)| pattern.suffix.as_str());
        suffixes.chain([""]).chain(self.slices.then_some(SLICE)).collect()
    }

    /// The names that are looked up whole: those spelt out, and those whose beginning and end overlap.
    fn spelt_out(&self) -> BTreeSet<String> {
        let literals = self.literals.keys().map(|name| (*name).to_owned());
        let overlapping = self.prefixes.iter().flat_map(|prefix| {
            self.suffixes(prefix).into_iter().flat_map(move |suffix| overlaps(prefix, suffix))
        });
        literals.chain(overlapping).collect()
    }

    fn step(&self, selectors: &Selectors, state: &State, name: Name<'_>) -> Option<Step> {
        let mut matched = starred(&self.starred, name)?;
        if let Name::Whole(name) = name
            && let Some(wanted) = self.literals.get(name)
        {
            matched.extend(wanted);
        }
        selectors.step(state, name, &matched)
    }
}

use std::collections::{BTreeMap, HashMap};

use bulkhead_common::{Direction, Endpoint, PeerId};

use crate::language::{Cidr, End, EnvironmentId, Policy, Rule, WorkloadId};

/// Number of a rule end that some allowlist names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Term(u32);

/// The rule ends that allowlists name: only these tell peers apart. [`End::Any`] is none, it tells nobody apart.
#[derive(Debug, Default)]
pub(super) struct Terms {
    numbers: BTreeMap<End, Term>,
    members: Vec<Vec<WorkloadId>>,
}

impl Terms {
    /// `flags` are the workloads' [`Endpoint::flags`].
    pub(super) fn new(policy: &Policy, flags: &[u32]) -> Self {
        let mut members = vec![Vec::new(); policy.environments.len()];
        for (n, workload) in policy.workloads.iter().enumerate() {
            if let Some(e) = workload.environment {
                members[e.0].push(WorkloadId(n));
            }
        }
        let mut terms = Self { numbers: BTreeMap::new(), members };
        for rule in &policy.rules {
            for direction in [Direction::Egress, Direction::Ingress] {
                let (local, far) = sides(rule, direction);
                if terms.subjects(local, direction, flags).next().is_none() {
                    continue;
                }
                for end in far.iter().filter(|e| **e != End::Any) {
                    let next = Term(u32::try_from(terms.numbers.len()).unwrap_or(u32::MAX));
                    terms.numbers.entry(*end).or_insert(next);
                }
            }
        }
        terms
    }

    /// The number of a rule end, if an allowlist names it.
    pub(super) fn number(&self, end: End) -> Option<Term> {
        self.numbers.get(&end).copied()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Does an allowlist name an environment?
    pub(super) fn name_environments(&self) -> bool {
        self.numbers.keys().any(|e| matches!(e, End::Environment(_)))
    }

    /// The address ranges that allowlists name.
    pub(super) fn cidrs(&self) -> impl Iterator<Item = (Cidr, Term)> {
        self.numbers.iter().filter_map(|(end, term)| match end {
            End::Cidr(cidr) => Some((*cidr, *term)),
            _ => None,
        })
    }

    /// What a workload that is known by its socket matches.
    pub(super) fn of_workload(&self, policy: &Policy, workload: WorkloadId) -> Vec<Term> {
        let own = self.number(End::Workload(workload));
        let environment =
            policy.workloads[workload.0].environment.and_then(|e| self.number(End::Environment(e)));
        own.into_iter().chain(environment).collect()
    }

    /// The workloads that `ends` name and whose side is isolated: whose allowlists a rule is entered in.
    pub(super) fn subjects(
        &self,
        ends: &[End],
        direction: Direction,
        flags: &[u32],
    ) -> impl Iterator<Item = WorkloadId> {
        let flag = match direction {
            Direction::Egress => Endpoint::ISOLATE_EGRESS,
            Direction::Ingress => Endpoint::ISOLATE_INGRESS,
        };
        let workloads = ends.iter().flat_map(move |end| {
            let (one, many) = match end {
                End::Workload(w) => (Some(*w), &[][..]),
                End::Environment(EnvironmentId(e)) => (None, &self.members[*e][..]),
                _ => (None, &[][..]),
            };
            one.into_iter().chain(many.iter().copied())
        });
        workloads.filter(move |w| flags[w.0] & flag != 0)
    }
}

/// The end of a rule whose allowlist it is entered in for `direction`, and the other one.
pub(super) fn sides(rule: &Rule, direction: Direction) -> (&[End], &[End]) {
    match direction {
        Direction::Egress => (&rule.from, &rule.to),
        Direction::Ingress => (&rule.to, &rule.from),
    }
}

/// The classes of peers, numbered from 1 in the order in which they are met.
#[derive(Debug, Default)]
pub(super) struct Classes {
    numbers: HashMap<Vec<Term>, PeerId>,
    in_order: Vec<Vec<Term>>,
}

impl Classes {
    /// The class of the peers that match exactly `terms`.
    pub(super) fn of(&mut self, mut terms: Vec<Term>) -> PeerId {
        terms.sort_unstable();
        terms.dedup();
        if terms.is_empty() {
            return PeerId::NONE;
        }
        if let Some(known) = self.numbers.get(&terms) {
            return *known;
        }
        self.in_order.push(terms.clone());
        let id = PeerId(u32::try_from(self.in_order.len()).unwrap_or(u32::MAX));
        self.numbers.insert(terms, id);
        id
    }

    /// For each of `count` terms the classes that match it, in ascending order.
    pub(super) fn by_term(&self, count: usize) -> Vec<Vec<PeerId>> {
        let mut found = vec![Vec::new(); count];
        for (n, terms) in (1..).zip(&self.in_order) {
            for term in terms {
                found[term.0 as usize].push(PeerId(n));
            }
        }
        found
    }
}

impl Term {
    /// Index into [`Classes::by_term`].
    pub(super) fn index(self) -> usize {
        self.0 as usize
    }
}

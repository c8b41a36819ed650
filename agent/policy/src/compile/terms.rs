//! Terms: the rule ends that allowlists name, and the rules that name them.

use std::collections::BTreeMap;

use bulkhead_common::{Direction, Endpoint, RuleId};

use crate::language::{Cidr, End, EnvironmentId, Policy, Rule, WorkloadId};

/// Number of a rule end that some allowlist names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Term(pub(super) u32);

/// A rule as it is entered in allowlists of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Opening {
    pub(super) rule: RuleId,
    pub(super) direction: Direction,
}

/// The rule ends that allowlists name: only these tell peers apart. [`End::Any`] is none, it tells nobody apart.
#[derive(Debug, Default)]
pub(super) struct Terms {
    numbers: BTreeMap<End, Term>,
    /// By term: the rules that let it through, in order.
    openings: Vec<Vec<Opening>>,
    /// The rules that let everybody through, in order.
    everybody: Vec<Opening>,
    members: Vec<Vec<WorkloadId>>,
    name_environments: bool,
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
        let mut terms = Self { members, ..Self::default() };
        for (number, rule) in (0..).map(RuleId).zip(&policy.rules) {
            for direction in [Direction::Egress, Direction::Ingress] {
                let (local, far) = sides(rule, direction);
                if terms.subjects(local, direction, flags).next().is_some() {
                    terms.open(far, Opening { rule: number, direction });
                }
            }
        }
        terms
    }

    /// Whoever is let through as one of everybody is not told apart by the other ends of the rule.
    fn open(&mut self, far: &[End], opening: Opening) {
        if far.contains(&End::Any) {
            self.everybody.push(opening);
            return;
        }
        for end in far {
            self.name_environments |= matches!(end, End::Environment(_));
            let next = Term(u32::try_from(self.openings.len()).unwrap_or(u32::MAX));
            let term = *self.numbers.entry(*end).or_insert(next);
            if term == next {
                self.openings.push(Vec::new());
            }
            self.openings[term.0 as usize].push(opening);
        }
    }

    /// The number of a rule end, if an allowlist names it.
    pub(super) fn number(&self, end: End) -> Option<Term> {
        self.numbers.get(&end).copied()
    }

    /// All of them, by number.
    pub(super) fn ends(&self) -> Vec<End> {
        let mut ends: Vec<_> = self.numbers.iter().map(|(end, term)| (*term, *end)).collect();
        ends.sort_unstable_by_key(|(term, _)| *term);
        ends.into_iter().map(|(_, end)| end).collect()
    }

    /// Does an allowlist name an environment?
    pub(super) fn name_environments(&self) -> bool {
        self.name_environments
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

    /// The rules that let everybody through.
    pub(super) fn open_to_everybody(&self) -> &[Opening] {
        &self.everybody
    }

    /// The rules that let one of `matched` through, in order.
    pub(super) fn open_to(&self, matched: &[Term]) -> Vec<Opening> {
        let mut openings: Vec<_> =
            matched.iter().flat_map(|term| &self.openings[term.0 as usize]).copied().collect();
        openings.sort_unstable();
        openings.dedup();
        openings
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

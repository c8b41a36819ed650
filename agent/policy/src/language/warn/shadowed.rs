//! Rules that others make superfluous.

use std::collections::{BTreeSet, HashMap};

use super::super::{
    Cidr, End, Policy, Rule,
    overlap::{Overlap, ports_cover},
};
use crate::text::{Code, Diagnostic, Findings};

/// The most rules of one end and port that one of as few is compared with: a warning is not worth comparing every rule
/// with every other, end by end.
const MOST_RIVALS: usize = 1_000;

pub(super) fn rules(policy: &Policy, findings: &mut Findings) {
    let overlap = Overlap::new(policy);
    let senders = Senders::new(policy, &overlap);
    let covers =
        |wide: &[End], narrow: &[End]| narrow.iter().all(|n| wide.iter().any(|w| overlap.covers(*w, *n)));
    let lasts = |rule: &Rule| rule.expires.unwrap_or(u64::MAX);
    let superfluous = |wide: usize, narrow: usize| {
        let (w, n) = (&policy.rules[wide], &policy.rules[narrow]);
        wide != narrow
            && lasts(w) >= lasts(n)
            // What tells most rules apart at least expense comes first.
            && ports_cover(&w.ports, &n.ports)
            && covers(&w.to, &n.to)
            && covers(&w.from, &n.from)
    };
    for (n, rule) in policy.rules.iter().enumerate() {
        let Some(first) = rule.from.first().copied() else { continue };
        let rivals = senders.who_may_hold(first);
        let size = |r: &Rule| r.from.len() + r.to.len() + r.ports.len();
        let mut steps = MOST_RIVALS * size(rule);
        let pairs = |a: &Rule| {
            a.from.len() * rule.from.len() + a.to.len() * rule.to.len() + a.ports.len() * rule.ports.len()
        };
        let mut rivals = rivals.take(MOST_RIVALS).filter(|w| {
            let needed = pairs(&policy.rules[**w]);
            let enough = needed <= steps;
            steps -= if enough { needed } else { 0 };
            enough
        });
        // Of two that say the same the later one is superfluous.
        let Some(wide) = rivals.find(|w| superfluous(**w, n) && (**w < n || !superfluous(n, **w))) else {
            continue;
        };
        let fault =
            format!("rule `{}` opens nothing that `{}` does not open", rule.id, policy.rules[*wide].id);
        findings.add(
            Diagnostic::warning(Code::ShadowedRule, &rule.place, fault)
                .related(&policy.rules[*wide].place, "opened here already")
                .help("remove it, or narrow the other one"),
        );
    }
}

/// The rules, by those whom they let open connections.
struct Senders<'p> {
    policy: &'p Policy,
    overlap: &'p Overlap<'p>,
    rules: HashMap<End, Vec<usize>>,
    /// The ends that are address ranges, by each of these.
    ranges: HashMap<Cidr, Vec<End>>,
    /// How long the prefixes of ranges are.
    lengths: BTreeSet<u8>,
}

impl<'p> Senders<'p> {
    fn new(policy: &'p Policy, overlap: &'p Overlap<'p>) -> Self {
        let mut rules: HashMap<End, Vec<usize>> = HashMap::new();
        let mut ranges: HashMap<Cidr, Vec<End>> = HashMap::new();
        for (n, rule) in policy.rules.iter().enumerate() {
            for end in &rule.from {
                let known = rules.entry(*end).or_default();
                if known.is_empty() && matches!(end, End::Cidr(_) | End::Peer(_)) {
                    for range in overlap.declared(*end) {
                        ranges.entry(range).or_default().push(*end);
                    }
                }
                known.push(n);
            }
        }
        let lengths = ranges.keys().map(|range| range.prefix_len()).collect();
        Self { policy, overlap, rules, ranges, lengths }
    }

    /// The rules that may open for others what they open for `end`.
    fn who_may_hold(&self, end: End) -> impl Iterator<Item = &usize> {
        let environment = match end {
            End::Workload(w) => self.policy.workloads[w.0].environment.map(End::Environment),
            End::Environment(_) => None,
            _ => Some(End::Any),
        };
        // Who holds all of its ranges holds the first.
        let first = match end {
            End::Cidr(_) | End::Peer(_) => self.overlap.declared(end).into_iter().next(),
            _ => None,
        };
        let around = first.into_iter().flat_map(|range| {
            let lengths = self.lengths.range(..=range.prefix_len()).rev();
            let wider = lengths.map(move |len| range.widened(*len)).filter(move |wider| wider.covers(range));
            wider.filter_map(|wider| self.ranges.get(&wider)).flatten().copied()
        });
        let ends = [Some(end), environment].into_iter().flatten().chain(around.filter(move |e| *e != end));
        ends.filter_map(|end| self.rules.get(&end)).flatten()
    }
}

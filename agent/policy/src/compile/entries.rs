//! The table (subject, class, direction, protocol, port prefix) -> rule.

use bulkhead_common::{Direction, PeerId, PolicyKey, PolicyValue, RuleId, SubjectId};

use super::{
    PortPrefix,
    classes::{Classes, Numbered},
    subject,
    terms::{Opening, Terms, sides},
};
use crate::language::Policy;

/// One rule in one allowlist: sorted, an entry comes after those that it is nested in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    subject: SubjectId,
    peer: PeerId,
    /// Direction (1 bit), then [`PortPrefix::bits`] (24) and [`PortPrefix::len`] (5): sixteen bytes an entry.
    ports: u32,
    rule: RuleId,
}

impl Entry {
    fn new(subject: SubjectId, peer: PeerId, direction: Direction, prefix: PortPrefix, rule: RuleId) -> Self {
        let ports = (direction as u32) << 29 | prefix.bits << 5 | u32::from(prefix.len);
        Self { subject, peer, ports, rule }
    }

    fn direction(self) -> Direction {
        if self.ports >> 29 == 0 { Direction::Egress } else { Direction::Ingress }
    }

    fn prefix(self) -> PortPrefix {
        PortPrefix { bits: self.ports >> 5 & 0x00ff_ffff, len: (self.ports & 0x1f) as u8 }
    }

    fn allowlist(self) -> (SubjectId, PeerId, u32) {
        (self.subject, self.peer, self.ports >> 29)
    }
}

/// Whose allowlists are filled, and by which rules.
#[derive(Clone, Copy)]
pub(super) struct Allowlists<'a> {
    pub(super) policy: &'a Policy,
    pub(super) terms: &'a Terms,
    /// The workloads' [`bulkhead_common::Endpoint::flags`].
    pub(super) flags: &'a [u32],
}

impl Allowlists<'_> {
    /// The table, sorted by key and length.
    pub(super) fn table(self, classes: &Classes) -> Vec<(u32, PolicyKey, PolicyValue)> {
        let mut entries = Vec::new();
        self.enter(self.terms.open_to_everybody(), PeerId::ANY, &mut entries);
        for (class, matched) in classes.iter() {
            self.enter(&self.terms.open_to(matched), class, &mut entries);
        }
        entries.sort_unstable();
        merge(self.policy, &entries)
    }

    /// The part of the table that names one class, sorted by key and length. It depends on nothing but what the class
    /// matches.
    pub(super) fn of_class(self, (class, matched): &Numbered) -> Vec<(u32, PolicyKey, PolicyValue)> {
        let mut entries = Vec::new();
        self.enter(&self.terms.open_to(matched), *class, &mut entries);
        entries.sort_unstable();
        merge(self.policy, &entries)
    }

    fn enter(self, openings: &[Opening], peer: PeerId, entries: &mut Vec<Entry>) {
        for Opening { rule: number, direction } in openings.iter().copied() {
            let rule = &self.policy.rules[number.0 as usize];
            let prefixes = PortPrefix::of(&rule.ports);
            let (local, _) = sides(rule, direction);
            for workload in self.terms.subjects(local, direction, self.flags) {
                entries.extend(
                    prefixes.iter().map(|p| Entry::new(subject(workload), peer, direction, *p, number)),
                );
            }
        }
    }
}

/// Makes every entry the last word for its peer: what a longer prefix holds is the best of all that cover it. Entries
/// that then say nothing new are left out.
fn merge(policy: &Policy, entries: &[Entry]) -> Vec<(u32, PolicyKey, PolicyValue)> {
    let best = |a: RuleId, b: RuleId| {
        let lasts = |rule: RuleId| policy.rules[rule.0 as usize].expires.unwrap_or(u64::MAX);
        // No expiry before a later one before an earlier one, then the order of the rules.
        if (lasts(b), std::cmp::Reverse(b)) > (lasts(a), std::cmp::Reverse(a)) { b } else { a }
    };
    let mut table = Vec::new();
    let mut above: Vec<(PortPrefix, RuleId)> = Vec::new();
    let mut rest = entries;
    let mut allowlist = None;
    while let [first, ..] = rest {
        let same = rest
            .iter()
            .take_while(|e| (e.allowlist(), e.prefix()) == (first.allowlist(), first.prefix()))
            .count();
        let (group, others) = rest.split_at(same);
        rest = others;
        if allowlist != Some(first.allowlist()) {
            allowlist = Some(first.allowlist());
            above.clear();
        }
        let prefix = first.prefix();
        while above.last().is_some_and(|(wider, _)| !wider.covers(prefix)) {
            above.pop();
        }
        let wider = above.last().map(|(_, rule)| *rule);
        let own = group.iter().map(|e| e.rule).reduce(best).unwrap_or(first.rule);
        let rule = wider.map_or(own, |wider| best(wider, own));
        above.push((prefix, rule));
        if wider != Some(rule) {
            table.push(encode(policy, *first, rule));
        }
    }
    table
}

fn encode(policy: &Policy, entry: Entry, rule: RuleId) -> (u32, PolicyKey, PolicyValue) {
    let prefix = entry.prefix();
    let [_, protocol, high, low] = prefix.bits.to_be_bytes();
    let key = PolicyKey {
        subject: entry.subject,
        peer: entry.peer,
        direction: entry.direction() as u8,
        protocol,
        port: [high, low],
        reserved: [0; 4],
    };
    let expires = policy.rules[rule.0 as usize].expires.unwrap_or(0);
    (PolicyKey::ANY_PROTOCOL + u32::from(prefix.len), key, PolicyValue { rule, flags: 0, expires })
}

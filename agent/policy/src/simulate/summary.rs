//! What came of all records.

use std::fmt;

use bulkhead_common::Verdict;
use serde::Serialize;

/// How the flows of one pair fare.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// They pass.
    pub allowed: u64,
    /// They are refused.
    pub denied: u64,
    /// They pass and would be refused if they were enforced.
    pub would_deny: u64,
    /// They fare otherwise than they did.
    pub changed: u64,
}

/// What came of all records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Records read.
    pub records: u64,
    /// Records that no policy can be asked about: their workload could not be told.
    pub unattributed: u64,
    /// Flows of workloads that the policy does not have: it leaves them alone.
    pub left_alone: u64,
    /// How all flows fare.
    pub total: Tally,
    /// How the flows of each pair fare, by who opened them and to whom.
    pub pairs: Vec<(String, String, Tally)>,
    /// The flows that fare otherwise, the most frequent first.
    pub changes: Vec<ChangedFlow>,
    /// Changed flows beyond [`Simulation::MOST_CHANGES`](super::Simulation::MOST_CHANGES) kinds.
    pub other_changes: u64,
}

/// A kind of flows that fare otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChangedFlow {
    /// Who opened them.
    pub from: String,
    /// To whom.
    pub to: String,
    /// To which port.
    pub service: String,
    /// What came of them.
    pub before: &'static str,
    /// What comes of them.
    pub after: &'static str,
    /// How many there are.
    pub count: u64,
}

impl Tally {
    pub(super) fn of(before: Verdict, after: Verdict, count: u64) -> Self {
        let changed = if before == after { 0 } else { count };
        let tally = Self { changed, ..Self::default() };
        match after {
            Verdict::Allowed => Self { allowed: count, ..tally },
            Verdict::Denied => Self { denied: count, ..tally },
            Verdict::WouldDeny => Self { would_deny: count, ..tally },
        }
    }

    pub(super) fn add(&mut self, other: Self) {
        // A record may claim any count: the sum must not wrap around.
        self.allowed = self.allowed.saturating_add(other.allowed);
        self.denied = self.denied.saturating_add(other.denied);
        self.would_deny = self.would_deny.saturating_add(other.would_deny);
        self.changed = self.changed.saturating_add(other.changed);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { allowed, denied, would_deny, changed } = self;
        write!(f, "{allowed} allowed, {denied} denied, {would_deny} would-deny, {changed} changed")
    }
}

/// A name of a record, which is anybody's: it begins no line.
fn in_line(name: &str) -> String {
    name.replace('\n', "\\n")
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (from, to, tally) in &self.pairs {
            writeln!(f, "{} -> {}: {tally}", in_line(from), in_line(to))?;
        }
        for ChangedFlow { from, to, service, before, after, count } in &self.changes {
            let (from, to) = (in_line(from), in_line(to));
            writeln!(f, "~ {from} -> {to} {service}: {before} -> {after} ({count})")?;
        }
        if self.other_changes > 0 {
            writeln!(f, "~ {} more changed flows of other kinds", self.other_changes)?;
        }
        if self.unattributed > 0 {
            writeln!(
                f,
                "{} flows of no known workload, or with nobody known, were left out",
                self.unattributed
            )?;
        }
        if self.left_alone > 0 {
            writeln!(
                f,
                "{} flows are of workloads that the policy does not have, and are left alone",
                self.left_alone
            )?;
        }
        let records = if self.records == 1 { "record" } else { "records" };
        write!(f, "{} {records}: {}", self.records, self.total)
    }
}

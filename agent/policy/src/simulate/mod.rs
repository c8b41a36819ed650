//! Recorded flows put to a policy: what would have come of them.

mod judge;
mod names;
mod summary;

use std::mem;

use bulkhead_common::{Address, Direction, Protocol, Reason, Verdict};

pub use self::summary::{ChangedFlow, Summary, Tally};
use self::{
    judge::Judge,
    names::{Name, Names, Table},
};
use crate::{
    connection::{service, verdict_name},
    flow_record::{FlowRecord, Is, Passages, RecordError},
    inventory::Inventory,
    language::Policy,
};

/// Puts recorded flows to a policy, one line after the other; memory does not grow with their number.
pub struct Simulation {
    new: Judge,
    /// What the flows are compared with; else with the verdicts in the records.
    old: Option<Judge>,
    /// Is the time of a record of any consequence?
    timed: bool,
    passages: Passages<Name>,
    names: Names,
    /// Read and not judged yet. Many are judged at once, a step for all of them before the next one: then they wait for
    /// memory at the same time.
    unjudged: Vec<Flow>,
    /// Judged and not in `pairs` yet, for the same reason.
    uncounted: Vec<((Name, Name), Tally)>,
    pairs: Table<(Name, Name), Tally>,
    /// Pairs beyond [`Self::MOST_PAIRS`].
    other_pairs: Option<Tally>,
    changes: Table<ChangeKey, u64>,
    records: u64,
    unattributed: u64,
    left_alone: u64,
    total: Tally,
    other_changes: u64,
}

/// What is left of a record when it is read.
#[derive(Clone, Copy, Debug)]
struct Flow {
    own: Name,
    /// The other end, if it has a name in the record.
    peer: Option<Name>,
    /// None: it is known by its socket.
    peer_address: Option<Address>,
    peer_is: Is,
    unjudged: Option<Reason>,
    direction: Direction,
    protocol: Protocol,
    port: u16,
    recorded: Verdict,
    count: u64,
    now_ns: u64,
}

/// A kind of changed flows: who, to whom, protocol and port, what came and what comes of them.
type ChangeKey = (Name, Name, Protocol, u16, Verdict, Verdict);

impl Simulation {
    /// The most kinds of changed flows that are told apart.
    pub const MOST_CHANGES: usize = 10_000;
    /// The most pairs that are told apart; those beyond are counted as from and to `(others)`.
    pub const MOST_PAIRS: usize = 10_000;
    /// How many flows are judged at once.
    const AT_ONCE: usize = 64;

    /// Flows are compared with what `against` makes of them, or else with what was recorded.
    pub fn new(policy: &Policy, against: Option<&Policy>, inventory: &Inventory) -> Self {
        let expires = |policy: &Policy| policy.rules.iter().any(|r| r.expires.is_some());
        let mut names = Names::new(policy, against);
        Self {
            new: Judge::new(policy, inventory, &mut names),
            old: against.map(|old| Judge::new(old, inventory, &mut names)),
            timed: expires(policy) || against.is_some_and(expires),
            passages: Passages::default(),
            names,
            unjudged: Vec::with_capacity(Self::AT_ONCE),
            uncounted: Vec::with_capacity(Self::AT_ONCE),
            pairs: Table::default(),
            other_pairs: None,
            changes: Table::default(),
            records: 0,
            unattributed: 0,
            left_alone: 0,
            total: Tally::default(),
            other_changes: 0,
        }
    }

    /// Puts one line of a record file to the policy. A line that is no record changes nothing.
    pub fn record(&mut self, line: &[u8]) -> Result<(), RecordError> {
        let Some((record, passed)) = FlowRecord::parse(line, &mut self.passages)? else {
            self.records += 1;
            return Ok(());
        };
        let now_ns = if self.timed { record.unix_nanoseconds()? } else { 0 };
        self.records += 1;
        let Some(workload) = &record.workload else {
            self.unattributed = self.unattributed.saturating_add(record.count);
            return Ok(());
        };
        let names = &mut self.names;
        let mut name = |text: &[u8], note: Option<&mut Option<Name>>| match note {
            Some(note) => *note.get_or_insert_with(|| names.number(text)),
            None => names.number(text),
        };
        let own = name(workload, self.passages.workload(passed));
        let peer = record.peer_name.as_ref().map(|text| name(text, self.passages.peer(passed)));
        let FlowRecord { peer_address, peer_is, unjudged, direction, protocol, port, count, .. } = record;
        let recorded = record.verdict;
        let flow = Flow {
            own,
            peer,
            peer_address,
            peer_is,
            unjudged,
            direction,
            protocol,
            port,
            recorded,
            count,
            now_ns,
        };
        self.unjudged.push(flow);
        if self.unjudged.len() == Self::AT_ONCE {
            self.judge();
        }
        Ok(())
    }

    fn judge(&mut self) {
        let mut flows = mem::take(&mut self.unjudged);
        let names = &self.names;
        let after = self.new.verdicts(&flows, |name| names.workload(name));
        let before = self.old.as_ref().map(|old| old.verdicts(&flows, |name| names.old_workload(name)));
        for (n, flow) in flows.drain(..).enumerate() {
            let of_address =
                || flow.peer_address.map_or(Names::OTHERS, |address| self.names.of_address(address));
            let peer = flow.peer.unwrap_or_else(of_address);
            let pair = match flow.direction {
                Direction::Egress => (flow.own, peer),
                Direction::Ingress => (peer, flow.own),
            };
            // Who is no workload is left alone.
            let verdict = |judged: Option<Verdict>| judged.unwrap_or(Verdict::Allowed);
            if after[n].is_none() {
                self.left_alone = self.left_alone.saturating_add(flow.count);
            }
            let before = before.map_or(flow.recorded, |before| verdict(before[n]));
            self.count(pair, before, verdict(after[n]), &flow);
        }
        self.unjudged = flows;
        self.count_pairs();
    }

    fn count(&mut self, pair: (Name, Name), before: Verdict, after: Verdict, flow: &Flow) {
        let tally = Tally::of(before, after, flow.count);
        self.total.add(tally);
        if before != after {
            let key = (pair.0, pair.1, flow.protocol, flow.port, before, after);
            let count = if self.changes.len() < Self::MOST_CHANGES || self.changes.contains_key(&key) {
                self.changes.entry(key).or_default()
            } else {
                &mut self.other_changes
            };
            *count = count.saturating_add(flow.count);
        }
        self.uncounted.push((pair, tally));
    }

    fn count_pairs(&mut self) {
        for (pair, tally) in self.uncounted.drain(..) {
            if let Some(sum) = self.pairs.get_mut(&pair) {
                sum.add(tally);
                continue;
            }
            let is_room = self.pairs.len() < Self::MOST_PAIRS && pair != (Names::OTHERS, Names::OTHERS);
            let sum = if is_room {
                self.pairs.entry(pair).or_default()
            } else {
                self.other_pairs.get_or_insert_default()
            };
            sum.add(tally);
        }
    }

    /// What came of the records so far.
    pub fn summary(&mut self) -> Summary {
        self.judge();
        let name = |n: Name| self.names.text(n);
        let others = self.other_pairs.iter().map(|tally| (&(Names::OTHERS, Names::OTHERS), tally));
        let pairs = self.pairs.iter().chain(others);
        let mut pairs: Vec<_> = pairs.map(|((from, to), tally)| (name(*from), name(*to), *tally)).collect();
        pairs.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
        let changes =
            self.changes.iter().map(|((from, to, protocol, port, before, after), count)| ChangedFlow {
                from: name(*from),
                to: name(*to),
                service: service(*protocol, *port),
                before: verdict_name(*before),
                after: verdict_name(*after),
                count: *count,
            });
        let mut changes: Vec<_> = changes.collect();
        changes.sort_by(|a, b| {
            let parts = |c: &ChangedFlow| (c.from.clone(), c.to.clone(), c.service.clone(), c.before);
            b.count.cmp(&a.count).then_with(|| parts(a).cmp(&parts(b)))
        });
        Summary {
            records: self.records,
            unattributed: self.unattributed,
            left_alone: self.left_alone,
            total: self.total,
            pairs,
            changes,
            other_changes: self.other_changes,
        }
    }
}

#[cfg(test)]
mod tests;

//! Who talks with whom, and how much: what the agent has counted and reported, made into rows with rates.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use bulkhead_report::{Denial, Flow, FlowKind};
use jiff::Timestamp;

use crate::control::CurrentTraffic;

/// So many rows are known at most: a workload may be asked by any number of addresses.
pub(super) const MOST_ROWS: usize = 2_000;
/// So many refusals are remembered, of all rows together.
pub(super) const MOST_DENIALS: usize = 1_000;
/// Refusals are reported about once a second for each of their kind: rates are those of the last so many seconds.
const SECONDS: usize = 3;

/// What is told apart: a workload, which way, its peer, and the service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    pub(super) workload: String,
    /// Opened by the workload?
    pub(super) outgoing: bool,
    /// A name, a class of addresses, or the address of somebody who was refused.
    pub(super) peer: String,
    pub(super) service: String,
}

impl Key {
    fn of_flow(kind: &FlowKind) -> Self {
        Self {
            workload: workload(kind.workload.name.as_deref()),
            outgoing: kind.direction == "egress",
            peer: kind.peer.in_words(),
            service: kind.service.clone(),
        }
    }

    pub(super) fn of_denial(denial: &Denial) -> Self {
        let address = || denial.peer.address.map_or_else(|| "(a socket)".to_owned(), |ip| ip.to_string());
        Self {
            workload: workload(denial.workload.name.as_deref()),
            outgoing: denial.direction == "egress",
            peer: denial.peer.name.clone().unwrap_or_else(address),
            service: denial.service.clone(),
        }
    }
}

fn workload(name: Option<&str>) -> String {
    name.unwrap_or("unidentified").to_owned()
}

/// What comes in a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rates {
    pub(super) connections: f64,
    pub(super) packets: f64,
    pub(super) bytes: f64,
}

/// What is known of one [`Key`].
#[derive(Clone, Debug, Default)]
pub(super) struct Row {
    pub(super) environment: Option<String>,
    pub(super) peer_environment: Option<String>,
    /// What passes.
    pub(super) rates: Rates,
    /// Refusals, or what would be, in the second that runs and in those before it.
    recent: [u64; SECONDS + 1],
    /// All that were seen.
    pub(super) refused: u64,
    /// Has nothing been stopped?
    pub(super) only_would_be: bool,
    /// The rule that has let the last pass, and its line.
    pub(super) rule: Option<String>,
    last: Timestamp,
}

impl Row {
    /// Refusals in a second.
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    pub(super) fn refusals(&self) -> f64 {
        self.recent[1..].iter().sum::<u64>() as f64 / SECONDS as f64
    }
}

/// All rows.
#[derive(Clone, Debug, Default)]
pub(super) struct Rows {
    known: HashMap<Key, Row>,
    /// What each kind had come to, and when.
    before: Option<(Timestamp, HashMap<FlowKind, Counts>)>,
    /// The last refusals, the newest first.
    pub(super) denials: VecDeque<Arc<Denial>>,
    /// Of all traffic.
    pub(super) total: Rates,
    /// Of all that was counted as refused, whether or not it was reported.
    pub(super) refusals: f64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    connections: u64,
    packets: u64,
    bytes: u64,
    calls: u64,
}

impl Counts {
    const fn of(flow: &Flow) -> Self {
        Self { connections: flow.connections, packets: flow.packets, bytes: flow.bytes, calls: flow.calls }
    }

    const fn since(self, before: Self) -> Self {
        Self {
            connections: self.connections.saturating_sub(before.connections),
            packets: self.packets.saturating_sub(before.packets),
            bytes: self.bytes.saturating_sub(before.bytes),
            calls: self.calls.saturating_sub(before.calls),
        }
    }

    const fn add(&mut self, other: Self) {
        self.connections += other.connections;
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.calls += other.calls;
    }

    #[expect(clippy::cast_precision_loss, reason = "for people")]
    fn rates(self, seconds: f64) -> Rates {
        Rates {
            connections: self.connections as f64 / seconds,
            packets: self.packets as f64 / seconds,
            bytes: self.bytes as f64 / seconds,
        }
    }
}

impl Rows {
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Key, &Row)> {
        self.known.iter()
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Row> {
        self.known.get(key)
    }

    /// The last refusals of a row, the newest first.
    pub(super) fn denials_of(&self, key: &Key) -> impl Iterator<Item = &Arc<Denial>> {
        self.denials.iter().filter(move |denial| Key::of_denial(denial) == *key)
    }

    /// A second is over.
    pub(super) fn tick(&mut self) {
        for row in self.known.values_mut() {
            row.recent.rotate_right(1);
            row.recent[0] = 0;
        }
    }

    /// Nobody tells of traffic any more: there are no rates, and what comes next is compared with nothing.
    pub(super) fn lose_sight(&mut self) {
        self.before = None;
        (self.total, self.refusals) = (Rates::default(), 0.0);
        for row in self.known.values_mut() {
            (row.rates, row.recent) = (Rates::default(), [0; SECONDS + 1]);
        }
    }

    /// Takes note of what is counted now.
    pub(super) fn take_traffic(&mut self, now: CurrentTraffic) {
        let before = self.before.take();
        let mut counted: HashMap<FlowKind, Counts> = HashMap::new();
        let mut grown: HashMap<Key, Counts> = HashMap::new();
        let (mut total, mut refused) = (Counts::default(), Counts::default());
        for flow in now.flows {
            let counts = Counts::of(&flow);
            let growth =
                before.as_ref().map_or(Counts::default(), |(then, known)| match known.get(&flow.kind) {
                    Some(known) => counts.since(*known),
                    // It has begun since, or it was left out as it had long been silent.
                    None if flow.first_seen >= *then => counts,
                    None => Counts::default(),
                });
            if flow.kind.verdict != "allowed" {
                refused.add(growth);
            }
            if flow.kind.verdict != "denied" {
                total.add(growth);
                let key = Key::of_flow(&flow.kind);
                grown.entry(key.clone()).or_default().add(growth);
                self.note(key, &flow);
            }
            counted.entry(flow.kind).or_default().add(counts);
        }
        if let Some((then, _)) = before {
            let seconds = now.time.duration_since(then).as_secs_f64().max(0.001);
            for (key, row) in &mut self.known {
                row.rates = grown.get(key).copied().unwrap_or_default().rates(seconds);
            }
            self.total = total.rates(seconds);
            let Counts { packets, calls, .. } = refused;
            self.refusals = Counts { packets: packets + calls, ..Counts::default() }.rates(seconds).packets;
        }
        self.before = Some((now.time, counted));
    }

    fn note(&mut self, key: Key, flow: &Flow) {
        let Some(row) = self.row(key, flow.last_seen) else { return };
        row.environment.clone_from(&flow.kind.workload.environment);
        row.peer_environment.clone_from(&flow.kind.peer.environment);
        if let Some(rule) = &flow.kind.rule {
            row.rule = Some(format!("{} ({}:{})", rule.id, rule.file, rule.line));
        }
    }

    /// Takes note of a refusal; `is_new`: it counts among those of this second.
    pub(super) fn take_denial(&mut self, denial: Denial, is_new: bool) {
        if let Some(row) = self.row(Key::of_denial(&denial), denial.time) {
            row.environment.clone_from(&denial.workload.environment);
            row.peer_environment.clone_from(&denial.peer.environment);
            row.only_would_be = denial.verdict == "would-deny";
            row.refused += denial.count;
            if is_new {
                row.recent[0] += denial.count;
            }
        }
        self.denials.push_front(Arc::new(denial));
        self.denials.truncate(MOST_DENIALS);
    }

    /// The row of a key, at which something was at `time`. None: there is no room for it, since all others are newer.
    fn row(&mut self, key: Key, time: Timestamp) -> Option<&mut Row> {
        if self.known.len() >= MOST_ROWS && !self.known.contains_key(&key) {
            let oldest =
                self.known.iter().min_by_key(|(_, row)| row.last).map(|(key, row)| (key.clone(), row.last));
            let (oldest, last) = oldest?;
            if last > time {
                return None;
            }
            self.known.remove(&oldest);
        }
        let row = self.known.entry(key).or_default();
        row.last = row.last.max(time);
        Some(row)
    }
}

//! Recorded flows put to a policy: what would have come of them.

use std::{collections::HashMap, fmt, net::IpAddr};

use bulkhead_common::{Direction, Flow, Peer, Protocol, Verdict, decide};
use serde::Serialize;

use crate::{
    compile::{Compiled, compile},
    connection::{service, verdict_name},
    describe::describe_peer,
    flow_record::{FlowRecord, RecordError},
    inventory::Inventory,
    language::{Policy, WorkloadId},
};

/// Puts recorded flows to a policy, one line after the other; memory does not grow with their number.
pub struct Simulation<'p> {
    new: Side<'p>,
    /// What the flows are compared with; else with the verdicts in the records.
    old: Option<Side<'p>>,
    /// Is the time of a record of any consequence?
    timed: bool,
    names: Names,
    pairs: HashMap<(Name, Name), Tally>,
    changes: HashMap<ChangeKey, u64>,
    summary: Summary,
}

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
    /// How all flows fare.
    pub total: Tally,
    /// How the flows of each pair fare, by who opened them and to whom.
    pub pairs: Vec<(String, String, Tally)>,
    /// The flows that fare otherwise, the most frequent first.
    pub changes: Vec<ChangedFlow>,
    /// Changed flows beyond [`Simulation::MOST_CHANGES`] kinds.
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

struct Side<'p> {
    policy: &'p Policy,
    compiled: Compiled,
    workloads: HashMap<&'p str, WorkloadId>,
}

impl<'p> Side<'p> {
    fn new(policy: &'p Policy, inventory: &Inventory) -> Self {
        let workloads = policy.workloads.iter().enumerate().map(|(n, w)| (w.name.as_str(), WorkloadId(n)));
        Self { policy, compiled: compile(policy, inventory), workloads: workloads.collect() }
    }

    /// What comes of a flow at the end of `workload`. Who is no workload is left alone.
    fn verdict(&self, workload: &str, record: &FlowRecord<'_>, now_ns: u64) -> Verdict {
        let Some(subject) = self.workloads.get(workload) else { return Verdict::Allowed };
        let by_address = self.compiled.peer(record.peer_address.into());
        let by_name = record.peer_name.as_deref().and_then(|name| self.workloads.get(name));
        let peer = match by_name {
            Some(w) => {
                let end = self.compiled.endpoints[w.0];
                Peer { subject: end.subject, class: end.peer, address: by_address.class }
            }
            None => Peer { subject: by_address.subject, class: by_address.class, address: by_address.class },
        };
        let flow = Flow { direction: record.direction, protocol: record.protocol, port: record.port, peer };
        decide(&self.compiled.at(now_ns), &self.compiled.endpoints[subject.0], &flow).verdict
    }
}

impl<'p> Simulation<'p> {
    /// The most kinds of changed flows that are told apart.
    pub const MOST_CHANGES: usize = 10_000;
    /// The most pairs that are told apart; those beyond are counted as from and to `(others)`.
    pub const MOST_PAIRS: usize = 10_000;

    /// Flows are compared with what `against` makes of them, or else with what was recorded.
    pub fn new(policy: &'p Policy, against: Option<&'p Policy>, inventory: &Inventory) -> Self {
        let expires = |policy: &Policy| policy.rules.iter().any(|r| r.expires.is_some());
        Self {
            new: Side::new(policy, inventory),
            old: against.map(|old| Side::new(old, inventory)),
            timed: expires(policy) || against.is_some_and(expires),
            names: Names::default(),
            pairs: HashMap::new(),
            changes: HashMap::new(),
            summary: Summary::default(),
        }
    }

    /// Puts one line of a record file to the policy.
    pub fn record(&mut self, line: &str) -> Result<(), RecordError> {
        let record = FlowRecord::parse(line)?;
        self.summary.records += 1;
        let Some(workload) = record.workload.as_deref() else {
            self.summary.unattributed = self.summary.unattributed.saturating_add(record.count);
            return Ok(());
        };
        let now_ns = if self.timed { nanoseconds(&record)? } else { 0 };
        let after = self.new.verdict(workload, &record, now_ns);
        let before = self.old.as_ref().map_or(record.verdict, |old| old.verdict(workload, &record, now_ns));
        let tally = Tally::of(before, after, record.count);
        self.summary.total.add(tally);
        let (from, to) = self.parties(workload, &record);
        if before != after {
            let key = (from, to, record.protocol, record.port, before, after);
            let count = if self.changes.len() < Self::MOST_CHANGES || self.changes.contains_key(&key) {
                self.changes.entry(key).or_default()
            } else {
                &mut self.summary.other_changes
            };
            *count = count.saturating_add(record.count);
        }
        let known = self.pairs.len() < Self::MOST_PAIRS || self.pairs.contains_key(&(from, to));
        let pair = if known { (from, to) } else { (Names::OTHERS, Names::OTHERS) };
        self.pairs.entry(pair).or_default().add(tally);
        Ok(())
    }

    /// What came of the records so far.
    pub fn summary(&self) -> Summary {
        let mut summary = self.summary.clone();
        let name = |n: Name| self.names.text(n).to_owned();
        summary.pairs =
            self.pairs.iter().map(|((from, to), tally)| (name(*from), name(*to), *tally)).collect();
        summary.pairs.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
        let changes =
            self.changes.iter().map(|((from, to, protocol, port, before, after), count)| ChangedFlow {
                from: name(*from),
                to: name(*to),
                service: service(*protocol, *port),
                before: verdict_name(*before),
                after: verdict_name(*after),
                count: *count,
            });
        summary.changes = changes.collect();
        summary.changes.sort_by(|a, b| {
            let parts = |c: &ChangedFlow| (c.from.clone(), c.to.clone(), c.service.clone(), c.before);
            b.count.cmp(&a.count).then_with(|| parts(a).cmp(&parts(b)))
        });
        summary
    }

    /// Who opened the flow, and to whom.
    fn parties(&mut self, workload: &str, record: &FlowRecord<'_>) -> (Name, Name) {
        let peer = match &record.peer_name {
            Some(name) => self.names.number(name),
            None => self.names.of_address(self.new.policy, record.peer_address),
        };
        let own = self.names.number(workload);
        match record.direction {
            Direction::Egress => (own, peer),
            Direction::Ingress => (peer, own),
        }
    }
}

/// Number of a name in [`Names`].
type Name = u32;

/// A kind of changed flows: who, to whom, protocol and port, what came and what comes of them.
type ChangeKey = (Name, Name, Protocol, u16, Verdict, Verdict);

/// Names as numbers, so that a record that says nothing new allocates nothing.
struct Names {
    numbers: HashMap<String, Name>,
    texts: Vec<String>,
    addresses: HashMap<IpAddr, Name>,
}

impl Default for Names {
    fn default() -> Self {
        Self { numbers: HashMap::new(), texts: vec!["(others)".to_owned()], addresses: HashMap::new() }
    }
}

impl Names {
    /// Stands for names beyond [`Names::MOST`].
    const OTHERS: Name = 0;
    /// The most names, and the most addresses, that are remembered.
    const MOST: usize = 1 << 16;

    fn number(&mut self, name: &str) -> Name {
        if let Some(known) = self.numbers.get(name) {
            return *known;
        }
        if self.texts.len() >= Self::MOST {
            return Self::OTHERS;
        }
        let number = Name::try_from(self.texts.len()).unwrap_or(Self::OTHERS);
        self.texts.push(name.to_owned());
        self.numbers.insert(name.to_owned(), number);
        number
    }

    fn of_address(&mut self, policy: &Policy, ip: IpAddr) -> Name {
        if let Some(known) = self.addresses.get(&ip) {
            return *known;
        }
        let number = match describe_peer(policy, ip) {
            (Some(name), _) => self.number(name),
            (None, Some(environment)) => self.number(&format!("env:{environment}")),
            (None, None) => self.number("elsewhere"),
        };
        if self.addresses.len() < Self::MOST {
            self.addresses.insert(ip, number);
        }
        number
    }

    fn text(&self, name: Name) -> &str {
        &self.texts[name as usize]
    }
}

fn nanoseconds(record: &FlowRecord<'_>) -> Result<u64, RecordError> {
    let time: jiff::Timestamp =
        record.time.parse().map_err(|_| RecordError::Value("time", record.time.to_string()))?;
    Ok(u64::try_from(time.as_nanosecond()).unwrap_or(0))
}

impl Tally {
    fn of(before: Verdict, after: Verdict, count: u64) -> Self {
        let changed = if before == after { 0 } else { count };
        let tally = Self { changed, ..Self::default() };
        match after {
            Verdict::Allowed => Self { allowed: count, ..tally },
            Verdict::Denied => Self { denied: count, ..tally },
            Verdict::WouldDeny => Self { would_deny: count, ..tally },
        }
    }

    fn add(&mut self, other: Self) {
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

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (from, to, tally) in &self.pairs {
            writeln!(f, "{from} -> {to}: {tally}")?;
        }
        for ChangedFlow { from, to, service, before, after, count } in &self.changes {
            writeln!(f, "~ {from} -> {to} {service}: {before} -> {after} ({count})")?;
        }
        if self.other_changes > 0 {
            writeln!(f, "~ {} more changed flows of other kinds", self.other_changes)?;
        }
        if self.unattributed > 0 {
            writeln!(f, "{} flows of no known workload were left out", self.unattributed)?;
        }
        write!(f, "{} records: {}", self.records, self.total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::policy;

    const SHOP: &str = r#"
[workload.web]
select = { systemd = "web.service" }
[workload.db]
select = { systemd = "db.service" }
[peer.registry]
cidrs = ["192.0.2.0/24"]
[[allow]]
from = "web"
to = ["db", "registry"]
ports = ["tcp/5432"]
"#;

    fn line(verdict: &str, workload: &str, peer: &str, address: &str, port: u16, count: u64) -> String {
        let name = if peer.is_empty() { "null".to_owned() } else { format!("{peer:?}") };
        format!(
            "{{\"time\":\"2026-06-01T00:00:00Z\",\"verdict\":{verdict:?},\"direction\":\"egress\",\"protocol\":\"tcp\",\
             \"workload\":{{\"name\":{workload:?}}},\"peer\":{{\"address\":{address:?},\"port\":{port},\"name\":{name}}},\
             \"service\":\"tcp/{port}\",\"count\":{count}}}"
        )
    }

    #[test]
    fn recorded_verdicts_are_reproduced() {
        let p = policy(SHOP);
        let mut simulation = Simulation::new(&p, None, &Inventory::default());
        for (verdict, workload, peer, address, port) in [
            ("allowed", "web", "db", "127.0.0.1", 5432),
            ("denied", "web", "db", "127.0.0.1", 5433),
            ("allowed", "web", "", "192.0.2.9", 5432),
            ("denied", "db", "web", "127.0.0.1", 80),
            ("allowed", "somebody", "", "9.9.9.9", 80),
        ] {
            simulation.record(&line(verdict, workload, peer, address, port, 2)).unwrap();
        }
        let summary = simulation.summary();
        assert_eq!(summary.total, Tally { allowed: 6, denied: 4, would_deny: 0, changed: 0 });
        assert_eq!(summary.changes, []);
        assert!(summary.to_string().contains("web -> registry: 2 allowed"), "{summary}");
    }

    #[test]
    fn flows_that_fare_otherwise_are_named() {
        let (old, new) = (policy(SHOP), policy(&SHOP.replace("5432", "5433")));
        let mut simulation = Simulation::new(&new, Some(&old), &Inventory::default());
        for _ in 0..3 {
            simulation.record(&line("denied", "web", "db", "127.0.0.1", 5432, 1)).unwrap();
        }
        simulation.record(&line("denied", "web", "db", "127.0.0.1", 5433, 1)).unwrap();
        let found = simulation.summary().to_string();
        assert!(found.contains("~ web -> db tcp/5432: allowed -> denied (3)\n"), "{found}");
        assert!(found.contains("~ web -> db tcp/5433: denied -> allowed (1)\n"), "{found}");
    }

    #[test]
    fn a_record_is_judged_at_its_own_time() {
        let expiring = |time| policy(&SHOP.replace("ports =", &format!("expires = {time}\nports =")));
        for (time, expected) in [("2026-01-01T00:00:00Z", 1), ("2027-01-01T00:00:00Z", 0)] {
            let p = expiring(time);
            let mut simulation = Simulation::new(&p, None, &Inventory::default());
            simulation.record(&line("allowed", "web", "db", "127.0.0.1", 5432, 1)).unwrap();
            assert_eq!(simulation.summary().total.changed, expected, "{time}");
        }
    }

    #[test]
    fn no_count_overflows() {
        let p = policy(SHOP);
        let mut simulation = Simulation::new(&p, None, &Inventory::default());
        for _ in 0..2 {
            simulation.record(&line("denied", "web", "db", "127.0.0.1", 5432, u64::MAX)).unwrap();
        }
        assert_eq!(simulation.summary().total.allowed, u64::MAX);
    }
}

//! What access one policy gives and another does not, read from the compiled tables and not from the text.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    rc::Rc,
};

use bulkhead_common::{Direction, PeerId, Protocol};
use serde::{Deserialize, Serialize};

use crate::{
    compile::{Compiled, compile},
    inventory::Inventory,
    language::{Policy, PortSpan, WorkloadId},
    parties::{Addresses, Alike},
    stand_ins::StandIns,
    steps::Steps,
};

/// What becomes different.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Connections that pass or no longer pass, or for another time, if everything is enforced.
    pub access: Vec<Change>,
    /// Workloads that appear, vanish, are selected otherwise or are taken more or less seriously, in words.
    pub workloads: Vec<String>,
}

/// Connections between two parties that fare alike.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Change {
    /// Who opens them: a workload, or ranges of addresses.
    pub from: String,
    /// To whom.
    pub to: String,
    /// What becomes of them.
    pub change: Access,
    /// To which ports, as `ports` in a rule writes them.
    pub services: Vec<String>,
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// It passes from now on.
    Added,
    /// It no longer passes.
    Removed,
    /// It passes, and until another time.
    Expiry,
}

impl Difference {
    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.access.is_empty() && self.workloads.is_empty()
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for words in &self.workloads {
            writeln!(f, "~ {words}")?;
        }
        for Change { from, to, change, services } in &self.access {
            let (sign, note) = match change {
                Access::Added => ('+', ""),
                Access::Removed => ('-', ""),
                Access::Expiry => ('~', ", until another time"),
            };
            writeln!(f, "{sign} {from} -> {to}: {}{note}", services.join(", "))?;
        }
        Ok(())
    }
}

/// What changes from `old` to `new` on a host, at `now_ns` (nanoseconds since the Unix epoch). Resolvers and DNS names
/// that the inventory has no address for count as somebody all the same, under their names.
pub fn diff(old: &Policy, new: &Policy, inventory: &Inventory, now_ns: u64) -> Difference {
    let stand_ins = StandIns::new([old, new], inventory);
    let inventory = &stand_ins.inventory;
    let mut sides = [Side::new(old, inventory, now_ns), Side::new(new, inventory, now_ns)];
    let names: BTreeSet<_> = [old, new].iter().flat_map(|p| &p.workloads).map(|w| w.name.as_str()).collect();
    let mut access = Vec::new();
    for from in &names {
        for to in names.iter().filter(|to| *to != from) {
            let [before, after] = sides.each_mut().map(|s| s.between(from, to));
            compare(&before, &after, from, to, &mut access);
        }
    }
    for (ranges, classes) in groups(&sides, [old, new], &stand_ins) {
        for name in &names {
            for direction in [Direction::Egress, Direction::Ingress] {
                let mut classes = classes.into_iter();
                let [before, after] = sides.each_mut().map(|s| {
                    let class = classes.next().unwrap_or_default();
                    s.one_end(name, direction, class)
                });
                let (from, to) = match direction {
                    Direction::Egress => (*name, ranges.as_str()),
                    Direction::Ingress => (ranges.as_str(), *name),
                };
                compare(&before, &after, from, to, &mut access);
            }
        }
    }
    access.sort();
    Difference { access, workloads: workloads(old, new, &names) }
}

/// One of the two policies.
struct Side<'p> {
    compiled: Compiled,
    numbers: HashMap<&'p str, WorkloadId>,
    now_ns: u64,
    known: HashMap<(WorkloadId, Direction, PeerId), Rc<Steps<u64>>>,
}

impl<'p> Side<'p> {
    fn new(policy: &'p Policy, inventory: &Inventory, now_ns: u64) -> Self {
        // Owners are numbered by one of the policies and may be others in the other.
        let inventory = Inventory { addresses: BTreeMap::new(), ..inventory.clone() };
        let numbers = policy.workloads.iter().enumerate().map(|(n, w)| (w.name.as_str(), WorkloadId(n)));
        Self {
            compiled: compile(policy, &inventory),
            numbers: numbers.collect(),
            now_ns,
            known: HashMap::new(),
        }
    }

    /// Until when connections from one workload to another pass at both ends.
    fn between(&mut self, from: &str, to: &str) -> Rc<Steps<u64>> {
        let [a, b] = [from, to].map(|name| self.class(name));
        let (egress, ingress) =
            (self.one_end(from, Direction::Egress, b), self.one_end(to, Direction::Ingress, a));
        Rc::new(egress.with(&ingress, u64::min))
    }

    /// Until when connections pass at a workload's end. Who is no workload here is left alone.
    fn one_end(&mut self, name: &str, direction: Direction, class: PeerId) -> Rc<Steps<u64>> {
        let Some(workload) = self.numbers.get(name).copied() else {
            return Rc::new(Steps::new(u64::MAX, []));
        };
        let (compiled, now_ns) = (&self.compiled, self.now_ns);
        let known = self.known.entry((workload, direction, class)).or_insert_with(|| {
            let until = compiled.access(&compiled.endpoints[workload.0], direction, class);
            let current = |until: u64, ()| if until <= now_ns { 0 } else { until };
            Rc::new(until.with(&Steps::new((), []), current))
        });
        Rc::clone(known)
    }

    fn class(&self, name: &str) -> PeerId {
        self.numbers.get(name).map_or(PeerId::NONE, |w| self.compiled.endpoints[w.0].peer)
    }
}

/// Protocol and port are 24 bits.
const LAST_SERVICE: u128 = 0x00ff_ffff;

fn compare(before: &Steps<u64>, after: &Steps<u64>, from: &str, to: &str, changes: &mut Vec<Change>) {
    if before == after {
        return;
    }
    let mut found: BTreeMap<Access, Vec<String>> = BTreeMap::new();
    for (first, last, (old, new)) in before.with(after, |a, b| (a, b)).ranges(LAST_SERVICE) {
        let change = match (old, new) {
            (a, b) if a == b => continue,
            (0, _) => Access::Added,
            (_, 0) => Access::Removed,
            _ => Access::Expiry,
        };
        found.entry(change).or_default().extend(services(first, last));
    }
    let alike = found.into_iter().map(|(change, services)| Change {
        from: from.to_owned(),
        to: to.to_owned(),
        change,
        services,
    });
    changes.extend(alike);
}

/// The protocols and ports from `first` to `last`.
fn services(first: u128, last: u128) -> Vec<String> {
    let split = |n: u128| {
        let [_, protocol, high, low] = u32::try_from(n).unwrap_or(u32::MAX).to_be_bytes();
        (protocol, u16::from_be_bytes([high, low]))
    };
    let ((a, from), (b, to)) = (split(first), split(last));
    if (first, last) == (0, LAST_SERVICE) {
        return vec!["every protocol and port".into()];
    }
    // Whole protocols in between are one range of protocols.
    let mut parts = Vec::new();
    let whole = |p: u8| (p > a || from == 0) && (p < b || to == u16::MAX);
    let mut next = u16::from(a);
    while next <= u16::from(b) {
        let protocol = next.to_be_bytes()[1];
        let run = (protocol..=b).take_while(|p| whole(*p)).count();
        if run > 1 {
            parts.push(format!("ip/{protocol}-{}", usize::from(protocol) + run - 1));
            next += u16::try_from(run).unwrap_or(u16::MAX);
            continue;
        }
        let first = if protocol == a { from } else { 0 };
        let last = if protocol == b { to } else { u16::MAX };
        parts.push(PortSpan { protocol: Protocol(protocol), first, last }.to_string());
        next += 1;
    }
    parts
}

/// Addresses and names that neither policy tells apart, in words, with their classes in both.
fn groups(sides: &[Side<'_>; 2], policies: [&Policy; 2], stand_ins: &StandIns) -> Vec<(String, [PeerId; 2])> {
    let mut groups: BTreeMap<[PeerId; 2], Alike> = BTreeMap::new();
    let mut before = [PeerId::NONE; 2];
    for (first, last) in Addresses::new(policies, &stand_ins.inventory).ranges() {
        let mut classes = sides.each_ref().map(|s| s.compiled.peer(first).class);
        if let Some(name) = stand_ins.name(first) {
            if classes != before {
                groups.entry(classes).or_default().names.push(name.to_owned());
            }
            // As an address it is what its neighbours are.
            classes = before;
        }
        before = classes;
        groups.entry(classes).or_default().add(first, last);
    }
    // One group at most is whoever is in no other: more than one of them would not be told apart.
    let mut scattered = groups.iter().filter(|(_, alike)| alike.is_scattered());
    let rest = match (scattered.next(), scattered.next()) {
        (Some((classes, _)), None) => Some(*classes),
        _ => None,
    };
    let words = |classes, alike: Alike| match rest {
        Some(rest) if rest == classes => {
            alike.names.into_iter().chain(["everybody else".to_owned()]).collect::<Vec<_>>().join(", ")
        }
        _ => alike.in_words(),
    };
    groups.into_iter().map(|(classes, alike)| (words(classes, alike), classes)).collect()
}

fn workloads(old: &Policy, new: &Policy, names: &BTreeSet<&str>) -> Vec<String> {
    let facts = |policy: &Policy, name: &str| {
        let id = policy.workload(name)?;
        let mut selectors: Vec<_> =
            policy.workloads[id.0].selectors.iter().map(|(s, _)| s.to_string()).collect();
        selectors.sort();
        Some((selectors, policy.mode(id)))
    };
    let mut words = Vec::new();
    for name in names {
        match (facts(old, name), facts(new, name)) {
            (None, Some(_)) => words.push(format!("workload {name} appears")),
            (Some(_), None) => words.push(format!("workload {name} vanishes: its processes are left alone")),
            (Some((before, mode)), Some((after, now))) => {
                if before != after {
                    words.push(format!(
                        "workload {name} is {} instead of {}",
                        after.join(", "),
                        before.join(", ")
                    ));
                }
                if mode != now {
                    words.push(format!("workload {name} goes from {} to {}", mode.name(), now.name()));
                }
            }
            (None, None) => {}
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::policy;

    const ENDS: &str = "[workload.a]\nselect = { systemd = \"a.service\" }\n\
                        [workload.b]\nselect = { systemd = \"b.service\" }\n";

    fn allow(from: &str, to: &str, more: &str) -> String {
        format!("[[allow]]\nfrom = {from:?}\nto = {to:?}\n{more}\n")
    }

    fn between(old: &str, new: &str) -> String {
        let [old, new] = [old, new].map(|rules| policy(&format!("{ENDS}{rules}")));
        diff(&old, &new, &Inventory::default(), 1_800_000_000_000_000_000).to_string()
    }

    #[test]
    fn access_is_compared_and_not_text() {
        let range = allow("a", "b", "ports = [\"tcp/8000-8003\"]");
        let split = allow("a", "b", "ports = [\"tcp/8002-8003\", \"tcp/8000\"]")
            + &allow("a", "b", "ports = [\"tcp/8001\"]");
        assert_eq!(between(&range, &split), "");
        assert_eq!(
            between(
                &allow("a", "10.0.0.0/8", ""),
                &(allow("a", "10.0.0.0/9", "") + &allow("a", "10.128.0.0/9", ""))
            ),
            ""
        );
    }

    #[test]
    fn what_is_added_and_removed_is_named() {
        let one = allow("a", "b", "ports = [\"tcp/80\"]");
        let two = allow("a", "b", "ports = [\"tcp/80\", \"udp/53-54\"]");
        assert_eq!(between(&one, &two), "+ a -> b: udp/53-54\n");
        assert_eq!(between(&two, &one), "- a -> b: udp/53-54\n");
        assert_eq!(
            between("", &allow("a", "192.0.2.0/24", "")),
            "+ a -> 192.0.2.0/24: every protocol and port\n"
        );
        assert_eq!(between("", &allow("10.0.0.7", "b", "ports = [\"gre\"]")), "+ 10.0.0.7 -> b: gre\n");
        let [closed, open] = ["isolate", "allow"].map(|side| {
            let ends = ENDS.replace("b.service\" }", &format!("b.service\" }}\negress = {side:?}"));
            policy(&format!("{ends}{}", allow("b", "10.0.0.7", "")))
        });
        let opened = diff(&closed, &open, &Inventory::default(), 0).to_string();
        assert_eq!(opened, "+ b -> everybody else: every protocol and port\n");
    }

    #[test]
    fn loopback_is_not_all_of_this_machine() {
        let loopback = "[[allow]]\nfrom = \"a\"\nto = [\"127.0.0.0/8\", \"::1\"]\n";
        assert_eq!(between(loopback, &allow("a", "host", "")), "+ a -> host: every protocol and port\n");
    }

    #[test]
    fn an_end_that_stays_closed_is_no_access() {
        assert_eq!(
            between("", &allow("any", "b", "ports = [\"tcp/80\"]"))
                .lines()
                .filter(|l| l.contains("a -> b"))
                .count(),
            0
        );
    }

    #[test]
    fn whom_only_a_host_knows_is_named() {
        let mirrors = "[peer.mirrors]\nnames = [\"deb.example.org\", \"*.cdn.example.org\"]\n";
        let ports = "ports = [\"udp/53\"]";
        let old = format!("{mirrors}{}", allow("a", "192.0.2.1", ""));
        let new = |to| format!("{old}{}", allow("a", to, ports));
        assert_eq!(between(&old, &new("dns")), "+ a -> dns: udp/53\n");
        assert_eq!(between(&old, &new("mirrors")), "+ a -> deb.example.org, *.cdn.example.org: udp/53\n");
        assert_eq!(between(&new("mirrors"), &old), "- a -> deb.example.org, *.cdn.example.org: udp/53\n");
        assert_eq!(between(&new("mirrors"), &new("mirrors")), "");
        assert_eq!(between("", &allow("a", "0.0.0.0/0", ports)), "+ a -> 0.0.0.0/0: udp/53\n");
    }

    #[test]
    fn times_matter_as_long_as_they_are_not_over() {
        let until = |time| allow("a", "b", &format!("ports = [\"tcp/80\"]\nexpires = {time}"));
        assert_eq!(between("", &until("2026-01-01T00:00:00Z")), "");
        assert_eq!(
            between(&until("2030-01-01T00:00:00Z"), &until("2031-01-01T00:00:00Z")),
            "~ a -> b: tcp/80, until another time\n"
        );
    }

    #[test]
    fn workloads_that_change_are_told() {
        let other = policy(&format!("{}{}", ENDS.replace("b.service", "c.service"), allow("a", "b", "")));
        let old = policy(&format!("{ENDS}{}", allow("a", "b", "")));
        let found = diff(&old, &other, &Inventory::default(), 0);
        assert_eq!(found.to_string(), "~ workload b is systemd c.service instead of systemd b.service\n");
    }
}

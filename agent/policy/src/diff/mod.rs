//! What access one policy gives and another does not, read from the compiled tables and not from the text.

mod side;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt,
};

use bulkhead_common::{Direction, PeerId, Protocol};
use serde::{Deserialize, Serialize};

use self::side::{Side, between, pairs, twins};
use crate::{
    inventory::Inventory,
    language::{Policy, PortSpan},
    parties::{Addresses, Alike},
    steps::Steps,
    unresolved::Roll,
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
    /// Who opens them: workloads, or ranges of addresses.
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
    let names: BTreeSet<_> = [old, new].iter().flat_map(|p| &p.workloads).map(|w| w.name.as_str()).collect();
    let roll = Roll::new([old, new], inventory);
    let [mut before, mut after] = [old, new].map(|policy| Side::new(policy, &roll, inventory, now_ns));
    let mut access = Vec::new();
    let twins = twins(&names, [&before, &after]);
    for (from, to) in pairs(&twins, [&mut before, &mut after]) {
        // Those of one group reach each other, and not themselves.
        if from != to || twins[from].len() > 1 {
            let [a, b] = [twins[from][0], *twins[to].last().unwrap_or(&"")];
            let until = between([&mut before, &mut after], a, b);
            compare(&until[0], &until[1], &twins[from].join(", "), &twins[to].join(", "), &mut access);
        }
    }
    let groups = groups([&before, &after], [old, new], inventory, &roll);
    for twins in &twins {
        let (name, names) = (twins[0], twins.join(", "));
        for direction in [Direction::Egress, Direction::Ingress] {
            let towards: HashSet<_> =
                [&before, &after].map(|side| side.classes(name, direction)).concat().into_iter().collect();
            let [a, b] = [&mut before, &mut after].map(|side| side.one_end(name, direction, PeerId::NONE));
            let all_alike = a == b;
            for (ranges, [old, new]) in &groups {
                // Whom no rule tells apart fares as everybody.
                if all_alike && !towards.contains(old) && !towards.contains(new) {
                    continue;
                }
                let until =
                    [before.by_address(name, direction, *old), after.by_address(name, direction, *new)];
                let (from, to) = match direction {
                    Direction::Egress => (names.as_str(), ranges.as_str()),
                    Direction::Ingress => (ranges.as_str(), names.as_str()),
                };
                compare(&until[0], &until[1], from, to, &mut access);
            }
        }
    }
    access.sort();
    Difference { access, workloads: workloads(old, new, &names) }
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
fn groups(
    sides: [&Side<'_>; 2],
    policies: [&Policy; 2],
    inventory: &Inventory,
    roll: &Roll,
) -> Vec<(String, [PeerId; 2])> {
    let mut groups: BTreeMap<[PeerId; 2], Alike> = BTreeMap::new();
    for who in roll.iter() {
        let classes = sides.map(|side| side.outlook.class(who));
        // Whom no rule names is known by his address alone.
        if classes != [PeerId::NONE; 2] {
            groups.entry(classes).or_default().names.push(roll.name(who).to_owned());
        }
    }
    for (first, last) in Addresses::new(policies, inventory).ranges() {
        let classes = sides.map(|side| side.outlook.compiled.peer(first).class);
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
mod tests;

//! What access one policy gives and another does not, read from the compiled tables and not from the text.

mod everybody;
mod groups;
mod side;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use bulkhead_common::{Direction, PeerId, Protocol};
use serde::{Deserialize, Serialize};

use self::{
    groups::Groups,
    side::{Side, between, open, particular, twins},
};
use crate::{
    inventory::Inventory,
    language::{Policy, PortSpan},
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
    /// Who opens them: workloads, or ranges of addresses. Of very many, some are named and the others counted.
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

impl Access {
    /// From one time until which it passes to another: 0 if it does not.
    fn of(before: u64, after: u64) -> Option<Self> {
        match (before, after) {
            (a, b) if a == b => None,
            (0, _) => Some(Self::Added),
            (_, 0) => Some(Self::Removed),
            _ => Some(Self::Expiry),
        }
    }
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
    let particular = particular(&twins, [&before, &after]);
    for (from, to) in particular.iter().copied() {
        // Those of one group reach each other, and not themselves.
        if from != to || twins[from].len() > 1 {
            let [a, b] = [twins[from][0], *twins[to].last().unwrap_or(&"")];
            let until = between([&mut before, &mut after], a, b);
            compare(&until[0], &until[1], &twins[from].join(", "), &twins[to].join(", "), &mut access);
        }
    }
    let directions = [Direction::Egress, Direction::Ingress];
    let open = directions.map(|direction| open(&twins, direction, [&mut before, &mut after]));
    access.extend(everybody::changes(&twins, &particular, &open));
    let groups = Groups::new([&before, &after], [old, new], inventory, &roll);
    for twins in &twins {
        let (name, names) = (twins[0], twins.join(", "));
        for direction in directions {
            let towards = groups.among([&before, &after].map(|side| side.classes(name, direction)));
            // Whom no rule tells apart fares as everybody.
            let [a, b] = [&mut before, &mut after].map(|side| side.one_end(name, direction, PeerId::NONE));
            let rest = if a == b { None } else { groups.all_but(&towards) };
            let rest = rest.as_deref().map(|words| (words, [PeerId::NONE; 2]));
            for (ranges, [old, new]) in towards.iter().map(|group| groups.get(*group)).chain(rest) {
                let until = [before.by_address(name, direction, old), after.by_address(name, direction, new)];
                let (from, to) = match direction {
                    Direction::Egress => (&*names, ranges),
                    Direction::Ingress => (ranges, &*names),
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
    for (first, last, change) in before.with(after, Access::of).ranges(LAST_SERVICE) {
        let Some(change) = change else { continue };
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

//! What each of the two policies says of its workloads, and of which pairs of them in particular.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    rc::Rc,
    sync::LazyLock,
};

use bulkhead_common::{Direction, Endpoint, Message, PeerId, Protocol};

use super::everybody::{CLOSED, Open};
use crate::{
    inventory::Inventory,
    language::{Policy, WorkloadId},
    steps::Steps,
    unresolved::{Outlook, Roll},
};

/// The workloads, those together that fare alike in both policies whatever they do.
pub(super) fn twins<'n>(names: &BTreeSet<&'n str>, sides: [&Side<'_>; 2]) -> Vec<Vec<&'n str>> {
    let mut groups: BTreeMap<[Option<Likeness>; 2], Vec<&str>> = BTreeMap::new();
    for name in names {
        groups.entry(sides.map(|side| side.likeness(name))).or_default().push(name);
    }
    groups.into_values().collect()
}

/// The pairs of groups of which one has a rule for the other.
pub(super) fn particular(twins: &[Vec<&str>], sides: [&Side<'_>; 2]) -> BTreeSet<(usize, usize)> {
    let mut pairs = BTreeSet::new();
    for side in sides {
        let mut by_class: HashMap<PeerId, Vec<usize>> = HashMap::new();
        for (n, twins) in twins.iter().enumerate() {
            by_class.entry(side.class(twins[0])).or_default().push(n);
        }
        let of = |class: &PeerId| by_class.get(class).into_iter().flatten().copied();
        for (n, twins) in twins.iter().enumerate() {
            for class in side.classes(twins[0], Direction::Egress) {
                pairs.extend(of(class).map(|to| (n, to)));
            }
            for class in side.classes(twins[0], Direction::Ingress) {
                pairs.extend(of(class).map(|from| (from, n)));
            }
        }
    }
    pairs
}

/// Until when each group's end lets everybody through, before and after. What needs no rule on its way in is told of addresses.
pub(super) fn open(
    twins: &[Vec<&str>],
    direction: Direction,
    mut sides: [&mut Side<'_>; 2],
) -> Vec<Steps<Open>> {
    let open = twins.iter().map(|twins| {
        let [a, b] = sides.each_mut().map(|side| side.one_end(twins[0], direction, PeerId::NONE));
        let both = a.with(&b, |a, b| [a, b]);
        both.with(&ESSENTIAL, |open, essential| if essential { CLOSED } else { open })
    });
    open.collect()
}

/// All that a policy says of a workload: its class, and for each direction its allowlist, if it is isolated.
type Likeness = (PeerId, [Option<Vec<(PeerId, u32, u32, u64)>>; 2]);

/// One of the two policies.
pub(super) struct Side<'p> {
    pub(super) outlook: Outlook,
    numbers: HashMap<&'p str, WorkloadId>,
    now_ns: u64,
    known: HashMap<(WorkloadId, Direction, PeerId), Rc<Steps<u64>>>,
}

impl<'p> Side<'p> {
    pub(super) fn new(policy: &'p Policy, roll: &Roll, inventory: &Inventory, now_ns: u64) -> Self {
        // Owners are numbered by one of the policies and may be others in the other.
        let inventory = Inventory { addresses: BTreeMap::new(), ..inventory.clone() };
        let numbers = policy.workloads.iter().enumerate().map(|(n, w)| (w.name.as_str(), WorkloadId(n)));
        Self {
            outlook: roll.outlook(policy, &inventory),
            numbers: numbers.collect(),
            now_ns,
            known: HashMap::new(),
        }
    }

    fn endpoint(&self, name: &str) -> Option<&Endpoint> {
        self.numbers.get(name).map(|w| &self.outlook.compiled.endpoints[w.0])
    }

    fn likeness(&self, name: &str) -> Option<Likeness> {
        let local = self.endpoint(name)?;
        let compiled = &self.outlook.compiled;
        let allowlist =
            |direction| local.isolates(direction).then(|| compiled.allowlist(local, direction).collect());
        Some((local.peer, [Direction::Egress, Direction::Ingress].map(allowlist)))
    }

    /// Until when connections from one workload to another pass at both ends.
    fn between(&mut self, from: &str, to: &str) -> Rc<Steps<u64>> {
        let [a, b] = [from, to].map(|name| self.class(name));
        let (egress, ingress) =
            (self.one_end(from, Direction::Egress, b), self.one_end(to, Direction::Ingress, a));
        let both = egress.with(&ingress, u64::min).with(&egress, |both, egress| (both, egress));
        Rc::new(both.with(&ESSENTIAL, |(both, egress), essential| if essential { egress } else { both }))
    }

    /// Until when connections between a workload's end and addresses of a class pass.
    pub(super) fn by_address(&mut self, name: &str, direction: Direction, class: PeerId) -> Rc<Steps<u64>> {
        let until = self.one_end(name, direction, class);
        match direction {
            Direction::Egress => until,
            Direction::Ingress => {
                let essential = |until, is_essential| if is_essential { u64::MAX } else { until };
                Rc::new(until.with(&ESSENTIAL, essential))
            }
        }
    }

    /// Until when connections pass at a workload's end. Who is no workload here is left alone.
    pub(super) fn one_end(&mut self, name: &str, direction: Direction, class: PeerId) -> Rc<Steps<u64>> {
        let Some(workload) = self.numbers.get(name).copied() else {
            return Rc::new(Steps::new(u64::MAX, []));
        };
        let (compiled, now_ns) = (&self.outlook.compiled, self.now_ns);
        let known = self.known.entry((workload, direction, class)).or_insert_with(|| {
            let until = compiled.access(&compiled.endpoints[workload.0], direction, class);
            let current = |until: u64, ()| if until <= now_ns { 0 } else { until };
            Rc::new(until.with(&Steps::new((), []), current))
        });
        Rc::clone(known)
    }

    pub(super) fn class(&self, name: &str) -> PeerId {
        self.endpoint(name).map_or(PeerId::NONE, |end| end.peer)
    }

    /// The classes that a workload's end has rules for.
    pub(super) fn classes(&self, name: &str, direction: Direction) -> &[PeerId] {
        self.endpoint(name).map_or(&[], |local| self.outlook.compiled.classes(local, direction))
    }
}

/// What IP does not work without, and so needs no rule on its way in.
static ESSENTIAL: LazyLock<Steps<bool>> = LazyLock::new(|| {
    let messages = [Protocol::ICMP, Protocol::ICMPV6]
        .into_iter()
        .flat_map(|protocol| (0..=u16::MAX).map(move |kind| Message::arriving(protocol, kind)));
    let number = |m: Message| u128::from(m.protocol.0) << 16 | u128::from(m.kind);
    let essential = messages.filter(Message::is_essential).map(|m| (number(m), number(m), true));
    Steps::new(false, essential)
});

/// Until when connections from one workload to another pass, before and after. Of what needs no rule on its way in, what the
/// opener may send to everybody is told of everybody: there it is as before.
pub(super) fn between(sides: [&mut Side<'_>; 2], from: &str, to: &str) -> [Steps<u64>; 2] {
    let [(a, before), (b, after)] =
        sides.map(|side| (side.one_end(from, Direction::Egress, PeerId::NONE), side.between(from, to)));
    let everybody =
        a.with(&b, |a, b| (a, b)).with(&ESSENTIAL, |change, essential| essential.then_some(change));
    let after = before
        .with(&after, |a, b| (a, b))
        .with(&everybody, |change, everybody| if everybody == Some(change) { change.0 } else { change.1 });
    [Steps::clone(&before), after]
}

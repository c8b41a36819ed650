//! The compiled tables, asked through the verdict function, against the reference read word by word.
//!
//! Failing seeds are kept in `main.regressions` beside this file and tried first.

mod answers;
mod edits;
mod reference;

use std::{collections::BTreeSet, net::IpAddr};

use bulkhead_common::{Direction, Reason, RuleId, SubjectId, Verdict};
use bulkhead_policy::{Access, Compiled, Connection, Inventory, Party, Policy, WorkloadId, compile, diff};
use bulkhead_worlds::{self as worlds, Packet, World};
use proptest::{
    prelude::*,
    test_runner::{Config, FileFailurePersistence},
};

/// Worlds a run, so that packets are 120,000; each with [`worlds::PACKETS`] packets.
const WORLDS: u32 = 2_000;

fn config(worlds: u32) -> Config {
    Config {
        cases: worlds,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        max_shrink_iters: 20_000,
        ..Config::default()
    }
}

/// Does it pass at both ends?
fn passes(compiled: &Compiled, connection: &Connection, now_ns: u64) -> bool {
    let &Connection { from, to, protocol, port } = connection;
    [(Direction::Egress, from, to), (Direction::Ingress, to, from)].into_iter().all(
        |(direction, own, far)| {
            let Party::Workload(local) = own else { return true };
            let (socket, address) = match far {
                Party::Workload(w) => (Some(w), None),
                Party::Address(ip) => (None, Some(ip)),
                Party::Unresolved(_) => (None, None),
            };
            let packet = Packet { local, socket, address, direction, protocol, port, now_ns };
            answers::is_essential(&packet) || packet.decision(compiled).verdict == Verdict::Allowed
        },
    )
}

#[track_caller]
fn agree(
    policy: &Policy,
    inventory: &Inventory,
    compiled: &Compiled,
    packet: &Packet,
) -> Result<(), TestCaseError> {
    let found = packet.decision(compiled);
    let expected = reference::evaluate(policy, inventory, packet);
    prop_assert_eq!((found.verdict, found.reason), (expected.verdict, expected.reason), "{:?}", packet);
    if matches!(found.reason, Reason::Rule | Reason::Expired) {
        prop_assert!(
            expected.rules.contains(&(found.rule.0 as usize)),
            "{:?} names rule {:?}",
            packet,
            found.rule
        );
    } else {
        prop_assert_eq!(found.rule, RuleId::NONE);
    }
    Ok(())
}

proptest! {
    #![proptest_config(config(WORLDS))]

    #[test]
    fn the_tables_say_what_the_reference_says(world in worlds::world()) {
        let policy = world.policy();
        let inventory = world.inventory();
        let compiled = compile(&policy, &inventory);
        for packet in &world.packets {
            agree(&policy, &inventory, &compiled, packet)?;
        }
    }
}

proptest! {
    #![proptest_config(config(WORLDS / 10))]

    /// Workloads are declared in the order of their names here, so that their numbers stay what they are.
    #[test]
    fn the_order_of_rules_and_files_changes_no_verdict(world in worlds::world()) {
        let (policy, inventory) = (world.policy(), world.inventory());
        let compiled = compile(&policy, &inventory);
        let turned = world.with_rules(world.rules.iter().rev());
        let split = turned.policy_of_two_files();
        for other in [turned.policy(), split] {
            let recompiled = compile(&other, &inventory);
            for packet in &world.packets {
                let (a, b) = (packet.decision(&compiled), packet.decision(&recompiled));
                prop_assert_eq!((a.verdict, a.reason), (b.verdict, b.reason), "{:?}", packet);
            }
        }
    }

    #[test]
    fn the_order_of_names_changes_no_verdict(world in worlds::world()) {
        let (policy, inventory) = (world.policy(), world.inventory());
        let backwards = world.policy_backwards();
        let other = |WorkloadId(n)| backwards.workload(&format!("w{n}")).expect("the same workloads");
        let owners = inventory.addresses.iter().map(|(ip, owner)| (*ip, owner.map(other)));
        let turned = Inventory { addresses: owners.collect(), ..inventory.clone() };
        prop_assert_eq!(other(WorkloadId(0)), WorkloadId(worlds::WORKLOADS - 1), "numbered otherwise");
        let (compiled, recompiled) = (compile(&policy, &inventory), compile(&backwards, &turned));
        for packet in &world.packets {
            let same = Packet { local: other(packet.local), socket: packet.socket.map(other), ..*packet };
            let (a, b) = (packet.decision(&compiled), same.decision(&recompiled));
            prop_assert_eq!((a.verdict, a.reason), (b.verdict, b.reason), "{:?}", packet);
        }
    }

    #[test]
    fn one_more_allow_refuses_nothing_that_was_allowed(world in worlds::world(), rule in worlds::rule()) {
        let inventory = world.inventory();
        let compiled = compile(&world.policy(), &inventory);
        let more = world.with_rules(world.rules.iter().chain([&rule]));
        let recompiled = compile(&more.policy(), &inventory);
        for packet in &world.packets {
            if packet.decision(&compiled).verdict == Verdict::Allowed {
                prop_assert_eq!(packet.decision(&recompiled).verdict, Verdict::Allowed, "{:?}", packet);
            }
        }
    }

    #[test]
    fn the_same_input_gives_the_same_tables(world in worlds::world()) {
        let (policy, inventory) = (world.policy(), world.inventory());
        let (a, b) = (compile(&policy, &inventory), compile(&world.policy(), &inventory));
        prop_assert_eq!(&a.policy, &b.policy);
        prop_assert_eq!(&a.peers, &b.peers);
        prop_assert_eq!(&a.endpoints, &b.endpoints);
    }

    #[test]
    fn an_address_is_what_the_longest_entry_says(world in worlds::world()) {
        let compiled = compile(&world.policy(), &world.inventory());
        for packet in &world.packets {
            let Some(ip) = packet.address else { continue };
            let address = bulkhead_common::Address::from(ip);
            let bits = |a: bulkhead_common::Address| u128::from_be_bytes(a.octets());
            let covering = compiled.peers.iter().filter(|(first, len, _)| {
                *len == 0 || (bits(*first) ^ bits(address)) >> (128 - len) == 0
            });
            let longest = covering.max_by_key(|(_, len, _)| *len).map(|(_, _, entry)| *entry);
            prop_assert_eq!(longest.unwrap_or_default(), compiled.peer(address));
            prop_assert!(longest.is_none_or(|e| e.subject != SubjectId::UNIDENTIFIED));
        }
    }
}

proptest! {
    #![proptest_config(config(WORLDS / 20))]

    #[test]
    fn policies_differ_exactly_if_a_connection_tells_them_apart(
        world in worlds::world(),
        rule in worlds::rule(),
        declared in worlds::world(),
    ) {
        let less = world.with_rules(world.rules.iter().skip(1));
        let more = world.with_rules(world.rules.iter().chain([&rule]));
        let elsewhere = world.with_declarations_of(&declared);
        let mut inventory = Inventory { addresses: [].into(), ..world.inventory() };
        // What the host does not know counts in a difference and cannot be asked for.
        let unknown: BTreeSet<IpAddr> = [[240, 9, 9, 9].into()].into();
        for name in worlds::NAMES {
            inventory.names.entry(name.to_owned()).or_default();
        }
        for known in inventory.names.values_mut().chain([&mut inventory.resolvers]).filter(|k| k.is_empty()) {
            known.clone_from(&unknown);
        }
        let now_ns = world.packets[0].now_ns;
        for other in [less, more, elsewhere] {
            let (old, new) = (world.policy(), other.policy());
            let found = diff(&old, &new, &inventory, now_ns);
            let (a, b) = (compile(&old, &inventory), compile(&new, &inventory));
            let differs = |connection: &Connection| {
                passes(&a, connection, now_ns) != passes(&b, connection, now_ns)
            };
            let told_apart = worlds::connections(&inventory).find(differs);
            let now: Vec<_> = found.access.iter().filter(|c| c.change != Access::Expiry).collect();
            prop_assert_eq!(told_apart.is_none(), now.is_empty(), "{:?} {:?}\n{:?}", told_apart, now, other);
            // And of workloads exactly these are named. What needs no rule on its way in may be told of everybody.
            let pairs = worlds::connections(&inventory).filter_map(|connection| {
                let Connection { from, to, protocol, port } = connection;
                let (Party::Workload(from), Party::Workload(to)) = (from, to) else { return None };
                let direction = Direction::Ingress;
                let arriving = Packet { local: to, socket: Some(from), address: None, direction, protocol, port, now_ns };
                let pair = (from.0, to.0, answers::is_essential(&arriving));
                (from != to && differs(&connection)).then_some(pair)
            });
            let workloads = |words: &str| -> Vec<usize> {
                words.split(", ").filter_map(|name| Some(old.workload(name)?.0)).collect()
            };
            let named = now.iter().flat_map(|change| {
                let to = workloads(&change.to);
                let pairs = workloads(&change.from).into_iter().flat_map(move |a| to.clone().into_iter().map(move |b| (a, b)));
                pairs.filter(|(from, to)| from != to)
            });
            let (pairs, named): (BTreeSet<_>, BTreeSet<_>) = (pairs.collect(), named.collect());
            let is_known = |(from, to): &(usize, usize)| [false, true].map(|e| pairs.contains(&(*from, *to, e)));
            prop_assert!(named.iter().all(|pair| is_known(pair).contains(&true)), "{:?}\n{:?}\n{:?}", pairs, now, other);
            let all_named = pairs.iter().all(|(from, to, essential)| *essential || named.contains(&(*from, *to)));
            prop_assert!(all_named, "{:?}\n{:?}\n{:?}", pairs, now, other);
        }
    }
}

/// The reference itself, on cases whose answers are plain.
#[test]
fn the_reference_knows_plain_cases() {
    let world = World::shop();
    let (policy, inventory) = (world.policy(), Inventory::default());
    let ask = |local: usize, direction, socket: usize, port| {
        let packet = Packet {
            local: WorkloadId(local),
            socket: Some(WorkloadId(socket)),
            address: Some([127, 0, 0, 1].into()),
            direction,
            protocol: bulkhead_common::Protocol::TCP,
            port,
            now_ns: 0,
        };
        reference::evaluate(&policy, &inventory, &packet).verdict
    };
    assert_eq!(ask(0, Direction::Egress, 1, 443), Verdict::Allowed);
    assert_eq!(ask(1, Direction::Ingress, 0, 443), Verdict::Allowed);
    assert_eq!(ask(0, Direction::Egress, 1, 80), Verdict::Denied);
    assert_eq!(ask(1, Direction::Egress, 0, 443), Verdict::Denied);
}

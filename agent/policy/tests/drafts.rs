//! Rules drafted from refusals, in random worlds.

use bulkhead_common::{Direction, Reason, Verdict};
use bulkhead_policy::{
    Compiled, Inventory, NoDraft, OneEnd, Source, WorkloadId, compile, draft, load, service,
};
use bulkhead_worlds::{self as worlds, Packet};
use proptest::{
    prelude::*,
    test_runner::{Config, FileFailurePersistence},
};

fn config() -> Config {
    Config {
        cases: 150,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..Config::default()
    }
}

fn end(packet: &Packet) -> OneEnd {
    OneEnd {
        own: packet.local,
        direction: packet.direction,
        peer: packet.socket,
        peer_address: packet.address.expect("every packet of a world has one").into(),
        protocol: packet.protocol,
        port: packet.port,
    }
}

/// All that the far end is to rules that name one workload or one address.
fn far(packet: &Packet, inventory: &Inventory) -> Vec<String> {
    let workload = |WorkloadId(n)| format!("w{n}");
    if let Some(socket) = packet.socket {
        return vec![workload(socket)];
    }
    let owner = packet.address.and_then(|address| inventory.addresses.get(&address).copied().flatten());
    owner.map(workload).into_iter().chain(packet.address.map(|address| address.to_string())).collect()
}

/// Is a packet of the kind that a rule for another one is about, at the one end or at the other?
fn is_alike(packet: &Packet, one: &Packet, inventory: &Inventory) -> bool {
    let ends = |packet: &Packet| {
        let WorkloadId(own) = packet.local;
        let (own, far) = (vec![format!("w{own}")], far(packet, inventory));
        if packet.direction == Direction::Egress { (own, far) } else { (far, own) }
    };
    let share = |a: &[String], b: &[String]| a.iter().any(|name| b.contains(name));
    let ((from, to), (one_from, one_to)) = (ends(packet), ends(one));
    share(&from, &one_from)
        && share(&to, &one_to)
        && service(packet.protocol, packet.port) == service(one.protocol, one.port)
}

fn passes(compiled: &Compiled, packet: &Packet) -> bool {
    compiled.decide(&end(packet), packet.now_ns).verdict == Verdict::Allowed
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_drafted_rule_allows_what_was_refused_and_nothing_else(world in worlds::world()) {
        let (sources, inventory) = (world.sources(), world.inventory());
        let before = compile(&world.policy(), &inventory);
        for packet in world.packets.iter().take(8) {
            let refusal = before.decide(&end(packet), packet.now_ns);
            let drafted = draft(&sources, &inventory, &end(packet), packet.now_ns);
            let text = match (drafted, refusal.verdict, refusal.reason) {
                (Ok(draft), Verdict::Denied | Verdict::WouldDeny, _) => draft.text,
                (Err(NoDraft::Allowed), Verdict::Allowed, _) => continue,
                (Err(NoDraft::NoMatterOfRules(_)), _, reason) if !matches!(reason, Reason::NoRule | Reason::Expired) => {
                    continue;
                }
                // No rule names it by itself.
                (Err(NoDraft::Refused(_)), ..) if packet.protocol.has_ports() && packet.port == 0 => continue,
                (drafted, ..) => return Err(TestCaseError::fail(format!("{refusal:?}: {drafted:?}, {packet:?}"))),
            };
            let more: Vec<_> = sources.iter().cloned().chain([Source::new("draft", text.clone())]).collect();
            let loaded = load(&more);
            prop_assert!(loaded.is_ok(), "{}", text);
            let after = compile(&loaded.unwrap().policy, &inventory);
            prop_assert!(passes(&after, packet), "{:?}\n{}", packet, text);
            for other in &world.packets {
                let asked_now = Packet { now_ns: packet.now_ns, ..*other };
                if passes(&after, &asked_now) && !passes(&before, &asked_now) {
                    prop_assert!(is_alike(&asked_now, packet, &inventory), "{:?}\n{}", asked_now, text);
                }
            }
        }
    }
}

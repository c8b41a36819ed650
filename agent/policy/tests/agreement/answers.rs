//! What `explain`, `test` and `simulate` say of a policy against the reference: of workloads, of addresses, of the host and its
//! resolvers, and of what needs no rule.

use std::{
    fmt::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use bulkhead_common::{Direction, Protocol, Verdict};
use bulkhead_policy::{
    Inventory, Policy, Simulation, Source, WorkloadId, ask, load, protocol_name, run_tests, service,
};
use bulkhead_worlds::{self as worlds, Packet, World};
use proptest::prelude::*;

use super::{WORLDS, config, reference};

/// Is it what IP does not work without, on its way in?
pub(crate) fn is_essential(packet: &Packet) -> bool {
    let [kind, code] = packet.port.to_be_bytes();
    let is_known = match packet.protocol {
        Protocol::ICMP => (kind, code) == (3, 4),
        Protocol::ICMPV6 => kind == 2 || (133..=137).contains(&kind),
        _ => false,
    };
    is_known && packet.direction == Direction::Ingress
}

/// What the kernel does at this end of a packet.
fn verdict(policy: &Policy, inventory: &Inventory, packet: &Packet) -> Verdict {
    if is_essential(packet) {
        return Verdict::Allowed;
    }
    reference::evaluate(policy, inventory, packet).verdict
}

/// An end of a question, as it is written.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Workload(WorkloadId),
    Address(IpAddr),
}

impl End {
    fn text(self) -> String {
        match self {
            Self::Workload(WorkloadId(w)) => format!("w{w}"),
            Self::Address(ip) => ip.to_string(),
        }
    }
}

/// Does the connection pass at both ends?
fn passes(policy: &Policy, from: End, to: End, packet: &Packet) -> bool {
    let inventory = Inventory::default();
    let at = |own, direction, far| {
        let End::Workload(local) = own else { return true };
        let (socket, address) = match far {
            End::Workload(w) => (Some(w), None),
            End::Address(ip) => (None, Some(ip)),
        };
        let packet = Packet { local, direction, socket, address, ..*packet };
        verdict(policy, &inventory, &packet) == Verdict::Allowed
    };
    let both = |far_of_from, far_of_to| {
        at(from, Direction::Egress, far_of_from) && at(to, Direction::Ingress, far_of_to)
    };
    // connect() of Linux takes the unspecified address for loopback.
    let reached = match to {
        End::Address(IpAddr::V4(Ipv4Addr::UNSPECIFIED)) => End::Address(Ipv4Addr::LOCALHOST.into()),
        End::Address(IpAddr::V6(Ipv6Addr::UNSPECIFIED)) => End::Address(Ipv6Addr::LOCALHOST.into()),
        other => other,
    };
    let here = End::Address(Ipv4Addr::LOCALHOST.into());
    let are_workloads = matches!((from, to), (End::Workload(_), End::Workload(_)));
    let sockets_tell = matches!(packet.protocol, Protocol::TCP | Protocol::UDP);
    both(reached, from) || (are_workloads && !sockets_tell && both(here, here))
}

/// Who is at the ends of a world's packet, if they are two.
fn ends(packet: &Packet) -> Option<(End, End)> {
    let own = End::Workload(packet.local);
    let far = packet.socket.map(End::Workload).or(packet.address.map(End::Address))?;
    (own != far).then_some(match packet.direction {
        Direction::Egress => (own, far),
        Direction::Ingress => (far, own),
    })
}

/// The line that the agent would write of a packet, with what the host knows of the other end.
fn record(policy: &Policy, inventory: &Inventory, packet: &Packet) -> String {
    let verdict = match verdict(policy, inventory, packet) {
        Verdict::Allowed => "allowed",
        Verdict::Denied => "denied",
        Verdict::WouldDeny => "would-deny",
    };
    let peer = match (packet.socket, packet.address) {
        (Some(WorkloadId(w)), _) => format!(r#""name":"w{w}","is":["w{w}"],"like":null"#),
        (None, Some(ip)) => {
            let host = ip.is_loopback() || (inventory.local.contains(&ip) && !ip.is_unspecified());
            let known = [("dns", inventory.resolvers.contains(&ip)), ("host", host)];
            let known: Vec<_> = known.iter().filter(|(_, is)| *is).map(|(end, _)| *end).collect();
            format!(r#""name":null,"is":{known:?},"like":"{ip}""#)
        }
        (None, None) => unreachable!("every packet of a world has an address"),
    };
    format!(
        r#"{{"time":"{}","verdict":"{verdict}","direction":"{}","protocol":"{}","service":"{}","workload":{{"name":"w{}"}},"peer":{{"address":null,{peer}}}}}"#,
        jiff::Timestamp::from_nanosecond(packet.now_ns.into()).expect("a time"),
        if packet.direction == Direction::Egress { "egress" } else { "ingress" },
        protocol_name(packet.protocol),
        service(packet.protocol, packet.port),
        packet.local.0,
    )
}

fn with_tests(world: &World, tests: &str) -> Policy {
    let [source] = world.sources();
    load(&[Source::new("p", source.text.to_string() + tests)]).expect("a policy").policy
}

proptest! {
    #![proptest_config(config(WORLDS / 8))]

    #[test]
    fn explain_says_what_the_reference_says(world in worlds::world()) {
        let policy = world.policy();
        for packet in &world.packets {
            let Some((from, to)) = ends(packet) else { continue };
            let [a, b] = [from, to].map(|end| policy.whom(&end.text()).expect("an end"));
            let services = [(packet.protocol, packet.port)];
            let answers = ask(&policy, &[&policy], &a, &b, &services, packet.now_ns).expect("one connection");
            let [answer] = &answers[..] else { return Err(TestCaseError::fail(format!("{answers:?}"))) };
            let words = answer.in_words(&policy);
            let expected = passes(&policy, from, to, packet);
            prop_assert_eq!(answer.explanation.verdict() == Verdict::Allowed, expected, "{:?}: {}", packet, words);
            // "which differs in" what?
            prop_assert!(!words.lines().any(|line| line.ends_with("differs in ")), "{}", words);
        }
    }

    #[test]
    fn tests_pass_as_the_reference_says(world in worlds::world()) {
        let policy = world.policy();
        let now_ns = world.packets[0].now_ns;
        let mut tests = String::new();
        for (n, packet) in world.packets.iter().enumerate() {
            let packet = Packet { now_ns, ..*packet };
            // No policy names port 0 by itself.
            let is_named = packet.port != 0 || !packet.protocol.has_ports();
            let Some((from, to)) = ends(&packet).filter(|_| is_named) else { continue };
            let passes = passes(&policy, from, to, &packet);
            // Every other one expects what does not come.
            let expect = if passes == (n % 2 == 0) { "allow" } else { "deny" };
            let (from, to, port) = (from.text(), to.text(), service(packet.protocol, packet.port));
            let _ = writeln!(
                tests,
                "[[test]]\nname = \"{n}\"\nfrom = {from:?}\nto = {to:?}\nport = {port:?}\nexpect = {expect:?}"
            );
        }
        for result in run_tests(&with_tests(&world, &tests), &Inventory::default(), now_ns) {
            let number: usize = result.name.parse().expect("a number");
            prop_assert_eq!(result.passed, number.is_multiple_of(2), "{:?} {:?}", world.packets[number], result);
        }
    }

    #[test]
    fn what_the_agent_records_is_what_simulate_says(world in worlds::world()) {
        let policy = world.policy();
        let inventory =
            Inventory { addresses: [].into(), names: [].into(), ..world.inventory() };
        let mut simulation = Simulation::new(&policy, None, &Inventory::default());
        let mut lines = Vec::new();
        for packet in &world.packets {
            // By other protocols nobody can tell whose socket it is.
            let sockets_tell = matches!(packet.protocol, Protocol::TCP | Protocol::UDP);
            let packet = Packet { socket: packet.socket.filter(|_| sockets_tell), ..*packet };
            let line = record(&policy, &inventory, &packet);
            simulation.record(line.as_bytes()).expect("a record");
            lines.push(line);
        }
        let found = simulation.summary();
        prop_assert_eq!(found.total.changed, 0, "{}\n{}", found, lines.join("\n"));
    }
}

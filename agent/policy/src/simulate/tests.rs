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
        simulation.record(line(verdict, workload, peer, address, port, 2).as_bytes()).unwrap();
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
        simulation.record(line("denied", "web", "db", "127.0.0.1", 5432, 1).as_bytes()).unwrap();
    }
    simulation.record(line("denied", "web", "db", "127.0.0.1", 5433, 1).as_bytes()).unwrap();
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
        simulation.record(line("allowed", "web", "db", "127.0.0.1", 5432, 1).as_bytes()).unwrap();
        assert_eq!(simulation.summary().total.changed, expected, "{time}");
    }
}

#[test]
fn no_count_overflows() {
    let p = policy(SHOP);
    let mut simulation = Simulation::new(&p, None, &Inventory::default());
    for _ in 0..2 {
        simulation.record(line("denied", "web", "db", "127.0.0.1", 5432, u64::MAX).as_bytes()).unwrap();
    }
    assert_eq!(simulation.summary().total.allowed, u64::MAX);
}

/// Flows are judged many at a time, and the rest with the summary.
#[test]
fn every_flow_is_counted_once_whenever_it_is_asked_for() {
    let p = policy(SHOP);
    for flows in [1, Simulation::AT_ONCE, 2 * Simulation::AT_ONCE + 1] {
        let mut simulation = Simulation::new(&p, None, &Inventory::default());
        for n in 0..flows {
            let peer = if n % 2 == 0 { "db" } else { "other" };
            simulation.record(line("denied", "web", peer, "127.0.0.1", 80, 1).as_bytes()).unwrap();
        }
        let summary = simulation.summary();
        let counted: u64 = summary.pairs.iter().map(|(.., tally)| tally.denied).sum();
        assert_eq!((counted, summary.total.denied), (flows as u64, flows as u64));
        assert_eq!(simulation.summary(), summary, "asked again");
    }
}

const KNOWN_BY_THE_HOST: &str = r#"
[workload.web]
select = { systemd = "web.service" }
[workload.db]
select = { systemd = "db.service" }
[peer.mirrors]
names = ["deb.example.org"]
[[allow]]
id = "out"
from = "web"
to = ["dns", "host", "mirrors", "db"]
[[allow]]
id = "in"
from = "host"
to = "db"
"#;

/// A flow as the agent's history tells it.
fn flow(verdict: &str, (direction, workload): (&str, &str), reason: &str, peer: &str) -> String {
    format!(
        "{{\"time\":\"2026-06-01T00:00:00Z\",\"verdict\":{verdict:?},\"direction\":{direction:?},\"protocol\":\"tcp\",\
         \"workload\":{{\"name\":{workload:?}}},\"peer\":{{\"address\":null,{peer}}},\"reason\":{reason:?},\
         \"service\":\"tcp/53\",\"count\":1}}"
    )
}

fn simulated(new: &str, old: Option<&str>, lines: &[String]) -> Summary {
    let (new, old) = (policy(new), old.map(policy));
    let mut simulation = Simulation::new(&new, old.as_ref(), &Inventory::default());
    for line in lines {
        simulation.record(line.as_bytes()).unwrap();
    }
    simulation.summary()
}

/// The flows that only a host can tell who they went to: its resolvers, itself, and who has a DNS name.
fn known_by_the_host() -> Vec<String> {
    [
        (("egress", "web"), r#""name":null,"is":["dns"],"like":"192.168.1.1""#),
        (("egress", "web"), r#""name":null,"is":["host"],"like":"192.168.1.2""#),
        (("egress", "web"), r#""name":"mirrors","is":["mirrors"],"like":"151.101.2.132""#),
        (("egress", "web"), r#""name":"db","is":["db"],"like":null"#),
        (("ingress", "db"), r#""name":null,"is":["host"],"like":"127.0.0.1""#),
    ]
    .map(|(end, peer)| flow("allowed", end, "rule", peer))
    .into()
}

#[test]
fn what_only_the_host_can_tell_is_reproduced() {
    let summary = simulated(KNOWN_BY_THE_HOST, None, &known_by_the_host());
    assert_eq!(summary.total, Tally { allowed: 5, ..Tally::default() });
    let closed = KNOWN_BY_THE_HOST.replace(r#"["dns", "host", "mirrors", "db"]"#, r#""10.0.0.1""#);
    let summary = simulated(&closed, Some(KNOWN_BY_THE_HOST), &known_by_the_host());
    assert_eq!(summary.total, Tally { allowed: 1, denied: 4, changed: 4, ..Tally::default() });
}

#[test]
fn a_workload_that_is_known_by_its_socket_is_named_by_no_address() {
    let wide = KNOWN_BY_THE_HOST.replace(r#""db"]"#, r#""::/0", "0.0.0.0/0"]"#);
    let denied = flow("denied", ("egress", "web"), "no-rule", r#""name":"db","is":[],"like":null"#);
    let at_loopback = line("denied", "web", "db", "127.0.0.1", 53, 1);
    let summary = simulated(&wide, None, &[denied.clone(), at_loopback]);
    assert_eq!(summary.total, Tally { denied: 2, ..Tally::default() });
    // An address that it has to itself names it, too.
    let own_address = denied.replace("\"like\":null", "\"like\":\"172.17.0.2\"");
    assert_eq!(simulated(&wide, None, &[own_address]).total.allowed, 1);
    // Where it is no workload any more, it is somebody on this host.
    let without = KNOWN_BY_THE_HOST
        .replace(r#""mirrors", "db"]"#, r#""mirrors"]"#)
        .replace(".db]", ".other]")
        .replace("to = \"db\"", "to = \"other\"");
    assert_eq!(simulated(&without, None, &[denied]).total.allowed, 1);
}

#[test]
fn where_no_policy_has_a_say_the_verdict_stays() {
    let peer = r#""name":"db","is":["db"],"like":null"#;
    let lines = ["malformed", "forged-source", "socket-memory"]
        .map(|reason| flow("denied", ("ingress", "web"), reason, peer));
    let discovery = flow("allowed", ("egress", "db"), "essential", r#""name":null,"is":[],"like":"fe80::1""#);
    let lines = [&lines[..], &[discovery]].concat();
    let summary = simulated(KNOWN_BY_THE_HOST, None, &lines);
    assert_eq!(summary.total, Tally { allowed: 1, denied: 3, ..Tally::default() });
    let open = KNOWN_BY_THE_HOST.replace("web.service\" }", "web.service\" }\ningress = \"allow\"");
    assert_eq!(simulated(&open, None, &lines[..3]).total.allowed, 3, "nothing is asked of an open side");
}

#[test]
fn flows_of_workloads_that_the_policy_does_not_have_are_told() {
    let summary = simulated(SHOP, None, &[line("allowed", "somebody", "", "9.9.9.9", 80, 7)]);
    assert_eq!((summary.left_alone, summary.total.allowed), (7, 7));
    let words = summary.to_string();
    assert!(words.contains("7 flows are of workloads that the policy does not have"), "{words}");
}

#[test]
fn a_name_makes_no_line_of_its_own() {
    let forged = line("denied", "web", "x\n1 record: 9 allowed", "192.0.2.1", 80, 1);
    let words = simulated(SHOP, None, &[forged]).to_string();
    assert!(words.contains("web -> x\\n1 record") && words.lines().count() == 2, "{words}");
}

#[test]
fn a_record_is_one_whether_or_not_its_time_is_asked_for() {
    let line = line("denied", "web", "db", "127.0.0.1", 80, 1).replace("2026-06-01", "2026-06-31");
    for text in [SHOP.to_owned(), SHOP.replace("ports =", "expires = 2026-01-01T00:00:00Z\nports =")] {
        let p = policy(&text);
        assert!(Simulation::new(&p, None, &Inventory::default()).record(line.as_bytes()).is_err());
    }
}

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

//! Any text as a policy: it is read or explained, and what is read is compiled, tested and put to records.

#![no_main]

use bulkhead_policy::{Inventory, Policy, Simulation, Source, compile, expired_rules, load, run_tests};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    // What follows such a line is a second file: names, rules and mistakes of both are looked at together.
    let (first, second) = text.split_once("\n#---\n").unwrap_or((text, ""));
    let sources = [Source::new("first.toml", first), Source::new("second.toml", second)];
    match load(&sources) {
        Ok(loaded) => {
            let _ = loaded.warnings.render(&sources, true);
            let _ = expired_rules(&loaded.policy, u64::MAX).render(&sources, false);
            compile(&loaded.policy, &Inventory::default());
            run_tests(&loaded.policy, &Inventory::default(), 0);
            put_to_records(&loaded.policy);
        }
        Err(findings) => {
            assert!(findings.has_errors());
            assert!(!findings.render(&sources, true).is_empty());
            assert!(!findings.to_string().is_empty());
        }
    }
});

/// A refusal at each of the first workloads, by an address and by the workload before it.
fn put_to_records(policy: &Policy) {
    let mut simulation = Simulation::new(policy, None, &Inventory::default());
    let names = || policy.workloads.iter().map(|workload| workload.name.as_str());
    let before = std::iter::once("null".to_owned()).chain(names().map(|name| format!("\"{name}\"")));
    for (name, peer) in names().zip(before).take(4) {
        let record = format!(
            "{{\"time\":\"2026-06-01T00:00:00Z\",\"verdict\":\"denied\",\"direction\":\"ingress\",\"protocol\":\"tcp\",\
             \"workload\":{{\"name\":\"{name}\"}},\"peer\":{{\"address\":\"10.0.0.1\",\"port\":443,\"name\":{peer}}},\"service\":\"tcp/443\"}}"
        );
        assert!(simulation.record(record.as_bytes()).is_ok(), "{record}");
    }
    let _ = simulation.summary().to_string();
}

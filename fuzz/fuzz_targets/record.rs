//! Any bytes as a file of recorded flows: a line is a record, read the same in both ways, or an error.

#![no_main]

use std::sync::LazyLock;

use bulkhead_policy::{Inventory, Policy, Simulation, Source, load};
use libfuzzer_sys::fuzz_target;

static POLICY: LazyLock<Policy> = LazyLock::new(|| {
    let text = r#"
        [environment.prod]
        cidrs = ["10.0.0.0/8"]
        [workload.ci]
        select = { cgroup = "/ci.slice/**" }
        [workload.db]
        environment = "prod"
        select = { systemd = "db.service" }
        [[allow]]
        from = "ci"
        to = ["db", "10.0.3.0/24"]
        ports = ["tcp/5432", "icmp"]
        expires = 2026-12-31T00:00:00Z
    "#;
    load(&[Source::new("policy.toml", text)]).map(|loaded| loaded.policy).unwrap_or_default()
});

fuzz_target!(|bytes: &[u8]| {
    let mut simulation = Simulation::new(&POLICY, None, &Inventory::default());
    let (mut records, mut errors) = (0, 0);
    for line in bytes.split(|b| *b == b'\n') {
        match simulation.record(line) {
            Ok(()) => records += 1,
            Err(error) => {
                errors += 1;
                assert!(error.to_string().len() < 500, "{error}");
            }
        }
    }
    let summary = simulation.summary();
    assert_eq!(summary.records, records, "and {errors} errors");
    let _ = summary.to_string();
});

//! What the sinks' tests share.

use jiff::Timestamp;

use crate::{Denial, NearestRule, Peer, Process, Rule, Workload};

/// A refusal of which everything is known but a rule that has expired.
pub(crate) fn denial() -> Denial {
    Denial {
        time: "2026-11-21T20:15:03.123456Z".parse::<Timestamp>().unwrap(),
        verdict: "denied",
        mode: "enforce",
        direction: "egress",
        protocol: "tcp".into(),
        workload: Workload {
            name: Some("ci".into()),
            environment: Some("dev".into()),
            cgroup: Some("/ci.slice/job-7.scope".into()),
            unit: Some("job-7.scope".into()),
        },
        process: Some(Process {
            pid: 4711,
            comm: "cu\"r]l\n".into(),
            exe: Some("/usr/bin/curl".into()),
            uid: 1000,
        }),
        peer: Peer {
            address: Some([10, 0, 3, 7].into()),
            port: Some(5432),
            name: Some("db".into()),
            environment: Some("prod".into()),
        },
        rule: None,
        reason: "no-rule",
        nearest_rule: Some(NearestRule {
            rule: Rule { id: "web-db".into(), file: "shop.toml".into(), line: 31 },
            differs: vec!["from", "ports"],
        }),
        count: 3,
        suppressed: 2,
        generation: 12,
        service: "tcp/5432".into(),
    }
}

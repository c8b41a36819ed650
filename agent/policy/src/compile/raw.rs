//! Of which protocols a workload may have raw sockets: those of the rules that name it, in either direction.
//!
//! A socket is made before anybody knows to whom it will send, so that peers, ports and expiries have no part in it: they
//! are asked of every packet.

use bulkhead_common::Endpoint;

use crate::language::{End, EnvironmentId, Policy, Ports, Rule, WorkloadId};

/// The flags `Endpoint::RAW_*` of each workload.
pub(super) fn flags(policy: &Policy) -> Vec<u32> {
    let mut workloads = vec![0; policy.workloads.len()];
    let mut environments = vec![0; policy.environments.len()];
    for rule in &policy.rules {
        let opened = opened(rule);
        for end in rule.from.iter().chain(&rule.to) {
            match end {
                End::Workload(WorkloadId(w)) => workloads[*w] |= opened,
                End::Environment(EnvironmentId(e)) => environments[*e] |= opened,
                _ => {}
            }
        }
    }
    for (flags, workload) in workloads.iter_mut().zip(&policy.workloads) {
        *flags |= workload.environment.map_or(0, |e| environments[e.0]);
    }
    workloads
}

/// The protocols that a rule opens.
fn opened(rule: &Rule) -> u32 {
    if rule.ports.is_empty() {
        return Endpoint::RAW_ANY;
    }
    let spans = rule.ports.iter().flat_map(Ports::spans);
    // A protocol without a flag is one that only a rule for all opens.
    spans.map(|span| Endpoint::raw_flag(span.protocol) & !Endpoint::RAW_ANY).fold(0, |all, flag| all | flag)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::policy;

    const POLICY: &str = r#"
        [environment.prod]
        [workload.web]
        environment = "prod"
        select = { systemd = "web.service" }
        [workload.db]
        environment = "prod"
        select = { systemd = "db.service" }
        [workload.ci]
        select = { systemd = "ci.service" }
        [workload.router]
        select = { systemd = "router.service" }
        [[allow]]
        from = "web"
        to = "db"
        ports = ["tcp/5432", "icmp/8"]
        [[allow]]
        from = "any"
        to = "env:prod"
        ports = ["udp/53", "sctp/*", "gre"]
        [[allow]]
        from = "192.0.2.1"
        to = "router"
    "#;

    #[test]
    fn a_workload_may_have_raw_sockets_of_the_protocols_of_its_rules() {
        let policy = policy(POLICY);
        let flags = flags(&policy);
        let of = |name: &str| flags[policy.workload(name).unwrap().0];
        let named = Endpoint::RAW_UDP | Endpoint::RAW_SCTP | Endpoint::RAW_TCP;
        // `icmp/8` is an echo request, which ICMPv6 has as well.
        assert_eq!(of("web") & !Endpoint::RAW_ICMPV6, named | Endpoint::RAW_ICMP);
        assert_eq!(of("db"), of("web"));
        assert_eq!((of("ci"), of("router")), (0, Endpoint::RAW_ANY));
    }
}

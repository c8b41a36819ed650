//! DNS names that are of no use to who may not ask what they stand for.

use std::collections::HashSet;

use bulkhead_common::Protocol;

use super::super::{Cidr, End, Mode, Policy, Rule, WorkloadId};
use crate::text::{Code, Diagnostic, Findings};

/// A name can only be reached by who may ask a resolver for its addresses.
pub(super) fn no_way(policy: &Policy, findings: &mut Findings) {
    if policy.peers.iter().all(|p| p.names.is_empty()) {
        return;
    }
    let named = |rule: &Rule| {
        rule.to.iter().find_map(|end| match end {
            End::Peer(p) => policy.peers[*p].names.first(),
            _ => None,
        })
    };
    let asking = policy.rules.iter().filter(|rule| reaches_resolver(policy, rule));
    let asking: HashSet<End> = asking.flat_map(|rule| &rule.from).copied().collect();
    let is_mute = |w: WorkloadId| {
        let workload = &policy.workloads[w.0];
        let environment = workload.environment.map(End::Environment);
        let asks =
            [Some(End::Workload(w)), environment].into_iter().flatten().any(|end| asking.contains(&end));
        !asks && !workload.egress_open && policy.mode(w) != Mode::Off
    };
    let mut mute_members = vec![None; policy.environments.len()];
    for (n, workload) in policy.workloads.iter().enumerate().rev() {
        if let Some(environment) = workload.environment.filter(|_| is_mute(WorkloadId(n))) {
            mute_members[environment.0] = Some(WorkloadId(n));
        }
    }
    for rule in &policy.rules {
        let Some(name) = named(rule) else { continue };
        let mute = rule.from.iter().find_map(|end| match end {
            End::Workload(w) => Some(*w).filter(|w| is_mute(*w)),
            End::Environment(e) => mute_members[e.0],
            _ => None,
        });
        let Some(w) = mute else { continue };
        let who = &policy.workloads[w.0].name;
        let fault = format!("`{who}` may reach `{name}`, and may not ask a resolver for its addresses");
        findings.add(
            Diagnostic::warning(Code::NoWayToDns, &rule.place, fault)
                .help(format!("allow it: from = \"{who}\", to = \"dns\", ports = [\"udp/53\", \"tcp/53\"]")),
        );
    }
}

/// Which addresses resolvers have, only the host knows. A rule for their port is for a resolver, whoever that is; one
/// for every port is if it is for more than somebody of one name or address.
fn reaches_resolver(policy: &Policy, rule: &Rule) -> bool {
    const DNS: u16 = 53;
    let is_asked = rule.ports.iter().any(|p| p.holds(Protocol::UDP, DNS));
    let many = |cidrs: &[Cidr]| cidrs.iter().any(|cidr| is_asked || cidr.first() != cidr.last());
    (is_asked || rule.ports.is_empty())
        && rule.to.iter().any(|end| match end {
            End::Any | End::Host | End::Dns | End::Private | End::Internet => true,
            End::Workload(_) => is_asked,
            End::Environment(e) => is_asked || many(&policy.environments[e.0].cidrs),
            End::Peer(p) => many(&policy.peers[*p].cidrs),
            End::Cidr(cidr) => many(&[*cidr]),
        })
}

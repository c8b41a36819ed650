//! DNS names that are of no use to who may not ask what they stand for, and resolvers that may not be asked.

use std::collections::HashSet;

use bulkhead_common::Protocol;

use super::super::{Cidr, End, Mode, Policy, Rule, WorkloadId};
use crate::text::{Code, Diagnostic, Diagnostics, Findings};

const DNS: u16 = 53;

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
    let is_asked = is_for_dns(rule);
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

/// Does the rule open the port of resolvers by its number?
fn is_for_dns(rule: &Rule) -> bool {
    rule.ports.iter().any(|p| p.holds(Protocol::UDP, DNS))
}

/// Who may ask `dns`, and not the workload that this host asks: rules that name addresses lead to no workload. `is_here`
/// tells who is on this host.
pub fn unnamed_resolvers(policy: &Policy, is_here: impl Fn(WorkloadId) -> bool) -> Diagnostics {
    let mut findings = Findings::default();
    let for_dns = || policy.rules.iter().filter(|rule| is_for_dns(rule));
    let resolvers: HashSet<End> = for_dns()
        .flat_map(|rule| &rule.to)
        .filter(|end| matches!(end, End::Workload(w) if is_here(*w)))
        .copied()
        .collect();
    let openers = |to_everybody: bool| -> HashSet<End> {
        let opened = |end: &End| resolvers.contains(end) || (to_everybody && *end == End::Any);
        for_dns().filter(|rule| rule.to.iter().any(opened)).flat_map(|rule| &rule.from).copied().collect()
    };
    let (asking, admitted) = (openers(true), openers(false));
    let is_deaf = |w: WorkloadId| {
        let workload = &policy.workloads[w.0];
        let own = [Some(End::Workload(w)), workload.environment.map(End::Environment)];
        let own = || own.iter().flatten();
        let asks = workload.egress_open || own().any(|end| asking.contains(end));
        let is_admitted = admitted.contains(&End::Any) || own().any(|end| admitted.contains(end));
        let is_resolver = resolvers.contains(&End::Workload(w));
        policy.mode(w) != Mode::Off && !is_resolver && !(asks && is_admitted) && is_here(w)
    };
    let mut deaf_members = vec![None; policy.environments.len()];
    for (n, workload) in policy.workloads.iter().enumerate().rev() {
        if let Some(environment) = workload.environment.filter(|_| is_deaf(WorkloadId(n))) {
            deaf_members[environment.0] = Some(WorkloadId(n));
        }
    }
    let names = resolvers.iter().map(|end| policy.end_name(*end).to_string());
    let Some(resolver) = names.min() else { return findings.finish() };
    for rule in for_dns().filter(|rule| rule.to.contains(&End::Dns)) {
        let deaf = rule.from.iter().find_map(|end| match end {
            End::Workload(w) => Some(*w).filter(|w| is_deaf(*w)),
            End::Environment(e) => deaf_members[e.0],
            _ => None,
        });
        let Some(w) = deaf else { continue };
        let who = &policy.workloads[w.0].name;
        let fault = format!(
            "`{who}` may ask `dns`, which names no workload, and not `{resolver}`, a workload with the port of resolvers"
        );
        findings.add(
            Diagnostic::warning(Code::DnsIsAWorkload, &rule.place, fault)
                .help(format!("this host asks itself: write to = [\"dns\", \"{resolver}\"]")),
        );
    }
    findings.finish()
}

//! What a policy says and probably does not mean.

mod dns;
mod idle;
mod not_followed;
mod shadowed;
#[cfg(test)]
mod tests;

pub use dns::unnamed_resolvers;

use super::{End, Mode, Policy, Selector, WorkloadId};
use crate::text::{Code, Diagnostic, Diagnostics, Findings};

/// Notes what the author should look at again.
pub(super) fn check(policy: &Policy, findings: &mut Findings) {
    loose_selectors(policy, findings);
    idle::rules(policy, findings);
    shadowed::rules(policy, findings);
    broad_rules(policy, findings);
    workloads_without_rule(policy, findings);
    dns::no_way(policy, findings);
    not_followed::check(policy, findings);
}

/// The rules that hold no more at `now_ns`, in nanoseconds since the Unix epoch.
pub fn expired_rules(policy: &Policy, now_ns: u64) -> Diagnostics {
    let mut findings = Findings::default();
    for rule in policy.rules.iter().filter(|r| r.expires.is_some_and(|end| end <= now_ns)) {
        let fault = format!("rule `{}` has expired and allows nothing", rule.id);
        let help = "remove it, or give it a later `expires`";
        findings.add(Diagnostic::warning(Code::ExpiredRule, &rule.place, fault).help(help));
    }
    findings.finish()
}

/// The workloads that nothing on this host is, as `is_found` tells.
pub fn empty_selectors(policy: &Policy, is_found: impl Fn(WorkloadId) -> bool) -> Diagnostics {
    let mut findings = Findings::default();
    for (n, workload) in policy.workloads.iter().enumerate().filter(|(n, _)| !is_found(WorkloadId(*n))) {
        let Some((selector, at)) = policy.workloads[n].selectors.first() else { continue };
        let fault = format!("nothing on this host is workload `{}` ({selector})", workload.name);
        let help = "its rules hold from its first process on; if it should be running, check the selector";
        findings.add(Diagnostic::warning(Code::EmptySelector, at, fault).help(help));
    }
    findings.finish()
}

/// Whoever may create a cgroup anywhere can satisfy a glob that is bound to no place.
fn loose_selectors(policy: &Policy, findings: &mut Findings) {
    for (selector, at) in policy.workloads.iter().flat_map(|w| &w.selectors) {
        if matches!(selector, Selector::Cgroup(glob) if glob.is_floating()) {
            findings.add(
                Diagnostic::warning(
                    Code::LooseSelector,
                    at,
                    "whoever may create cgroups anywhere can bear this name",
                )
                .help("begin with the slice that it is in, as in \"/ci.slice/**\""),
            );
        }
    }
}

/// A boundary means little if everybody may cross it anywhere.
fn broad_rules(policy: &Policy, findings: &mut Findings) {
    if policy.environments.len() < 2 {
        return;
    }
    for rule in &policy.rules {
        let sides = [(&rule.from, &rule.to), (&rule.to, &rule.from)];
        for (_, bounded) in sides.into_iter().filter(|(everybody, _)| everybody.contains(&End::Any)) {
            let inside = bounded.iter().find(|end| match end {
                End::Environment(_) => true,
                End::Workload(w) => rule.ports.is_empty() && policy.workloads[w.0].environment.is_some(),
                _ => false,
            });
            let Some(inside) = inside else { continue };
            let fault =
                format!("rule `{}` opens {} to every other environment", rule.id, policy.end_name(*inside));
            findings.add(
                Diagnostic::warning(Code::BroadRule, &rule.place, fault)
                    .help("name who is meant instead of `any`, such as `internet`, or name the ports"),
            );
        }
    }
}

fn workloads_without_rule(policy: &Policy, findings: &mut Findings) {
    let mut named = vec![false; policy.workloads.len()];
    let mut named_environments = vec![false; policy.environments.len()];
    for end in policy.rules.iter().flat_map(|r| r.from.iter().chain(&r.to)) {
        match end {
            End::Workload(w) => named[w.0] = true,
            End::Environment(e) => named_environments[e.0] = true,
            _ => {}
        }
    }
    for (n, workload) in policy.workloads.iter().enumerate() {
        let by_environment = workload.environment.is_some_and(|e| named_environments[e.0]);
        let isolated =
            !workload.ingress_open && !workload.egress_open && policy.mode(WorkloadId(n)) != Mode::Off;
        if isolated && !named[n] && !by_environment {
            let fault = format!(
                "no rule names workload `{}`: nobody reaches it, and it reaches nobody",
                workload.name
            );
            findings.add(Diagnostic::warning(Code::WorkloadWithoutRule, &workload.place, fault));
        }
    }
}

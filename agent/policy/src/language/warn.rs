//! What a policy says and probably does not mean.

use std::collections::HashMap;

use bulkhead_common::Protocol;

use super::{
    End, Mode, Policy, Rule, Selector, WorkloadId,
    overlap::{Overlap, ports_cover},
};
use crate::text::{Code, Diagnostic, Diagnostics, Findings};

/// Notes what the author should look at again.
pub(super) fn check(policy: &Policy, findings: &mut Findings) {
    loose_selectors(policy, findings);
    idle_rules(policy, findings);
    shadowed_rules(policy, findings);
    broad_rules(policy, findings);
    workloads_without_rule(policy, findings);
    no_way_to_dns(policy, findings);
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

/// The workloads that `ends` name.
fn workloads<'p>(policy: &'p Policy, ends: &'p [End]) -> impl Iterator<Item = WorkloadId> + 'p {
    (0..policy.workloads.len()).map(WorkloadId).filter(move |w| {
        let environment = policy.workloads[w.0].environment;
        ends.iter().any(|end| match end {
            End::Workload(named) => named == w,
            End::Environment(e) => environment == Some(*e),
            _ => false,
        })
    })
}

fn idle_rules(policy: &Policy, findings: &mut Findings) {
    let left_alone = |w: WorkloadId| policy.mode(w) == Mode::Off;
    let populated: Vec<_> = (0..policy.environments.len())
        .map(|n| policy.workloads.iter().any(|w| w.environment.is_some_and(|e| e.0 == n)))
        .collect();
    // An environment behind interfaces is asked by the router, not by a workload.
    let routed = |ends: &[End]| {
        ends.iter()
            .any(|e| matches!(e, End::Environment(e) if !policy.environments[e.0].interfaces.is_empty()))
    };
    let names_workload = |ends: &[End]| {
        ends.iter().any(|e| match e {
            End::Workload(_) => true,
            End::Environment(e) => populated[e.0],
            _ => false,
        })
    };
    let opens = |ends: &[End], open: fn(&super::Workload) -> bool| {
        workloads(policy, ends).any(|w| !open(&policy.workloads[w.0]) && !left_alone(w))
    };
    let any_open = policy.workloads.iter().enumerate();
    let any_open =
        any_open.into_iter().any(|(n, w)| w.egress_open || w.ingress_open || left_alone(WorkloadId(n)));
    for rule in &policy.rules {
        let (fault, help) = if !names_workload(&rule.from) && !names_workload(&rule.to) {
            if routed(&rule.from) || routed(&rule.to) {
                continue;
            }
            ("neither end is a workload", "name a workload, or an environment that has one, at one end")
        } else if any_open && !opens(&rule.from, |w| w.egress_open) && !opens(&rule.to, |w| w.ingress_open) {
            ("what it opens is open without it", "remove it, or isolate the workload that it names")
        } else {
            continue;
        };
        let fault = format!("rule `{}` opens nothing: {fault}", rule.id);
        findings.add(Diagnostic::warning(Code::IdleRule, &rule.place, fault).help(help));
    }
}

/// The most rules of one end and port that one of as few is compared with: a warning is not worth comparing every rule
/// with every other, end by end.
const MOST_RIVALS: usize = 1_000;

fn shadowed_rules(policy: &Policy, findings: &mut Findings) {
    let overlap = Overlap::new(policy);
    let mut by_from: HashMap<End, Vec<usize>> = HashMap::new();
    for (n, rule) in policy.rules.iter().enumerate() {
        for end in &rule.from {
            by_from.entry(*end).or_default().push(n);
        }
    }
    let covers =
        |wide: &[End], narrow: &[End]| narrow.iter().all(|n| wide.iter().any(|w| overlap.covers(*w, *n)));
    let lasts = |rule: &Rule| rule.expires.unwrap_or(u64::MAX);
    let superfluous = |wide: usize, narrow: usize| {
        let (w, n) = (&policy.rules[wide], &policy.rules[narrow]);
        wide != narrow
            && lasts(w) >= lasts(n)
            // What tells most rules apart at least expense comes first.
            && ports_cover(&w.ports, &n.ports)
            && covers(&w.to, &n.to)
            && covers(&w.from, &n.from)
    };
    for (n, rule) in policy.rules.iter().enumerate() {
        let Some(first) = rule.from.first().copied() else { continue };
        let environment = match first {
            End::Workload(w) => policy.workloads[w.0].environment.map(End::Environment),
            End::Environment(_) => None,
            // Ranges are held by other ranges under other names: only the same end and everybody are looked up.
            _ => Some(End::Any),
        };
        let rivals =
            [Some(first), environment].into_iter().flatten().filter_map(|e| by_from.get(&e)).flatten();
        let size = |r: &Rule| r.from.len() + r.to.len() + r.ports.len();
        let mut steps = MOST_RIVALS * size(rule);
        let pairs = |a: &Rule| {
            a.from.len() * rule.from.len() + a.to.len() * rule.to.len() + a.ports.len() * rule.ports.len()
        };
        let mut rivals = rivals.take(MOST_RIVALS).filter(|w| {
            let needed = pairs(&policy.rules[**w]);
            let enough = needed <= steps;
            steps -= if enough { needed } else { 0 };
            enough
        });
        // Of two that say the same the later one is superfluous.
        let Some(wide) = rivals.find(|w| superfluous(**w, n) && (**w < n || !superfluous(n, **w))) else {
            continue;
        };
        let fault =
            format!("rule `{}` opens nothing that `{}` does not open", rule.id, policy.rules[*wide].id);
        findings.add(
            Diagnostic::warning(Code::ShadowedRule, &rule.place, fault)
                .related(&policy.rules[*wide].place, "opened here already")
                .help("remove it, or narrow the other one"),
        );
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

/// A name can only be reached by who may ask what it stands for.
fn no_way_to_dns(policy: &Policy, findings: &mut Findings) {
    const DNS: u16 = 53;
    let asks = |rule: &Rule| rule.ports.is_empty() || rule.ports.iter().any(|p| p.holds(Protocol::UDP, DNS));
    let named = |rule: &Rule| {
        rule.to.iter().find_map(|end| match end {
            End::Peer(p) => policy.peers[*p].names.first(),
            _ => None,
        })
    };
    if policy.peers.iter().all(|p| p.names.is_empty()) {
        return;
    }
    let mut can_ask = vec![false; policy.workloads.len()];
    for rule in policy.rules.iter().filter(|r| asks(r) && named(r).is_none()) {
        workloads(policy, &rule.from).for_each(|w| can_ask[w.0] = true);
    }
    for rule in &policy.rules {
        let Some(name) = named(rule) else { continue };
        let mut mute = workloads(policy, &rule.from)
            .filter(|w| !can_ask[w.0] && !policy.workloads[w.0].egress_open && policy.mode(*w) != Mode::Off);
        let Some(w) = mute.next() else { continue };
        let who = &policy.workloads[w.0].name;
        let fault = format!("`{who}` may reach `{name}`, and may not ask a resolver for its addresses");
        findings.add(
            Diagnostic::warning(Code::NoWayToDns, &rule.place, fault)
                .help(format!("allow it: from = \"{who}\", to = \"dns\", ports = [\"udp/53\", \"tcp/53\"]")),
        );
    }
}

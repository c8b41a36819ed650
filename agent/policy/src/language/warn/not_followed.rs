//! What a policy may say and no agent does yet.

use super::super::{Policy, Selector};
use crate::text::{Code, Diagnostic, Findings, Place};

/// Once for each kind: it is not a mistake of the policy's.
pub(super) fn check(policy: &Policy, findings: &mut Findings) {
    let by_facts = |s: &Selector| matches!(s, Selector::Container { .. } | Selector::Kubernetes { .. });
    let selected = policy.workloads.iter().filter(|w| w.selectors.iter().any(|(s, _)| by_facts(s)));
    // Who gives addresses as well has done what there is to do.
    let named = policy.peers.iter().filter(|p| !p.names.is_empty() && p.cidrs.is_empty());
    let routed = policy.environments.iter().filter(|e| !e.interfaces.is_empty());
    let mut note = |who: Vec<(&str, &Place)>, what: &dyn Fn(String) -> String, help| {
        let Some((_, first)) = who.first() else { return };
        let fault = what(listed(&who));
        findings.add(Diagnostic::warning(Code::NotFollowed, first, fault).help(help));
    };
    note(
        selected.map(|w| (w.name.as_str(), &w.place)).collect(),
        &|who| format!("no agent follows the container and pod selectors of {who} yet"),
        "their processes are in no workload and left alone: select by systemd or cgroup",
    );
    note(
        named.map(|p| (p.name.as_str(), &p.place)).collect(),
        &|who| format!("no agent resolves the DNS names of {who} yet"),
        "no rule opens anything to a name alone: give addresses as well, in `cidrs`",
    );
    note(
        routed.map(|e| (e.name.as_str(), &e.place)).collect(),
        &|who| format!("no agent watches the interfaces of {who} yet"),
        "what this machine only forwards is let pass: rules hold for its own workloads",
    );
}

/// `a`, `b` and `c`, or how many there are beyond what anybody reads.
fn listed(who: &[(&str, &Place)]) -> String {
    const MOST: usize = 5;
    let mut names: Vec<_> = who.iter().take(MOST).map(|(name, _)| format!("`{name}`")).collect();
    if who.len() > MOST {
        names.push(format!("{} more", who.len() - MOST));
    }
    match names.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => names.concat(),
    }
}

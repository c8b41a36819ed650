//! Rules that contradict a `[[forbid]]`.

use std::collections::HashSet;

use super::{
    Policy, Rule,
    meeting::{Meetings, Unresolved, is_unresolved},
};
use crate::text::{Code, Diagnostic, Findings};

/// The most contradictions that are noted: nobody mends more of them one by one.
const MOST: usize = 10_000;

/// The most rules of which it is noted that a host may prove them wrong.
const MOST_UNPROVED: usize = 100;

/// The most pairs of an unresolved end and a forbid that are looked at: everybody may be everybody among them.
const MOST_PAIRS: usize = 1_000_000;

/// Notes every rule that allows what a forbid rules out, and those that do if somebody whom only a host knows has the
/// addresses for it.
pub(super) fn check(policy: &Policy, findings: &mut Findings) {
    if policy.forbids.is_empty() {
        return;
    }
    let asked = || policy.forbids.iter().flat_map(|f| [(&*f.from, &*f.ports), (&*f.to, &*f.ports)]);
    let forbidden = |unresolved, forbids, room| {
        let mut meetings = Meetings::new(policy, unresolved, asked());
        let mut found = Vec::new();
        for (n, forbid) in policy.forbids.iter().enumerate().take(forbids) {
            let except: HashSet<_> = forbid.except.iter().copied().collect();
            let rules = meetings.rules(&forbid.from, &forbid.to, &forbid.ports);
            let rules = rules.filter(|(rule, ..)| !except.contains(rule));
            found.extend(rules.take(room - found.len()).map(|(rule, from, to)| (n, rule, from, to)));
        }
        found
    };
    let certain = forbidden(Unresolved::Nobody, usize::MAX, MOST);
    for (forbid, rule, from, to) in &certain {
        let (forbid, rule) = (&policy.forbids[*forbid], &policy.rules[*rule]);
        let fault = format!(
            "rule `{}` allows {} to reach {}, which {} forbids",
            rule.id,
            policy.end_name(*from),
            policy.end_name(*to),
            forbid.place,
        );
        let why = forbid
            .reason
            .as_ref()
            .map_or_else(|| "forbidden here".into(), |r| format!("forbidden here: {r}"));
        findings.add(
            Diagnostic::error(Code::Forbidden, &rule.place, fault)
                .label("allowed here")
                .related(&forbid.place, why)
                .help(except(rule)),
        );
    }
    let rules = policy.rules.iter().flat_map(|rule| rule.from.iter().chain(&rule.to));
    let ends = rules.chain(policy.forbids.iter().flat_map(|forbid| forbid.from.iter().chain(&forbid.to)));
    let unresolved = ends.filter(|end| is_unresolved(policy, **end)).count();
    let Some(forbids) = MOST_PAIRS.checked_div(unresolved) else { return };
    let known: HashSet<_> = certain.iter().map(|(forbid, rule, ..)| (*forbid, *rule)).collect();
    let possible = forbidden(Unresolved::Anybody, forbids, certain.len() + MOST_UNPROVED);
    for (forbid, rule, from, to) in possible.into_iter().filter(|found| !known.contains(&(found.0, found.1)))
    {
        let (forbid, rule) = (&policy.forbids[forbid], &policy.rules[rule]);
        let all = [from, to].into_iter().chain(forbid.from.iter().chain(&forbid.to).copied());
        let Some(who) = all.into_iter().find(|end| is_unresolved(policy, *end)) else { continue };
        let who = policy.end_name(who);
        let fault = format!(
            "rule `{}` may allow what {} forbids: only a host knows the addresses of {who}",
            rule.id, forbid.place,
        );
        findings.add(
            Diagnostic::warning(Code::UnprovedForbid, &rule.place, fault)
                .label("allowed here")
                .related(&forbid.place, "forbidden here")
                .help(except(rule)),
        );
    }
}

fn except(rule: &Rule) -> String {
    format!("if this rule may cross, add its id to the forbid: except = [\"{}\"]", rule.id)
}

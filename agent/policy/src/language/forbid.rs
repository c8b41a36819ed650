//! Rules that contradict a `[[forbid]]`.

use std::collections::HashSet;

use super::{
    End, Forbid, Policy, Rule,
    meeting::{Meeting, Meetings, is_unresolved},
};
use crate::text::{Code, Diagnostic, Findings};

/// The most contradictions that are noted: nobody mends more of them one by one.
const MOST: usize = 10_000;

/// The most rules that are noted because a host may prove them wrong.
const MOST_UNPROVED: usize = 100;

/// The most ends and ports of rules that are compared for what only a host can prove: everybody may be everybody among
/// those of whom no address is known.
const MOST_COMPARED: usize = 1_000_000;

/// Notes every rule that allows what a forbid rules out, and those that do if somebody whom only a host knows has the
/// addresses for it.
pub(super) fn check(policy: &Policy, findings: &mut Findings) {
    if policy.forbids.is_empty() {
        return;
    }
    let asked = policy.forbids.iter().flat_map(|f| [(&*f.from, &*f.ports), (&*f.to, &*f.ports)]);
    let mut meetings = Meetings::new(policy, asked);
    contradictions(policy, &mut meetings, findings);
    unproved(policy, &mut meetings, findings);
}

fn contradictions(policy: &Policy, meetings: &mut Meetings<'_>, findings: &mut Findings) {
    let mut noted = 0;
    for (n, forbid) in policy.forbids.iter().enumerate() {
        for (rule, from, to) in against(forbid, meetings, Meeting::Certain, &mut 0) {
            if noted == MOST {
                let after = policy.forbids.len() - n - 1;
                let fault = format!(
                    "{MOST} contradictions are noted: this forbid and {after} after it are looked at no further"
                );
                return findings.add(Diagnostic::error(Code::Forbidden, &forbid.place, fault));
            }
            noted += 1;
            let rule = &policy.rules[rule];
            let fault = format!(
                "rule `{}` allows {} to reach {}, which {} forbids",
                rule.id,
                policy.end_name(from),
                policy.end_name(to),
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
    }
}

fn unproved(policy: &Policy, meetings: &mut Meetings<'_>, findings: &mut Findings) {
    let (mut found, mut compared) = (0, 0);
    let mut not_shown = None;
    for (n, forbid) in policy.forbids.iter().enumerate() {
        if compared > MOST_COMPARED {
            let after = policy.forbids.len() - n - 1;
            let fault = format!(
                "this forbid and {after} after it are not compared with what rules may allow: only a host knows the addresses of \
                 too many"
            );
            findings.add(
                Diagnostic::warning(Code::UnprovedForbid, &forbid.place, fault)
                    .help("put DNS names that mean one thing into one peer, and the ends of such forbids into one forbid"),
            );
            break;
        }
        for (rule, from, to) in against(forbid, meetings, Meeting::Possible, &mut compared) {
            let rule = &policy.rules[rule];
            found += 1;
            if found > MOST_UNPROVED {
                not_shown.get_or_insert(&rule.place);
                continue;
            }
            let mut all = [from, to].into_iter().chain(forbid.from.iter().chain(&forbid.to).copied());
            let who = all.find(|end| is_unresolved(policy, *end)).unwrap_or(to);
            let fault = format!(
                "rule `{}` may allow what {} forbids: only a host knows the addresses of {}",
                rule.id,
                forbid.place,
                policy.end_name(who),
            );
            findings.add(
                Diagnostic::warning(Code::UnprovedForbid, &rule.place, fault)
                    .label("allowed here")
                    .related(&forbid.place, "forbidden here")
                    .help(except(rule)),
            );
        }
    }
    if let Some(first) = not_shown {
        let more = found - MOST_UNPROVED;
        let fault = format!(
            "this rule and others may allow what is forbidden in {more} more cases, which are not shown"
        );
        findings.add(Diagnostic::warning(Code::UnprovedForbid, first, fault));
    }
}

/// The rules that are no exceptions and allow what is forbidden, each with two of its ends that are.
fn against<'a>(
    forbid: &'a Forbid,
    meetings: &'a mut Meetings<'_>,
    meeting: Meeting,
    compared: &'a mut usize,
) -> impl Iterator<Item = (usize, End, End)> {
    let rules = meetings.rules([&forbid.from, &forbid.to], &forbid.ports, meeting, compared);
    let except: HashSet<_> = forbid.except.iter().copied().collect();
    rules.filter(move |(rule, ..)| !except.contains(rule))
}

fn except(rule: &Rule) -> String {
    format!("if this rule may cross, add its id to the forbid: except = [\"{}\"]", rule.id)
}

//! Rules that contradict a `[[forbid]]`.

use super::{
    End, Policy,
    overlap::{Overlap, ports_meet},
};
use crate::text::{Code, Diagnostic, Findings};

/// Notes every rule that allows what a forbid rules out.
pub(super) fn check(policy: &Policy, findings: &mut Findings) {
    let overlap = Overlap::new(policy);
    let common = |ours: &[End], theirs: &[End]| {
        ours.iter().find(|a| theirs.iter().any(|b| overlap.meets(**a, *b))).copied()
    };
    for forbid in &policy.forbids {
        for (n, rule) in policy.rules.iter().enumerate().filter(|(n, _)| !forbid.except.contains(n)) {
            let Some(from) = common(&rule.from, &forbid.from) else { continue };
            let Some(to) = common(&rule.to, &forbid.to) else { continue };
            if !ports_meet(&rule.ports, &forbid.ports) {
                continue;
            }
            let fault = format!(
                "rule `{}` allows {} to reach {}, which {} forbids",
                policy.rules[n].id,
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
                    .help(format!(
                        "if this rule may cross, add its id to the forbid: except = [\"{}\"]",
                        rule.id
                    )),
            );
        }
    }
}

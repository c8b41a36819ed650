//! Rules that contradict a `[[forbid]]`.

use std::collections::HashSet;

use super::{Policy, meeting::Meetings};
use crate::text::{Code, Diagnostic, Findings};

/// The most contradictions that are noted: nobody mends more of them one by one.
const MOST: usize = 10_000;

/// Notes every rule that allows what a forbid rules out.
pub(super) fn check(policy: &Policy, findings: &mut Findings) {
    if policy.forbids.is_empty() {
        return;
    }
    let asked = policy.forbids.iter().flat_map(|f| [(&*f.from, &*f.ports), (&*f.to, &*f.ports)]);
    let mut meetings = Meetings::new(policy, asked);
    let mut room = MOST;
    for forbid in &policy.forbids {
        let except: HashSet<_> = forbid.except.iter().copied().collect();
        let contradicting = meetings.rules(&forbid.from, &forbid.to, &forbid.ports);
        for (n, from, to) in contradicting.filter(|(n, ..)| !except.contains(n)).take(room) {
            room -= 1;
            let rule = &policy.rules[n];
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
                    .help(format!(
                        "if this rule may cross, add its id to the forbid: except = [\"{}\"]",
                        rule.id
                    )),
            );
        }
    }
}

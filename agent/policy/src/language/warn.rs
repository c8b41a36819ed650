//! What a policy says and probably does not mean.

use super::{Policy, Selector};
use crate::text::{Code, Diagnostic, Findings};

/// Notes what the author should look at again.
pub(super) fn check(policy: &Policy, findings: &mut Findings) {
    loose_selectors(policy, findings);
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

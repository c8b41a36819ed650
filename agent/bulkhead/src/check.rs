//! `bulkhead check`.

use std::{fmt::Write, io};

use bulkhead_policy::{Diagnostic, Diagnostics, Severity, expired_rules, load};
use serde_json::json;

use crate::{
    cli::{CheckArguments, Output},
    here,
    input::{self, InputError},
    output::{self, Outcome, plural},
    policy_files,
};

/// Validates a policy and says what is wrong with it.
pub(crate) fn check(arguments: &CheckArguments, output: Output) -> Result<Outcome, InputError> {
    let sources = policy_files::read(&arguments.policy.paths)?;
    let (policy, findings) = match load(&sources) {
        Ok(loaded) => {
            let expired = expired_rules(&loaded.policy, input::now_ns());
            let here = if arguments.host { here::findings(&loaded.policy)? } else { Vec::new() };
            let findings: Vec<Diagnostic> = loaded.warnings.into_iter().chain(expired).chain(here).collect();
            (Some(loaded.policy), findings.into())
        }
        Err(findings) => (None, findings),
    };
    let mut text = String::new();
    match output {
        Output::Json => {
            for finding in &findings {
                text += &output::json(finding);
            }
            if let Some(policy) = &policy {
                let hash = policy.content_hash().to_string();
                text += &output::json(&json!({ "policy_hash": hash }));
            }
        }
        Output::Human => {
            text += &findings.render(&sources, output::color(&io::stdout()));
            if let Some(policy) = &policy {
                let workloads = plural(policy.workloads.len(), "workload");
                let rules = plural(policy.rules.len(), "rule");
                // Writing to a string cannot fail.
                let _ = write!(text, "ok: {workloads}, {rules}, hash {}; ", policy.content_hash().short());
            }
            let [errors, warnings] = [Severity::Error, Severity::Warning].map(|bad| count(&findings, bad));
            let _ = writeln!(text, "{}, {}", plural(errors, "error"), plural(warnings, "warning"));
        }
    }
    let denied = arguments.deny_warnings && !findings.is_empty();
    Ok(Outcome { text, finding: policy.is_none() || denied })
}

fn count(findings: &Diagnostics, severity: Severity) -> usize {
    findings.iter().filter(|finding| finding.severity == severity).count()
}

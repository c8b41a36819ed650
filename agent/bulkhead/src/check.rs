//! `bulkhead check`.

use std::{fmt::Write, io};

use bulkhead_policy::{Diagnostics, Severity, load};

use crate::{
    cli::{CheckArguments, Output},
    output, policy_files,
    policy_files::PolicyFilesError,
};

/// What came of a check.
pub(crate) struct Checked {
    pub(crate) compiles: bool,
    pub(crate) findings: String,
}

/// Validates a policy and says what is wrong with it.
pub(crate) fn check(arguments: &CheckArguments, output: Output) -> Result<Checked, PolicyFilesError> {
    let sources = policy_files::read(&arguments.policy)?;
    let (policy, findings) = match load(&sources) {
        Ok(loaded) => (Some(loaded.policy), loaded.warnings),
        Err(findings) => (None, findings),
    };
    let mut text = String::new();
    match output {
        Output::Json => {
            for finding in &findings {
                text += &output::json(finding);
            }
        }
        Output::Human => {
            text += &findings.render(&sources, output::color(&io::stdout()));
            if let Some(policy) = &policy {
                let workloads = plural(policy.workloads.len(), "workload");
                let rules = plural(policy.rules.len(), "rule");
                // Writing to a string cannot fail.
                let _ = write!(text, "ok: {workloads}, {rules}; ");
            }
            let [errors, warnings] = [Severity::Error, Severity::Warning].map(|bad| count(&findings, bad));
            let _ = writeln!(text, "{}, {}", plural(errors, "error"), plural(warnings, "warning"));
        }
    }
    Ok(Checked { compiles: policy.is_some(), findings: text })
}

fn count(findings: &Diagnostics, severity: Severity) -> usize {
    findings.iter().filter(|finding| finding.severity == severity).count()
}

/// `1 rule`, `2 rules`.
pub(crate) fn plural(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

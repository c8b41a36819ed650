//! `bulkhead check`.

use std::{io, process::ExitCode};

use bulkhead_policy::{Diagnostics, Severity, load};
use serde_json::json;

use crate::{
    cli::{CheckArguments, Output},
    output, policy_files,
    policy_files::PolicyFilesError,
};

/// Validates a policy and says what is wrong with it.
pub(crate) fn check(arguments: &CheckArguments, output: Output) -> Result<ExitCode, PolicyFilesError> {
    let sources = policy_files::read(&arguments.policy)?;
    let (policy, findings) = match load(&sources) {
        Ok(loaded) => (Some(loaded.policy), loaded.warnings),
        Err(findings) => (None, findings),
    };
    let [errors, warnings] = [Severity::Error, Severity::Warning].map(|severity| count(&findings, severity));
    let (workloads, rules) =
        policy.as_ref().map_or((0, 0), |policy| (policy.workloads.len(), policy.rules.len()));
    match output {
        Output::Json => {
            for finding in &findings {
                println!("{}", json!(finding));
            }
        }
        Output::Human => {
            print!("{}", findings.render(&sources, output::color(&io::stdout())));
            let found = format!("{}, {}", plural(errors, "error"), plural(warnings, "warning"));
            if policy.is_some() {
                println!("ok: {}, {}; {found}", plural(workloads, "workload"), plural(rules, "rule"));
            } else {
                println!("{found}");
            }
        }
    }
    Ok(if policy.is_some() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn count(findings: &Diagnostics, severity: Severity) -> usize {
    findings.iter().filter(|finding| finding.severity == severity).count()
}

/// `1 rule`, `2 rules`.
pub(crate) fn plural(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

//! `bulkhead test`.

use std::fmt::Write;

use anstyle::{AnsiColor, Style};
use bulkhead_policy::{Inventory, TestResult, junit, run_tests};
use bulkhead_report::plain;

use crate::{
    cli::{Format, TestArguments},
    input::{self, InputError},
    output::{self, Outcome, plural},
};

const PASSED: Style = AnsiColor::Green.on_default();
const FAILED: Style = AnsiColor::Red.on_default().bold();

/// Runs the policy's own tests.
pub(crate) fn test(arguments: &TestArguments, format: Format, color: bool) -> Result<Outcome, InputError> {
    let policy = input::policy(&arguments.policy.paths)?;
    let results = run_tests(&policy, &Inventory::default(), input::now_ns());
    let text = match format {
        Format::Human if results.is_empty() => {
            "no tests: write what the policy promises as [[test]]s\n".to_owned()
        }
        Format::Human => render(&results, color),
        Format::Json => results.iter().map(output::json).collect(),
        Format::Junit => junit(&results),
    };
    Ok(Outcome { text, finding: results.iter().any(|result| !result.passed) })
}

fn render(results: &[TestResult], color: bool) -> String {
    let paint = |style: Style, word: &str| {
        if color { format!("{style}{word}{style:#}") } else { word.to_owned() }
    };
    let mut text = String::new();
    for TestResult { name, file, line, passed, connections, failures } in results {
        let verdict = if *passed { paint(PASSED, "ok  ") } else { paint(FAILED, "FAIL") };
        let asked = plural(*connections, "connection");
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{verdict} {file}:{line} {} ({asked})", plain(name));
        for failure in failures.iter().flat_map(|failure| failure.lines()) {
            let _ = writeln!(text, "       {}", plain(failure));
        }
    }
    let failed = results.iter().filter(|result| !result.passed).count();
    let _ = writeln!(
        text,
        "{}: {} passed, {failed} failed",
        plural(results.len(), "test"),
        results.len() - failed
    );
    text
}

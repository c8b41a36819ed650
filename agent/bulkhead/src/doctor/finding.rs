//! What a check has found, and how that is printed.

use std::fmt::{Display, Write as _};

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use crate::output::{self, plain_lines, plural};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Grade {
    Ok,
    /// Works, with something that whoever runs it should know.
    Warning,
    /// Nothing is enforced, or with holes that matter.
    Failure,
}

/// What one check has found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    check: &'static str,
    result: Grade,
    found: String,
    consequence: Option<String>,
    remedy: Option<String>,
}

impl Finding {
    pub(super) fn ok(check: &'static str, found: impl Display) -> Self {
        Self { check, result: Grade::Ok, found: found.to_string(), consequence: None, remedy: None }
    }

    pub(super) fn warning(
        check: &'static str,
        found: impl Display,
        consequence: impl Display,
        remedy: impl Display,
    ) -> Self {
        Self { result: Grade::Warning, ..Self::failure(check, found, consequence, remedy) }
    }

    pub(super) fn failure(
        check: &'static str,
        found: impl Display,
        consequence: impl Display,
        remedy: impl Display,
    ) -> Self {
        Self {
            check,
            result: Grade::Failure,
            found: found.to_string(),
            consequence: Some(consequence.to_string()),
            remedy: Some(remedy.to_string()),
        }
    }

    /// What follows from something that is as it should be.
    pub(super) fn which_means(self, consequence: impl Display) -> Self {
        Self { consequence: Some(consequence.to_string()), ..self }
    }

    pub(super) fn is_failure(&self) -> bool {
        self.result == Grade::Failure
    }
}

/// One object a line.
pub(super) fn json(findings: &[Finding]) -> String {
    findings.iter().map(output::json).collect()
}

/// For people: each check with what follows and what to do below it, and how many there are of each kind.
pub(super) fn human(findings: &[Finding], color: bool) -> String {
    let paint = |style: Style, text: &str| {
        if color { format!("{style}{text}{style:#}") } else { text.to_owned() }
    };
    let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
    let indent = " ".repeat("warning  ".len() + width + 2);
    let mut out = String::new();
    for finding in findings {
        let (style, grade) = match finding.result {
            Grade::Ok => (AnsiColor::Green.on_default(), "ok"),
            Grade::Warning => (AnsiColor::Yellow.on_default().bold(), "warning"),
            Grade::Failure => (AnsiColor::Red.on_default().bold(), "failure"),
        };
        let grade = paint(style, &format!("{grade:<7}"));
        // What others have chosen (names of processes and paths) is fit for a terminal; writing to a string cannot fail.
        let _ = write!(out, "{grade}  {:<width$}  {}", finding.check, plain_lines(&finding.found));
        if let Some(consequence) = &finding.consequence {
            let _ = write!(out, "{indent}{}", plain_lines(consequence));
        }
        if let Some(remedy) = &finding.remedy {
            let _ = write!(out, "{indent}{} {}", paint(Style::new().bold(), "remedy:"), plain_lines(remedy));
        }
    }
    let count = |grade| findings.iter().filter(|finding| finding.result == grade).count();
    let (warnings, failures) = (count(Grade::Warning), count(Grade::Failure));
    let _ = writeln!(
        out,
        "{}: {} ok, {}, {}",
        plural(findings.len(), "finding"),
        count(Grade::Ok),
        plural(warnings, "warning"),
        plural(failures, "failure")
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_read_what_was_found_what_follows_and_what_to_do() {
        let findings = [
            Finding::ok("kernel", "Linux 6.1.0").which_means("nothing new is missed"),
            Finding::warning("lsm", "no \x1b[2J", "sockets pass", "boot with lsm=bpf"),
            Finding::failure("bpffs", "/x is not there", "does not start", "mount it"),
        ];
        insta::assert_snapshot!(human(&findings, false), @r"
        ok       kernel  Linux 6.1.0
                         nothing new is missed
        warning  lsm     no \u{1b}[2J
                         sockets pass
                         remedy: boot with lsm=bpf
        failure  bpffs   /x is not there
                         does not start
                         remedy: mount it
        3 findings: 1 ok, 1 warning, 1 failure
        ");
    }

    #[test]
    fn what_is_not_known_or_not_needed_is_null() {
        assert_eq!(
            json(&[Finding::ok("kernel", "Linux 6.1.0")]),
            "{\"check\":\"kernel\",\"result\":\"ok\",\"found\":\"Linux 6.1.0\",\"consequence\":null,\"remedy\":null}\n"
        );
    }
}

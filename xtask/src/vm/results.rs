//! What came of the tests on one kernel, from what they printed.

use std::collections::BTreeMap;

/// What came of one test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Passed,
    Failed,
    /// With the reason.
    Skipped(String),
}

/// The tests on one kernel.
#[derive(Clone, Debug)]
pub(super) struct Run {
    /// The kernel as asked for.
    pub(super) name: String,
    /// As `uname -r` says.
    pub(super) release: String,
    pub(super) results: BTreeMap<String, Outcome>,
    /// Instructions that the kernel's verifier went through, by program.
    pub(super) verified: BTreeMap<String, u32>,
    /// What a failed test said, or why there is no end.
    pub(super) complaints: Option<String>,
}

impl Run {
    pub(super) fn of(name: &str, release: &str, output: &str) -> Self {
        let results = results(output);
        let verified = output.lines().filter_map(verified).collect();
        let ended = output.lines().any(|line| line == "ended with 0");
        let complaints = (!ended).then(|| match output.split_once("failures:\n") {
            Some((_, said)) => said.trim().to_owned(),
            None => format!("the tests did not come to an end; the last they said:\n{}", last(output, 20)),
        });
        Self { name: name.to_owned(), release: release.to_owned(), results, verified, complaints }
    }
}

/// From lines such as `test loopback::ping ... ok`. What a test itself prints may come before its outcome.
fn results(output: &str) -> BTreeMap<String, Outcome> {
    let mut results = BTreeMap::new();
    let mut running = None;
    for line in output.lines() {
        let said = match line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ")) {
            Some((name, said)) => {
                running = Some(name.trim());
                said
            }
            None => line,
        };
        if let Some(name) = running
            && let Some(outcome) = outcome(said.trim())
        {
            results.insert(name.to_owned(), outcome);
            running = None;
        }
    }
    results
}

fn outcome(said: &str) -> Option<Outcome> {
    match said {
        "ok" => Some(Outcome::Passed),
        "FAILED" => Some(Outcome::Failed),
        other => {
            let reason = other.strip_prefix("ignored")?;
            Some(Outcome::Skipped(reason.trim().trim_matches(['(', ')']).to_owned()))
        }
    }
}

/// A line such as `verified egress 70123`.
fn verified(line: &str) -> Option<(String, u32)> {
    let (program, count) = line.strip_prefix("verified ")?.split_once(' ')?;
    Some((program.to_owned(), count.parse().ok()?))
}

fn last(text: &str, lines: usize) -> String {
    let all: Vec<_> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_read_off_what_the_tests_print() {
        let run = Run::of(
            "6.1",
            "6.1.0",
            "running 3 tests\ntest a::b   ... ok\ntest c ... ignored (no such call)\ntest d ... \nverified egress 70\nFAILED\n\
             \nfailures:\n\n---- d ----\nit broke\nended with 101\n",
        );
        assert_eq!(run.results["a::b"], Outcome::Passed);
        assert_eq!(run.results["c"], Outcome::Skipped("no such call".into()));
        assert_eq!(run.results["d"], Outcome::Failed);
        assert_eq!(run.verified["egress"], 70);
        assert!(run.complaints.unwrap().contains("it broke"));
    }

    #[test]
    fn a_machine_that_hangs_has_not_passed() {
        assert!(Run::of("6.1", "6.1.0", "running 3 tests\ntest a ... ok\ntest b ... ").complaints.is_some());
        assert!(Run::of("6.1", "6.1.0", "test a ... ok\nended with 0\n").complaints.is_none());
    }
}

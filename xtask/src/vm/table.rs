//! Kernel × test, and what the verifier of each kernel went through.

use std::{collections::BTreeSet, fmt::Write as _};

use super::results::{Outcome, Run};

/// Both tables as text.
pub(super) fn render(runs: &[Run]) -> String {
    let mut text = String::new();
    let tests: BTreeSet<&str> = runs.iter().flat_map(|run| run.results.keys().map(String::as_str)).collect();
    table(&mut text, "test", runs, &tests, |run, test| match run.results.get(test) {
        Some(Outcome::Passed) => "pass".into(),
        Some(Outcome::Failed) => "FAIL".into(),
        Some(Outcome::Skipped(_)) => "skip".into(),
        None => "-".into(),
    });
    for run in runs {
        for (test, outcome) in &run.results {
            if let Outcome::Skipped(why) = outcome {
                let _ = writeln!(text, "{}: {test} skipped: {why}", run.name);
            }
        }
    }
    let programs: BTreeSet<&str> =
        runs.iter().flat_map(|run| run.verified.keys().map(String::as_str)).collect();
    if !programs.is_empty() {
        text.push('\n');
        table(&mut text, "verified instructions", runs, &programs, |run, program| {
            run.verified.get(program).map_or_else(|| "-".into(), u32::to_string)
        });
    }
    text
}

/// What the verifiers went through, as Markdown, of those kernels that tell.
pub(super) fn verified(runs: &[Run]) -> String {
    let runs: Vec<_> = runs.iter().filter(|run| !run.verified.is_empty()).collect();
    let programs: BTreeSet<&str> =
        runs.iter().flat_map(|run| run.verified.keys().map(String::as_str)).collect();
    let first = programs.iter().map(|program| program.len()).chain(["program".len()]).max().unwrap_or(0);
    let last = |run: &Run| run.name.len().max(6);
    let mut text = String::new();
    for run in &runs {
        let _ = writeln!(text, "- {}: Debian's {}", run.name, run.release);
    }
    let _ = write!(text, "\n| {:first$} |", "program");
    for run in &runs {
        let _ = write!(text, " {:>1$} |", run.name, last(run));
    }
    let _ = write!(text, "\n| {:-<first$} |", "");
    for run in &runs {
        let _ = write!(text, " {:->1$}: |", "", last(run) - 1);
    }
    for program in programs {
        let _ = write!(text, "\n| {program:first$} |");
        for run in &runs {
            let count = run.verified.get(program).map_or_else(|| "-".into(), u32::to_string);
            let _ = write!(text, " {count:>0$} |", last(run));
        }
    }
    text
}

fn table(
    text: &mut String,
    title: &str,
    runs: &[Run],
    rows: &BTreeSet<&str>,
    cell: impl Fn(&Run, &str) -> String,
) {
    let first = rows.iter().map(|row| row.len()).chain([title.len()]).max().unwrap_or(0);
    let width = |run: &Run| run.name.len().max(6);
    let _ = write!(text, "{title:first$}");
    for run in runs {
        let _ = write!(text, "  {:>1$}", run.name, width(run));
    }
    text.push('\n');
    for row in rows {
        let _ = write!(text, "{row:first$}");
        for run in runs {
            let _ = write!(text, "  {:>1$}", cell(run, row), width(run));
        }
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_columns() {
        let runs = [
            Run::of("5.10", "5.10.0", "test a ... ok\ntest b ... ignored (too old)\nended with 0\n"),
            Run::of("newest", "7.3", "test a ... FAILED\nverified egress 70\n"),
        ];
        assert_eq!(
            render(&runs),
            "test    5.10  newest\na       pass    FAIL\nb       skip       -\n5.10: b skipped: too old\n\n\
             verified instructions    5.10  newest\negress                      -      70\n"
        );
        assert_eq!(
            verified(&runs),
            "- newest: Debian's 7.3\n\n| program | newest |\n| ------- | -----: |\n| egress  |     70 |"
        );
    }
}

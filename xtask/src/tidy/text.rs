//! What a source file must not hold.

use std::path::Path;

use super::{Finding, Source};

/// Longer ones usually hide two subjects.
const LONGEST: usize = 500;

/// In two halves, so that this file does not hold them.
const UNFINISHED: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];

/// Folders of one machine: of those who build Bulkhead, and what hides in a home.
const MACHINE: [&str; 2] = [concat!("/wo", "rk/"), concat!("/ro", "ot/.")];

/// Attributes that silence a lint for ever, where `expect` speaks up once it is needless.
const SILENCED: [&str; 2] = ["#[allow(", "#![allow("];

/// Where `unsafe` has its place.
const UNSAFE: [&str; 3] = ["agent/datapath/", "ebpf/common/", "ebpf/programs/"];

pub(super) fn check(source: &Source) -> Vec<Finding> {
    let Source { path, text } = source;
    let rust = Path::new(path).extension().is_some_and(|extension| extension == "rs");
    let mut findings: Vec<Finding> = (1..)
        .zip(text.lines())
        .flat_map(|(number, line)| {
            complaints(line, rust).into_iter().map(move |what| Finding::new(format!("{path}:{number}"), what))
        })
        .collect();
    let length = text.lines().count();
    if rust && length > LONGEST {
        findings.push(Finding::new(
            path,
            format!("{length} lines, which is more than {LONGEST}: split it by subject"),
        ));
    }
    if is_crate_root(path)
        && !UNSAFE.iter().any(|room| path.starts_with(room))
        && !text.contains("#![forbid(unsafe_code)]")
    {
        findings.push(Finding::new(path, "a crate without #![forbid(unsafe_code)]"));
    }
    findings
}

fn complaints(line: &str, rust: bool) -> Vec<String> {
    let mut complaints = Vec::new();
    if let Some(word) = UNFINISHED.iter().find(|word| words(line).any(|other| other == **word)) {
        complaints.push(format!("{word}: finish it or describe it in an issue"));
    }
    if let Some(folder) = MACHINE.iter().find(|folder| names(line, folder)) {
        complaints.push(format!("{folder} exists on one machine only"));
    }
    if rust && SILENCED.iter().any(|attribute| line.trim_start().starts_with(attribute)) {
        complaints.push("use #[expect(lint, reason = \"…\")]".to_owned());
    }
    complaints
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && c != '_')
}

/// Whether `folder` stands at the beginning of a path.
fn names(line: &str, folder: &str) -> bool {
    line.match_indices(folder).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        before.is_none_or(|c| !c.is_alphanumeric() && !"._-*}".contains(c))
    })
}

fn is_crate_root(path: &str) -> bool {
    let folder = Path::new(path).parent();
    path.ends_with("src/lib.rs")
        || path.ends_with("src/main.rs")
        || folder.is_some_and(|folder| folder.ends_with("src/bin"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str) -> Vec<String> {
        let source = Source { path: path.to_owned(), text: text.to_owned() };
        check(&source).into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn unfinished_work_is_found_as_a_word() {
        let unfinished = format!("// {}: later", UNFINISHED[0]);
        assert_eq!(findings("a.rs", &unfinished).len(), 1);
        assert_eq!(findings("a.rs", "let TODOS = 1;"), Vec::<String>::new());
    }

    #[test]
    fn paths_of_one_machine_are_found_and_others_are_not() {
        assert_eq!(findings("a.md", &format!("see {}main", MACHINE[0])).len(), 1);
        assert_eq!(findings("a.md", &format!("see ${{frame}}{}main", MACHINE[0])), Vec::<String>::new());
    }

    #[test]
    fn a_silenced_lint_is_found_in_code_only() {
        assert_eq!(findings("a.rs", "    #[allow(dead_code)]").len(), 1);
        assert_eq!(findings("a.rs", "const A: &str = \"#[allow(\";"), Vec::<String>::new());
        assert_eq!(findings("a.md", "#[allow(dead_code)]"), Vec::<String>::new());
    }

    #[test]
    fn a_long_file_and_a_crate_open_to_unsafe_are_found() {
        assert_eq!(findings("a.rs", &"\n".repeat(LONGEST)), Vec::<String>::new());
        assert_eq!(findings("a.rs", &"\n".repeat(LONGEST + 1)).len(), 1);
        assert_eq!(findings("agent/policy/src/lib.rs", "//! Pure.").len(), 1);
        assert_eq!(findings("agent/datapath/src/lib.rs", "//! System calls."), Vec::<String>::new());
    }
}

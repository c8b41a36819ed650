//! docs/policy.md says what the compiler does: its snippets compile, or fail as it says, and its lists are complete.
//! So does the policy that README.md begins with.

use std::{fs, path::Path};

use bulkhead_common::Reason;
use bulkhead_policy::{Code, Diagnostics, Loaded, Source, load};

fn page() -> String {
    file("docs/policy.md")
}

fn file(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(name)).unwrap()
}

/// What follows "```toml" on its line, and the snippet.
fn snippets(page: &str) -> Vec<(String, String)> {
    let blocks = page.split("```toml").skip(1).filter_map(|rest| rest.split_once('\n'));
    blocks
        .map(|(info, rest)| (info.trim().to_owned(), rest.split("```").next().unwrap().to_owned()))
        .collect()
}

fn read(texts: &[&str]) -> Result<Loaded, Diagnostics> {
    load(&[Source::new("docs/policy.md", texts.concat())])
}

#[test]
fn every_snippet_compiles_or_fails_as_the_page_says() {
    let page = page();
    let snippets = snippets(&page);
    assert!(snippets.len() > 8, "found only {} snippets", snippets.len());
    let mut so_far = String::new();
    for (info, snippet) in snippets {
        let found = read(&[&so_far, &snippet]);
        if let Some(code) = info.strip_prefix("error=") {
            let errors = found.expect_err(&snippet);
            let codes: Vec<_> = errors.iter().map(|d| d.code.name()).collect();
            assert!(codes.iter().all(|c| *c == code) && !codes.is_empty(), "{snippet}\n{errors}");
        } else {
            assert_eq!(info, "", "what does it mean?");
            let loaded = found.unwrap_or_else(|e| panic!("{e}\n{snippet}"));
            assert!(loaded.warnings.iter().all(|w| w.code != Code::IdleRule), "{}", loaded.warnings);
            so_far.push_str(&snippet);
        }
    }
}

#[test]
fn the_first_policy_of_the_readme_compiles() {
    let readme = file("README.md");
    let [(info, policy)] = &snippets(&readme)[..] else { panic!("README.md has one policy") };
    assert_eq!(info, "");
    let loaded = read(&[policy]).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(loaded.policy.rules.len(), 1);
}

#[test]
fn the_pages_own_test_passes() {
    let page = page();
    let text: String =
        snippets(&page).into_iter().filter(|(info, _)| info.is_empty()).map(|(_, s)| s).collect();
    let policy = read(&[&text]).unwrap().policy;
    for result in bulkhead_policy::run_tests(&policy, &bulkhead_policy::Inventory::default(), 0) {
        assert!(result.passed, "{result:?}");
    }
}

#[test]
fn every_reason_and_every_finding_has_its_line() {
    let page = page();
    let names = Reason::ALL.iter().map(|r| r.name()).chain(Code::ALL.iter().map(|c| c.name()));
    for name in names {
        assert!(page.contains(&format!("| `{name}` |")), "no line on `{name}`");
    }
}

//! docs/policy.md says what the compiler does: its snippets compile, or fail as it says, and its lists are complete.
//! So does the policy that README.md begins with.

use std::{fs, path::Path};

use bulkhead_common::Reason;
use bulkhead_policy::{
    Code, Diagnostics, Loaded, Source, empty_selectors, expired_rules, json_schema, load, unnamed_resolvers,
};
use serde_json::Value;

fn page() -> String {
    file_of("docs/policy.md")
}

fn file_of(name: &str) -> String {
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

/// The codes of all that is warned of in a policy, on a host where nothing runs, at the end of the year.
fn warnings(loaded: &Loaded) -> Vec<&'static str> {
    let year_2026 = 1_798_761_599_000_000_000;
    let expired = expired_rules(&loaded.policy, year_2026);
    let absent = empty_selectors(&loaded.policy, |_| false);
    let unnamed = unnamed_resolvers(&loaded.policy, |_| true);
    loaded.warnings.iter().chain(&expired).chain(&absent).chain(&unnamed).map(|w| w.code.name()).collect()
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
        } else if let Some(code) = info.strip_prefix("warning=") {
            let loaded = found.unwrap_or_else(|e| panic!("{e}\n{snippet}"));
            let warned = warnings(&loaded).into_iter().filter(|w| *w == code).count();
            let before = warnings(&read(&[&so_far]).unwrap()).into_iter().filter(|w| *w == code).count();
            assert_eq!(warned, before + 1, "{code}: {}\n{snippet}", loaded.warnings);
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
    let readme = file_of("README.md");
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
fn every_reason_has_its_line() {
    let page = page();
    for name in Reason::ALL.iter().map(|r| r.name()) {
        assert!(page.contains(&format!("| `{name}` |")), "no line on `{name}`");
    }
}

#[test]
fn every_finding_names_a_section_that_is_there_and_shows_it() {
    for code in Code::ALL {
        let reference = code.reference();
        let (file, anchor) = reference.split_once('#').unwrap();
        let page = file_of(file);
        let title = format!("\n### {anchor}\n");
        let (_, section) = page.split_once(&title).unwrap_or_else(|| panic!("{reference} is nowhere"));
        let section = section.split("\n### ").next().unwrap();
        let kind = if section.trim_start().starts_with("Warning") { "warning" } else { "error" };
        assert!(section.contains(&format!("```toml {kind}={}\n", code.name())), "{reference} has no example");
    }
}

/// The keys of all tables that the schema describes, with the values that some of them are limited to.
fn words(schema: &Value, found: &mut Vec<String>) {
    match schema {
        Value::Object(fields) => {
            let properties = fields.get("properties").and_then(Value::as_object);
            found.extend(properties.into_iter().flatten().map(|(key, _)| key.clone()));
            let limited = ["const", "enum"].into_iter().filter_map(|key| fields.get(key));
            found.extend(
                limited
                    .flat_map(|v| v.as_array().cloned().unwrap_or_else(|| vec![v.clone()]))
                    .filter_map(|v| v.as_str().map(|word| format!("\"{word}\""))),
            );
            fields.values().for_each(|v| words(v, found));
        }
        Value::Array(values) => values.iter().for_each(|v| words(v, found)),
        _ => {}
    }
}

#[test]
fn every_key_and_every_value_of_the_schema_is_on_the_page() {
    let page = page();
    let mut found = Vec::new();
    words(&serde_json::from_str(&json_schema()).unwrap(), &mut found);
    assert!(found.len() > 30, "found only {found:?}");
    for word in found {
        let [alone, table, key, value] =
            [format!("`{word}`"), format!("[{word}"), format!("{word} ="), format!("= {word}")];
        assert!(
            [alone, table, key, value].iter().any(|form| page.contains(form.as_str())),
            "{word} is nowhere on the page"
        );
    }
}

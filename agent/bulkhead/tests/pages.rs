//! What docs/commands.md shows is what the binary prints, and every field that it prints is explained there.

#![forbid(unsafe_code)]

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn page() -> PathBuf {
    root().join("docs/commands.md")
}

/// Runs a command line as somebody at a prompt would, and tells what it prints.
fn shell(folder: &Path, script: &str) -> String {
    let built = Path::new(env!("CARGO_BIN_EXE_bulkhead")).parent().unwrap();
    let path = env::join_paths(
        [built.to_owned()].into_iter().chain(env::split_paths(&env::var_os("PATH").unwrap())),
    );
    let output = Command::new("sh")
        .args(["-c", &format!("exec 2>&1\n{script}")])
        .current_dir(folder)
        .env("PATH", path.unwrap())
        .env("NO_COLOR", "1")
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// A prompt's line with those that go on from it.
fn is_input(line: &str) -> bool {
    line.starts_with("$ ") || line.starts_with("> ")
}

/// What a session prints, its input included.
fn session(folder: &Path, written: &str) -> String {
    let mut inputs: Vec<Vec<&str>> = Vec::new();
    for line in written.lines().filter(|line| is_input(line)) {
        match inputs.last_mut() {
            Some(input) if line.starts_with("> ") => input.push(line),
            _ => inputs.push(vec![line]),
        }
    }
    let mut printed = String::new();
    let mut before = String::from("true");
    for input in inputs {
        let script = input.iter().map(|line| &line[2..]).collect::<Vec<_>>().join("\n");
        printed += &(input.join("\n") + "\n");
        // A status is asked of the line before, in a shell that has forgotten it.
        let run = if script == "echo $?" {
            format!("{{ {before}; }} >/dev/null 2>&1; echo $?")
        } else {
            script.clone()
        };
        printed += &shell(folder, &run);
        before = script;
    }
    printed
}

#[test]
fn every_session_on_the_page_is_what_a_terminal_shows() {
    let text = fs::read_to_string(page()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("policies")).unwrap();
    for entry in fs::read_dir(root().join("policies")).unwrap() {
        let from = entry.unwrap().path();
        fs::copy(&from, folder.path().join("policies").join(from.file_name().unwrap())).unwrap();
    }
    let mut shown = String::new();
    for (n, part) in text.split("```console\n").enumerate() {
        if n == 0 {
            shown += part;
            continue;
        }
        let (written, after) = part.split_once("```").unwrap();
        shown += &["```console\n", &session(folder.path(), written), "```", after].concat();
    }
    if env::var_os("UPDATE_PAGES").is_some() {
        fs::write(page(), &shown).unwrap();
    }
    for (line, (is, was)) in (1..).zip(shown.lines().zip(text.lines())) {
        assert_eq!(
            is, was,
            "docs/commands.md:{line}: run the tests with UPDATE_PAGES=1 and read what changes"
        );
    }
    assert_eq!(shown.len(), text.len(), "docs/commands.md lacks the end");
}

fn fields(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => object.iter().for_each(|(key, value)| {
            found.insert(key.clone());
            fields(value, found);
        }),
        Value::Array(values) => values.iter().for_each(|value| fields(value, found)),
        _ => {}
    }
}

#[test]
fn every_field_that_a_command_prints_is_explained_in_its_section() {
    let text = fs::read_to_string(page()).unwrap();
    for section in text.split("\n## ").skip(1) {
        let (command, section) = section.split_once('\n').unwrap();
        let printed = section.lines().filter(|line| line.starts_with('{'));
        let mut found = BTreeSet::new();
        for line in printed {
            fields(&serde_json::from_str(line).unwrap(), &mut found);
        }
        assert!(!found.is_empty(), "no object of `{command}` is shown");
        for field in found {
            assert!(section.contains(&format!("`{field}`")), "`{field}` of `{command}` is not explained");
        }
    }
}

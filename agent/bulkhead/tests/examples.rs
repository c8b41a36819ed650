//! The policies that are shipped as examples hold what they promise, each alone and all read as one.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

fn policies() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../policies")
}

/// Runs the command on the policy, and expects it to find nothing.
fn passes(command: &[&str], policy: &Path) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_bulkhead")).args(command).arg(policy).output().unwrap();
    let [said, complained] = [output.stdout, output.stderr].map(|s| String::from_utf8(s).unwrap());
    assert!(output.status.success(), "{command:?} {}:\n{said}{complained}", policy.display());
    said
}

/// How many tests the policy has; all of them pass, and nothing in it is warned of but what no agent follows yet.
fn promises(policy: &Path) -> usize {
    let said = passes(&["check", "--output", "json"], policy);
    let mut warnings = said.lines().filter(|line| line.contains("\"severity\""));
    assert!(warnings.all(|warning| warning.contains("\"code\":\"not-followed\"")), "{said}");
    passes(&["test", "--output", "json"], policy).lines().count()
}

#[test]
fn every_example_holds_alone_and_in_the_folder() {
    let files = fs::read_dir(policies()).unwrap().map(|entry| entry.unwrap().path());
    let examples: Vec<_> = files.filter(|path| path.extension().is_some_and(|e| e == "toml")).collect();
    assert!(examples.len() >= 5, "found only {examples:?}");
    let alone: Vec<_> = examples.iter().map(|example| promises(example)).collect();
    assert!(!alone.contains(&0), "one of {examples:?} promises nothing: {alone:?}");
    assert_eq!(promises(&policies()), alone.iter().sum(), "in the folder all tests are run");
}

/// What a machine gets first declares nothing, and what it offers in comments compiles once the `#` is gone.
#[test]
fn the_starter_policy_declares_nothing_and_offers_what_compiles() {
    let starter = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/policy/starter.toml");
    let said = passes(&["check", "--deny-warnings"], &starter);
    assert!(said.starts_with("ok: 0 workloads, 0 rules"), "{said}");

    let text = fs::read_to_string(&starter).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let taken = folder.path().join("taken.toml");
    // Prose has a space after the `#`, what is offered has none.
    let lines = text.lines().map(|line| match line.strip_prefix('#') {
        Some(offered) if !offered.starts_with(' ') => offered,
        _ => line,
    });
    fs::write(&taken, lines.collect::<Vec<_>>().join("\n")).unwrap();
    let said = passes(&["check", "--deny-warnings"], &taken);
    assert!(!said.starts_with("ok: 0 workloads"), "nothing is offered: {said}");
    for (from, to, port) in [
        ("web", "dns", "udp/53"),
        ("host", "resolver", "udp/53"),
        ("resolver", "internet", "udp/53"),
        ("time", "internet", "udp/123"),
        ("updates", "internet", "tcp/443"),
        ("private", "ssh", "tcp/22"),
    ] {
        passes(&["explain", "--from", from, "--to", to, "--port", port], &taken);
    }
}

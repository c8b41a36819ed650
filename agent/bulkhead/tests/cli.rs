//! The command line as a user meets it: help, messages, exit statuses. Nothing here needs root.

use std::{
    fs,
    process::{Command, Output},
};

use insta::assert_snapshot;

/// What a run of the binary prints and how it ends. The folder that it runs in is one of its own.
fn bulkhead(files: &[(&str, &str)], arguments: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let output = Command::new(env!("CARGO_BIN_EXE_bulkhead"))
        .args(arguments)
        .current_dir(folder.path())
        .env("NO_COLOR", "1")
        .env("COLUMNS", "100")
        .output()
        .unwrap();
    transcript(&output)
}

fn transcript(output: &Output) -> String {
    let mut text = format!("{}\n", output.status);
    for (name, stream) in [("stdout", &output.stdout), ("stderr", &output.stderr)] {
        if !stream.is_empty() {
            text += &["--- ", name, "\n", &String::from_utf8_lossy(stream)].concat();
        }
    }
    text
}

#[test]
fn help_names_every_command() {
    assert_snapshot!(bulkhead(&[], &["--help"]));
}

#[test]
fn help_of_run_names_every_flag() {
    assert_snapshot!(bulkhead(&[], &["run", "--help"]));
}

#[test]
fn a_misspelt_command_is_wrong_usage_with_the_one_that_was_meant() {
    assert_snapshot!(bulkhead(&[], &["chek"]));
}

#[test]
fn every_command_accepts_the_common_options() {
    let common = [
        "--config",
        "agent.toml",
        "--control-socket",
        "s",
        "--state-dir",
        "d",
        "--bpffs",
        "b",
        "--output",
        "json",
    ];
    for command in [&["check", "p.toml"][..], &["completions", "bash"], &["man"]] {
        let arguments = [command, &common].concat();
        let said = bulkhead(&[("p.toml", ""), ("agent.toml", "")], &arguments);
        assert!(said.starts_with("exit status: 0"), "{arguments:?}: {said}");
    }
}

#[test]
fn a_policy_that_compiles_passes_the_check() {
    let policy = "[workload.web]\nselect = { systemd = \"nginx.service\" }\n\
                  [[allow]]\nfrom = \"any\"\nto = \"web\"\nports = [\"tcp/443\"]\n";
    assert_snapshot!(bulkhead(&[("web.toml", policy)], &["check", "web.toml"]));
}

#[test]
fn a_policy_that_does_not_compile_is_a_finding_with_its_line() {
    let policy = "[workload.web]\nselect = { systemd = \"nginx.service\" }\n\
                  [[allow]]\nfrom = \"any\"\nto = \"wbe\"\nports = [\"tcp/70000\"]\n";
    assert_snapshot!(bulkhead(&[("web.toml", policy)], &["check", "web.toml"]));
    let json = bulkhead(&[("web.toml", policy)], &["check", "web.toml", "--output", "json"]);
    assert_snapshot!(json);
}

#[test]
fn a_policy_that_is_not_there_is_wrong_input() {
    assert_snapshot!(bulkhead(&[], &["check", "nowhere.toml"]));
    assert_snapshot!(bulkhead(&[], &["run", "--policy", "nowhere.toml"]));
}

#[test]
fn run_refuses_a_policy_that_does_not_compile_and_shows_why() {
    assert_snapshot!(bulkhead(&[("p.toml", "[workload.web]\nselct = 1\n")], &["run", "--policy", "p.toml"]));
}

#[test]
fn run_refuses_a_root_that_is_no_cgroup() {
    let arguments = ["run", "--policy", "p.toml", "--cgroup-root", "/proc"];
    let said = bulkhead(&[("p.toml", "")], &arguments);
    assert!(said.starts_with("exit status: 1"), "{said}");
    assert!(
        said.contains("error: --cgroup-root /proc is no cgroup v2 directory; cgroup v2 is mounted at /"),
        "{said}"
    );
}

#[test]
fn an_unknown_setting_is_wrong_input_with_the_one_that_was_meant() {
    let arguments = ["run", "--config", "agent.toml"];
    assert_snapshot!(bulkhead(&[("agent.toml", "[agent]\npolcy = [\"/etc/p\"]\n")], &arguments));
}

#[test]
fn status_without_an_agent_says_how_to_start_one() {
    assert_snapshot!(bulkhead(&[], &["status", "--control-socket", "nowhere.sock"]));
}

//! `bulkhead doctor` without root and without an agent: every check has its line. What it says where it may look is
//! tested end to end.

#![forbid(unsafe_code)]

mod shell;

use serde_json::Value;
use shell::{bulkhead, command};

/// Exit status and objects of a run that finds no BPF file system.
fn objects(more: &[&str]) -> (Option<i32>, Vec<Value>) {
    let folder = tempfile::tempdir().unwrap();
    let asked = ["doctor", "--output", "json", "--bpffs", "nowhere", "--control-socket", "nowhere.sock"];
    let output = command(folder.path(), &[&asked, more].concat()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    (output.status.code(), text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

fn of<'a>(objects: &'a [Value], check: &str) -> &'a Value {
    objects
        .iter()
        .find(|object| object["check"] == check)
        .unwrap_or_else(|| panic!("no {check}: {objects:?}"))
}

#[test]
fn every_check_has_its_object_with_all_its_fields() {
    let (_, objects) = objects(&[]);
    let checks = [
        "kernel",
        "kernel-types",
        "lockdown",
        "lsm",
        "capabilities",
        "memory-lock",
        "bpf-compiler",
        "bpf-statistics",
        "unprivileged-bpf",
        "cgroup-layout",
        "net-cls",
        "cgroup-root",
        "bpffs",
        "pins",
        "agent",
        "privileged-processes",
        "clock",
        "containers",
    ];
    for check in checks {
        let object = of(&objects, check);
        let fields: Vec<&String> = object.as_object().unwrap().keys().collect();
        assert_eq!(fields, ["check", "consequence", "found", "remedy", "result"], "{object}");
        let is_fine = object["result"] == "ok";
        assert_eq!(
            object["remedy"].is_null(),
            is_fine,
            "what is not fine has a remedy, and nothing else: {object}"
        );
        assert!(is_fine || object["consequence"].is_string(), "what is not fine has a consequence: {object}");
    }
}

#[test]
fn what_fails_is_an_exit_status_and_a_remedy() {
    let (status, objects) = objects(&["--cgroup-root", "/proc"]);
    assert_eq!(status, Some(1));
    assert_eq!(of(&objects, "cgroup-root")["result"], "failure");
    let bpffs = of(&objects, "bpffs");
    assert_eq!(bpffs["result"], "failure");
    assert!(bpffs["remedy"].as_str().unwrap().contains("mount -t bpf bpf nowhere"), "{bpffs}");
    assert_eq!(of(&objects, "agent")["found"], "none answers on nowhere.sock");
}

#[test]
fn people_read_the_same() {
    let said = bulkhead(&[], &["doctor", "--bpffs", "nowhere"]);
    assert!(said.starts_with("exit status: 1"), "{said}");
    assert!(said.contains("\nfailure  bpffs                 nowhere is not there\n"), "{said}");
    assert!(said.contains("remedy: `mkdir -p nowhere` and `mount -t bpf bpf nowhere`"), "{said}");
}

#[test]
fn wrong_usage_is_told_apart_from_findings() {
    for wrong in [&["doctor", "--self-tset"][..], &["doctor", "--config", "nowhere.toml"]] {
        let said = bulkhead(&[], wrong);
        assert!(said.starts_with("exit status: 2"), "{said}");
    }
}

//! The command line as a user meets it: help, messages, exit statuses. Nothing here needs root.

mod shell;

use insta::assert_snapshot;
use shell::bulkhead;

#[test]
fn help_names_every_command() {
    assert_snapshot!(bulkhead(&[], &["--help"]));
}

#[test]
fn help_of_run_names_every_flag() {
    assert_snapshot!(bulkhead(&[], &["run", "--help"]));
}

#[test]
fn help_of_what_needs_no_agent_has_an_example() {
    for command in ["doctor", "check", "test", "explain", "simulate", "diff"] {
        let help = bulkhead(&[], &[command, "--help"]);
        assert!(help.contains(&format!(":\n  bulkhead {command} ")), "{help}");
    }
    assert_snapshot!(bulkhead(&[], &["simulate", "--help"]));
}

#[test]
fn what_draws_on_a_terminal_says_what_to_use_where_there_is_none() {
    assert_snapshot!(bulkhead(&[], &["top"]));
    let said = bulkhead(&[], &["top", "--output", "json"]);
    assert!(said.starts_with("exit status: 2") && said.contains("bulkhead flows --follow"), "{said}");
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
    let commands = [
        &["check", "p.toml"][..],
        &["test", "p.toml"],
        &["explain", "p.toml", "--from", "192.0.2.1", "--to", "192.0.2.2", "--port", "tcp/1"],
        &["simulate", "p.toml", "--flows", "/dev/null"],
        &["diff", "p.toml", "p.toml"],
        &["completions", "bash"],
        &["man"],
    ];
    for command in commands {
        let arguments = [command, &common].concat();
        let said = bulkhead(&[("p.toml", "# nothing yet"), ("agent.toml", "")], &arguments);
        assert!(said.starts_with("exit status: 0"), "{arguments:?}: {said}");
    }
}

#[test]
fn a_policy_that_compiles_passes_the_check() {
    let policy = "[workload.web]\nselect = { systemd = \"nginx.service\" }\n\
                  [[allow]]\nfrom = \"any\"\nto = \"web\"\nports = [\"tcp/443\"]\n";
    assert_snapshot!(bulkhead(&[("web.toml", policy)], &["check", "web.toml"]));
    assert_snapshot!(bulkhead(&[("web.toml", policy)], &["check", "web.toml", "--output", "json"]));
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
    let said = bulkhead(&[("p.toml", "# nothing yet")], &arguments);
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

const SHOP: &str = r#"[environment.dev]
mode = "audit"
[workload.web]
select = { systemd = "nginx.service" }
[workload.db]
select = { systemd = "postgresql.service" }
[workload.ci]
environment = "dev"
select = { cgroup = "/ci.slice/**" }
[[allow]]
id = "web-db"
from = "web"
to = "db"
ports = ["tcp/5432"]
[[allow]]
id = "ci-mirror"
from = "ci"
to = "192.0.2.0/24"
ports = ["tcp/443"]
[[test]]
name = "the shop reads its orders"
from = "web"
to = "db"
port = "tcp/5432"
expect = "allow"
[[test]]
name = "and nothing else <of the database>"
from = "web"
to = "db"
port = "tcp/*"
expect = "deny"
"#;

/// What of the shop is asked for, whatever its files are called.
fn ask_shop(arguments: &[&str]) -> String {
    let tested = SHOP.replace("tcp/*", "tcp/6379");
    let moved = tested.replace("5432", "5433");
    bulkhead(&[("shop.toml", &tested), ("moved.toml", &moved), ("wrong.toml", SHOP)], arguments)
}

#[test]
fn warnings_are_findings_if_they_are_denied() {
    let policy = "[workload.web]\nselect = { systemd = \"nginx.service\" }\n\
                  [[allow]]\nid = \"guests\"\nfrom = \"any\"\nto = \"web\"\nexpires = 2026-01-01T00:00:00Z\n";
    let said = bulkhead(&[("p.toml", policy)], &["check", "p.toml"]);
    assert!(said.starts_with("exit status: 0"), "{said}");
    assert_snapshot!(bulkhead(&[("p.toml", policy)], &["check", "p.toml", "--deny-warnings"]));
}

#[test]
fn tests_that_pass_and_tests_that_fail_are_told() {
    assert_snapshot!(ask_shop(&["test", "shop.toml"]));
    assert_snapshot!(ask_shop(&["test", "wrong.toml"]));
    assert_snapshot!(ask_shop(&["test", "wrong.toml", "--output", "json"]));
    assert_snapshot!(ask_shop(&["test", "wrong.toml", "--output", "junit"]));
}

#[test]
fn only_tests_are_reported_as_junit() {
    assert_snapshot!(ask_shop(&["check", "shop.toml", "--output", "junit"]));
}

#[test]
fn a_connection_is_explained_by_the_rule_or_the_nearest_one() {
    let explain = |from, to, port, more: &[&str]| {
        let asked = ["explain", "shop.toml", "--from", from, "--to", to, "--port", port];
        ask_shop(&[&asked, more].concat())
    };
    assert_snapshot!(explain("web", "db", "tcp/5432", &[]));
    assert_snapshot!(explain("web", "db", "tcp/80", &[]));
    assert_snapshot!(explain("ci", "192.0.2.7", "tcp/80", &["--output", "json"]));
    assert_snapshot!(explain("wbe", "db", "tcp/5432", &[]));
    assert_snapshot!(explain("web", "db", "tcp/1-9", &[]));
    assert_snapshot!(explain("web", "db", "tpc/80", &[]));
}

#[test]
fn a_connection_is_explained_under_two_policies_with_what_changes() {
    let explain = |to, port, more: &[&str]| {
        let asked =
            ["explain", "moved.toml", "--against", "shop.toml", "--from", "web", "--to", to, "--port", port];
        ask_shop(&[&asked, more].concat())
    };
    assert_snapshot!(explain("db", "tcp/5432", &[]));
    assert_snapshot!(explain("db", "tcp/5432", &["--output", "json"]));
    // It is the new policy whose verdict decides the exit status.
    assert!(explain("db", "tcp/5433", &[]).starts_with("exit status: 0"));
    assert!(explain("db", "tcp/80", &[]).contains("change: nothing changes"));
    let more = format!("{SHOP}[peer.cache]\ncidrs = [\"192.0.2.7\"]\n");
    let new_name = |output| {
        let asked = ["explain", "p.toml", "--against", "old.toml", "--from", "web", "--to", "cache"];
        let asked = [&asked[..], &["--port", "tcp/6379", "--output", output]].concat();
        bulkhead(&[("p.toml", &more), ("old.toml", SHOP)], &asked)
    };
    assert_snapshot!(new_name("human"));
    assert_snapshot!(new_name("json"));
}

#[test]
fn a_policy_that_does_not_compile_cannot_be_asked() {
    let said = bulkhead(&[("p.toml", "[workload.web]\nselct = 1\n")], &["test", "p.toml"]);
    assert!(said.starts_with("exit status: 2"), "{said}");
    assert!(said.contains("--> p.toml:2:1") && said.contains("did you mean `select`?"), "{said}");
}

#[test]
fn the_difference_of_two_policies_is_access() {
    assert_snapshot!(ask_shop(&["diff", "shop.toml", "shop.toml"]));
    assert_snapshot!(ask_shop(&["diff", "shop.toml", "moved.toml"]));
    assert_snapshot!(ask_shop(&["diff", "shop.toml", "moved.toml", "--output", "json"]));
    let said = ask_shop(&["diff", "shop.toml", "nowhere.toml"]);
    assert!(said.starts_with("exit status: 2"), "{said}");
}

/// A record of a connection of `web`, as the agent writes it.
fn flow(verdict: &str, to: &str, address: &str, port: u16) -> String {
    let name = if to.is_empty() { "null".to_owned() } else { format!("{to:?}") };
    format!(
        "{{\"time\":\"2026-11-21T20:15:03Z\",\"verdict\":{verdict:?},\"direction\":\"egress\",\"protocol\":\"tcp\",\
         \"workload\":{{\"name\":\"web\"}},\"peer\":{{\"address\":{address:?},\"port\":{port},\"name\":{name}}},\
         \"count\":2}}\n"
    )
}

/// Puts recorded flows to the shop's policy.
fn simulate(flows: &str, more: &[&str]) -> String {
    let moved = SHOP.replace("5432", "5433");
    let files = [("shop.toml", SHOP), ("moved.toml", &moved), ("flows.jsonl", flows)];
    bulkhead(&files, &[&["simulate", "--flows", "flows.jsonl"], more].concat())
}

#[test]
fn recorded_flows_fare_as_they_did_or_are_found_to_change() {
    let flows = flow("allowed", "db", "127.0.0.1", 5432) + &flow("denied", "", "198.51.100.9", 443);
    assert_snapshot!(simulate(&flows, &["shop.toml"]));
    assert_snapshot!(simulate(&flows, &["moved.toml"]));
    assert_snapshot!(simulate(&flows, &["moved.toml", "--against", "shop.toml"]));
    assert_snapshot!(simulate(&flows, &["moved.toml", "--against", "shop.toml", "--output", "json"]));
}

#[test]
fn lines_that_are_no_records_are_counted_and_are_wrong_input_only_if_all_are() {
    let flows = format!("# yesterday\n\n{}", flow("allowed", "db", "127.0.0.1", 5432));
    assert_snapshot!(simulate(&flows, &["shop.toml"]));
    assert_snapshot!(simulate(&"{}\n".repeat(12), &["shop.toml"]));
    assert_snapshot!(ask_shop(&["simulate", "shop.toml", "--flows", "nowhere.jsonl"]));
}

/// The long options that the help of a command names.
fn options(command: &str) -> Vec<String> {
    let help = bulkhead(&[], &[command, "--help"]);
    let words = help.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
    words.filter(|w| w.starts_with("--") && w.len() > 3).map(str::to_owned).collect()
}

#[test]
fn manual_pages_and_completions_name_every_option_of_every_command() {
    let overview = bulkhead(&[], &["man"]);
    assert!(overview.contains("Exit status: 0 fine"), "{overview}");
    let shells = ["bash", "zsh", "fish"].map(|shell| (shell, bulkhead(&[], &["completions", shell])));
    for command in [
        "run",
        "status",
        "detach",
        "doctor",
        "check",
        "test",
        "explain",
        "simulate",
        "diff",
        "completions",
        "man",
    ] {
        assert!(overview.contains(&format!("bulkhead\\-{command}(1)")), "no {command}: {overview}");
        let page = bulkhead(&[], &["man", command]).replace("\\-", "-");
        assert!(page.contains(&format!(".TH bulkhead-{command} 1")), "{page}");
        for option in options(command) {
            assert!(page.contains(&option), "{option} of {command}: {page}");
            for (shell, completions) in &shells {
                assert!(
                    completions.contains(option.trim_start_matches('-')),
                    "{option} of {command} in {shell}"
                );
            }
        }
    }
    let said = bulkhead(&[], &["man", "chek"]);
    assert!(said.starts_with("exit status: 2") && said.contains("there is no command `chek`"), "{said}");
}

//! `bulkhead check` says what is wrong, where, and what was meant; and what is probably not meant.

#![forbid(unsafe_code)]

mod shell;

use shell::bulkhead;

const WEB: &str = "[workload.web]\nselect = { systemd = \"web.service\" }\n";
const DB: &str = "[workload.db]\nselect = { systemd = \"db.service\" }\n";
const RULE: &str = "[[allow]]\nid = \"web-db\"\nfrom = \"web\"\nto = \"db\"\nports = [\"tcp/5432\"]\n";

#[test]
fn an_unknown_key_is_named_with_line_and_column_and_the_one_that_was_meant() {
    let policy = [WEB, DB, "[[allow]]\n  form = \"web\"\nto = \"db\"\n"].concat();
    let said = bulkhead(&[("p.toml", &policy)], &["check", "p.toml"]);
    assert!(said.starts_with("exit status: 1\n"), "{said}");
    for expected in [
        "error[unknown-key]: unknown key `form` in a rule",
        "--> p.toml:6:3",
        "6 |   form = \"web\"",
        "= see: docs/policy.md#unknown-key",
        "help: did you mean `from`?",
        "\n1 error, 0 warnings\n",
    ] {
        assert!(said.contains(expected), "{expected:?}: {said}");
    }
}

#[test]
fn a_rule_that_an_assertion_forbids_is_shown_with_it() {
    let policy = [WEB, DB, RULE].concat();
    let forbid = "[[forbid]]\nfrom = \"web\"\nto = \"db\"\nreason = \"cards\"\n";
    let files = [("p.toml", policy.as_str()), ("rules.toml", forbid)];
    let said = bulkhead(&files, &["check", "p.toml", "rules.toml"]);
    assert!(said.starts_with("exit status: 1\n"), "{said}");
    for expected in [
        "error[forbidden]: rule `web-db` allows web to reach db, which rules.toml:1 forbids",
        "--> p.toml:5:1",
        "allowed here",
        "::: rules.toml:1:1",
        "forbidden here: cards",
        "except = [\"web-db\"]",
    ] {
        assert!(said.contains(expected), "{expected:?}: {said}");
    }
    let json = bulkhead(&files, &["check", "p.toml", "rules.toml", "--output", "json"]);
    let related =
        r#""related":[{"message":"forbidden here: cards","file":"rules.toml","line":1,"column":1}]"#;
    assert!(json.contains(r#""file":"p.toml","line":5,"column":1"#) && json.contains(related), "{json}");
}

/// What is warned of passes the check, unless warnings are denied.
#[track_caller]
fn warns(policy: &str, code: &str, expected: &str, more: &[&str]) {
    let check = |deny: &[&str]| {
        let said = bulkhead(&[("p.toml", policy)], &[&["check", "p.toml"], more, deny].concat());
        assert!(said.contains(&format!("warning[{code}]: ")) && said.contains(expected), "{said}");
        assert!(said.contains(&format!("= see: docs/policy.md#{code}")), "{said}");
        assert!(said.contains("0 errors, 1 warning\n"), "that and nothing else: {said}");
        said
    };
    let said = check(&[]);
    assert!(said.starts_with("exit status: 0\n") && said.contains("\nok: "), "{said}");
    let said = check(&["--deny-warnings"]);
    assert!(said.starts_with("exit status: 1\n"), "{said}");
}

#[test]
fn a_rule_that_opens_nothing_is_warned_of() {
    let idle = "[[allow]]\nid = \"idle\"\nfrom = \"192.0.2.1\"\nto = \"internet\"\n";
    let policy = [WEB, DB, RULE, idle].concat();
    warns(&policy, "idle-rule", "rule `idle` opens nothing: neither end is a workload", &[]);
}

#[test]
fn a_rule_that_another_makes_superfluous_is_warned_of_with_both_lines() {
    let wide = RULE.replace("web-db", "wide").replace("tcp/5432", "tcp/*");
    let policy = [WEB, DB, RULE, &wide].concat();
    warns(&policy, "shadowed-rule", "rule `web-db` opens nothing that `wide` does not open", &[]);
    warns(&policy, "shadowed-rule", "10 | [[allow]]\n   | --------- opened here already", &[]);
}

#[test]
fn a_rule_that_has_expired_is_warned_of() {
    let policy = [WEB, DB, RULE, "expires = 2020-01-01T00:00:00Z\n"].concat();
    warns(&policy, "expired-rule", "rule `web-db` has expired and allows nothing", &[]);
}

#[test]
fn everybody_across_environments_is_warned_of() {
    let policy = "[environment.prod]\n[environment.dev]\n[workload.web]\nenvironment = \"prod\"\n\
                  select = { systemd = \"web.service\" }\n[[allow]]\nid = \"all\"\nfrom = \"any\"\nto = \"env:prod\"\n";
    warns(policy, "broad-rule", "rule `all` opens env:prod to every other environment", &[]);
}

#[test]
fn a_workload_that_no_rule_names_is_warned_of() {
    let policy = [WEB, DB, RULE, "[workload.batch]\nselect = { systemd = \"batch.service\" }\n"].concat();
    warns(&policy, "workload-without-rule", "no rule names workload `batch`", &[]);
}

#[test]
fn names_that_nobody_can_ask_for_are_warned_of() {
    let mirrors = "[peer.mirrors]\nnames = [\"deb.example.org\"]\ncidrs = [\"192.0.2.7\"]\n[[allow]]\nfrom = \"web\"\nto = \"mirrors\"\n";
    let policy = [WEB, DB, RULE, mirrors].concat();
    warns(&policy, "no-way-to-dns", "`web` may reach `deb.example.org`, and may not ask a resolver", &[]);
}

#[test]
fn what_no_agent_follows_yet_is_warned_of() {
    let pod = DB.replace("systemd = \"db.service\"", "kubernetes = { namespace = \"db\" }");
    assert_ne!(pod, DB);
    let expected = "no agent follows the container and pod selectors of `db` yet";
    warns(&[WEB, &pod, RULE].concat(), "not-followed", expected, &[]);
}

#[test]
fn a_selector_that_anybody_can_satisfy_is_warned_of() {
    let policy = [&WEB.replace("systemd = \"web.service\"", "cgroup = \"/**/web\""), DB, RULE].concat();
    warns(&policy, "loose-selector", "whoever may create cgroups anywhere", &[]);
}

#[test]
fn a_selector_of_nobody_here_is_warned_of_if_this_machine_is_asked() {
    // The root of the hierarchy is always there, and in it whoever runs this.
    let everybody =
        "[workload.all]\nselect = { cgroup = \"/**\" }\ningress = \"allow\"\negress = \"allow\"\n";
    let nobody =
        "[workload.nobody]\nselect = { systemd = \"no-such-unit-anywhere.service\" }\ningress = \"allow\"\n";
    let said = bulkhead(&[("p.toml", &[everybody, nobody].concat())], &["check", "p.toml", "--host"]);
    assert!(!said.contains("workload `all`"), "{said}");
    warns(nobody, "empty-selector", "nothing on this host is workload `nobody`", &["--host"]);
    let said = bulkhead(&[("p.toml", nobody)], &["check", "p.toml"]);
    assert!(!said.contains("empty-selector"), "the policy alone does not tell: {said}");
}

//! Mistakes in a policy, and what its author is told.

use crate::{Source, load, testing::findings};

const WEB: &str = "[workload.web]\nselect = { systemd = \"web.service\" }\n";

#[track_caller]
fn finds(text: &str, expected: &str) {
    let found = findings(&format!("{WEB}{text}"));
    assert!(found.contains(expected), "expected: {expected}\nfound: {found}");
}

#[test]
fn a_forbid_that_only_a_host_can_prove_is_told_of() {
    const ENDS: &str = "[environment.lan]\ncidrs = [\"192.168.1.0/24\"]\n[environment.work]\n\
        [workload.a]\nselect = { systemd = \"a.service\" }\n[workload.b]\nenvironment = \"work\"\nselect = { systemd = \"b.service\" }\n\
        [peer.mirrors]\nnames = [\"deb.example.org\"]\n\
        [peer.cam]\nenvironment = \"work\"\nnames = [\"cam.example.org\"]\n";
    for (rule, forbid, said) in [
        ("dns", "192.168.1.0/24", "unproved-forbid"),
        ("private", "host", "unproved-forbid"),
        ("mirrors", "env:lan", "unproved-forbid"),
        ("host", "dns", "unproved-forbid"),
        ("env:lan", "mirrors", "unproved-forbid"),
        ("host", "127.0.0.0/8", "forbidden"),
        ("dns", "dns", "forbidden"),
        ("any", "dns", "forbidden"),
        ("cam", "192.168.2.0/24", "unproved-forbid"),
        ("cam", "mirrors", "unproved-forbid"),
        ("cam", "env:work", "forbidden"),
        // Wherever its addresses lie, it is in its own environment.
        ("cam", "env:lan", ""),
        ("env:lan", "cam", ""),
        ("dns", "b", ""),
        ("host", "env:work", ""),
        ("b", "host", ""),
        ("192.168.1.0/24", "10.0.0.0/8", ""),
    ] {
        let text = format!(
            "{ENDS}[[allow]]\nfrom = \"a\"\nto = {rule:?}\n[[forbid]]\nfrom = \"a\"\nto = {forbid:?}\n"
        );
        let found = findings(&text);
        let codes = [("unproved-forbid", "may allow what"), ("forbidden", "forbids (")];
        let codes = codes.into_iter().filter(|(_, words)| found.contains(words)).map(|(code, _)| code);
        let codes: Vec<_> = codes.collect();
        assert_eq!(codes.concat(), said, "{rule} against {forbid}: {found}");
        let excepted = text.replace("from = \"a\"\nto", "id = \"r\"\nfrom = \"a\"\nto").replacen(
            "[[forbid]]\nid = \"r\"",
            "[[forbid]]\nexcept = [\"r\"]",
            1,
        );
        let found = findings(&excepted);
        assert!(!found.contains("forbids"), "{found}");
    }
}

#[test]
fn what_is_too_much_to_be_told_is_counted() {
    let declared = format!("{WEB}[peer.mirror]\nnames = [\"deb.example.org\"]\n");
    let rules = |count: usize, to: &str| {
        let rule =
            |n: usize| format!("[[allow]]\nfrom = \"web\"\nto = \"{to}\"\nports = [\"tcp/{}\"]\n", n + 1);
        (0..count).map(rule).collect::<String>()
    };
    let forbid = |to: &str| format!("[[forbid]]\nfrom = \"web\"\nto = \"{to}\"\n");
    let about = |text: &str, words: &str| -> Vec<String> {
        let found = findings(&format!("{declared}{text}"));
        found.lines().filter(|line| line.contains(words)).map(str::to_owned).collect()
    };
    let shown = rules(103, "10.0.0.0/8") + &forbid("mirror");
    assert_eq!(about(&shown, "may allow what p:").len(), 100);
    let more =
        "p:405:1: this rule and others may allow what is forbidden in 3 more cases, which are not shown";
    assert_eq!(about(&shown, "not shown"), [more]);
    let much = rules(600, "10.0.0.0/8") + &forbid("mirror").repeat(600);
    let last = format!("{much}{}", forbid("10.0.0.7"));
    assert_eq!(
        about(&last, "forbids (").len(),
        600,
        "who certainly contradicts is told, whatever comes before"
    );
    let left = about(&much, "after it are not compared");
    assert_eq!(left.len(), 1, "{left:?}");
    let contradicted = rules(101, "10.0.0.0/8") + &forbid("10.0.0.7").repeat(100);
    assert_eq!(about(&contradicted, "forbids (").len(), 10_000);
    let left = "p:706:1: 10000 contradictions are noted: this forbid and 0 after it are looked at no further";
    assert_eq!(about(&contradicted, "contradictions are noted"), [left]);
}

#[test]
fn misspelt_keys_and_values_are_named_with_what_was_meant() {
    finds(
        "[[allow]]\nform = \"web\"\nto = \"any\"",
        "p:4:1: unknown key `form` in a rule (did you mean `from`?)",
    );
    finds("[enviroment.prod]", "unknown key `enviroment` in a policy (did you mean `environment`?)");
    finds("[environment.e]\nmode = \"audti\"", "unknown mode `audti` (did you mean `audit`?)");
    finds("[[allow]]\nfrom = \"web\"\nto = \"any\"\nports = [\"tcp/70000\"]", "port 70000 is out of range");
    finds(
        "[peer.p]\ncidrs = [\"10.0.0.7/24\"]",
        "`10.0.0.7/24` has bits set after its prefix (did you mean `10.0.0.0/24`?)",
    );
    finds(
        "[workload.x]\nselect = { systmd = \"a\" }",
        "unknown key `systmd` in a selector (did you mean `systemd`?)",
    );
    finds("[workload.x]\n", "workload `x` lacks `select`");
    finds("[peer.p]\n", "peer `p` has neither `cidrs` nor `names`");
    finds("[[allow]]\nfrom = \"web\"\n", "a rule lacks `to`");
    finds("[[allow]]\nfrom = \"web\"\nto = []", "`to` names nobody");
    finds(
        "[[allow]]\nfrom = \"web\"\nto = \"any\"\nexpires = \"tomorrow\"",
        "`expires` is not a point in time",
    );
    finds("[peer]\np = 3", "[peer.p]");
    finds("[peer.p]\ncidrs = [3]", "`cidrs` is a string");
    for address in ["10.0.0.1", "*.10.0.0.1", "1", "10.0.0.1.", "::1", "10.0.0.0/8", "fe80::1%eth0"] {
        let fault = format!(
            "`{address}` is no DNS name (write a name such as \"updates.example.org\"; addresses belong in `cidrs`)"
        );
        finds(&format!("[peer.p]\nnames = [\"{address}\"]"), &fault);
    }
    for end in ["", "env:"] {
        finds(&format!("[[allow]]\nfrom = [\"{end}\"]\nto = \"any\""), &format!("`{end}` names nobody"));
    }
    for selector in [
        "systemd = [\"\"]",
        "cgroup = [\"/a\", \"\"]",
        "container = { name = \"\" }",
        "container = { image = \"\" }",
        "container = { labels = { \"\" = \"a\" } }",
        "kubernetes = { namespace = \"\" }",
    ] {
        finds(&format!("[workload.x]\nselect = {{ {selector} }}"), "this selects nothing");
    }
    for name in ["", "eth0:1", "eth 0", "..", "interface-longer", "a/b", "a\\n"] {
        let fault = format!("`{}` is no name of an interface", name.replace("\\n", "\n"));
        finds(&format!("[environment.p]\ninterfaces = [\"{name}\"]"), &fault);
    }
}

#[test]
fn unknown_names_are_answered_with_the_nearest_known() {
    finds("[[allow]]\nfrom = \"wbe\"\nto = \"any\"", "unknown name `wbe` (did you mean `web`?)");
    finds("[[allow]]\nfrom = \"web\"\nto = \"env:prdo\"\n[environment.prod]", "did you mean `prod`?");
    finds(
        "[[allow]]\nfrom = \"web\"\nto = \"prod\"\n[environment.prod]",
        "did you mean the environment: `env:prod`?",
    );
    finds("[[allow]]\nfrom = \"web\"\nto = \"internt\"", "did you mean `internet`?");
    finds("[[allow]]\nfrom = \"web\"\nto = \"10.0.0.1/8\"", "did you mean `10.0.0.0/8`?");
    finds("[[forbid]]\nfrom = \"web\"\nto = \"any\"\nexcept = [\"x\"]", "no rule has the id `x`");
}

#[test]
fn names_are_what_the_reference_says() {
    let page = include_str!("../../../../docs/policy.md").replace('\n', " ");
    let stated =
        "A name is 1 to 63 letters a-z and A-Z, digits, `-`, `_` and `.`, and begins with a letter or digit";
    assert!(page.contains(stated));
    let longest = format!("a{}", "b".repeat(62));
    let found = |name: &str, text: &str| findings(&text.replace("NAME", name)).contains("cannot be a name");
    let declarations = [
        format!("{WEB}[environment.\"NAME\"]\n"),
        "[workload.\"NAME\"]\nselect = { systemd = \"web.service\" }\n".into(),
        format!("{WEB}[peer.\"NAME\"]\ncidrs = [\"10.0.0.1\"]\n"),
        format!("{WEB}[[allow]]\nid = \"NAME\"\nfrom = \"web\"\nto = \"any\"\n"),
    ];
    for text in declarations {
        for good in ["a", "Z", "9", "a.b-c_d", "1.example", &longest] {
            assert!(!found(good, &text), "{text}: {good}");
        }
        for bad in ["", "-a", "_a", ".a", "a b", "straße", "a/b", "a:b", "*", &format!("{longest}c")] {
            assert!(found(bad, &text), "{text}: {bad}");
        }
    }
}

#[test]
fn one_name_means_one_thing() {
    finds("[peer.web]\ncidrs = [\"10.0.0.1\"]", "the name `web` is declared twice");
    finds("[peer.any]\ncidrs = [\"10.0.0.1\"]", "`any` is built in and cannot be a name");
    finds("[peer.\"10.0.0.1\"]\ncidrs = [\"10.0.0.1\"]", "`10.0.0.1` is an address and cannot be a name");
    finds("[workload.b]\nselect = { systemd = \"web.service\" }", "`b` has the same selector as `web`");
    finds(
        "[environment.a]\ncidrs = [\"10.0.0.0/8\"]\n[environment.b]\ncidrs = [\"10.0.0.0/8\"]",
        "`10.0.0.0/8` is in two environments: `a` and `b`",
    );
    let behind = |name| format!("[environment.{name}]\ninterfaces = [\"br0\", \"{name}0\"]\n");
    assert_eq!(
        shown(&[&behind("a"), &behind("b")]),
        ["b:2:15 a:2:15: interface `br0` is in two environments: `a` and `b`"; 1].map(str::to_owned)
    );
}

/// The findings, each with the places that it shows.
#[track_caller]
fn shown(files: &[&str]) -> Vec<String> {
    let sources: Vec<_> = files.iter().zip(["a", "b"]).map(|(text, name)| Source::new(name, *text)).collect();
    let found = load(&sources).unwrap_err();
    let json = serde_json::to_value(&found).unwrap();
    let place =
        |at: &serde_json::Value| format!("{}:{}:{}", at["file"], at["line"], at["column"]).replace('"', "");
    let each = json.as_array().unwrap().iter().map(|finding| {
        let related = finding["related"].as_array().unwrap().iter().map(place);
        let places: Vec<_> = std::iter::once(place(finding)).chain(related).collect();
        format!("{}: {}", places.join(" "), finding["message"].as_str().unwrap())
    });
    each.collect()
}

#[test]
fn a_name_that_is_declared_twice_is_one_mistake_with_both_places() {
    let other = "[workload.web]\nselect = { systemd = \"other.service\" }\n";
    let twice = |places: &str| [format!("{places}: the name `web` is declared twice")];
    assert_eq!(shown(&[&format!("{WEB}{other}")]), twice("a:3:11 a:1:11"));
    assert_eq!(shown(&[WEB, other]), twice("b:1:11 a:1:11"));
    assert_eq!(shown(&[WEB, WEB]), twice("b:1:11 a:1:11"));
    let spelt = "[\"workload\" . 'web' ]\negress = \"allow\"\n";
    assert_eq!(shown(&[&format!("{WEB}{spelt}")]), twice("a:3:15 a:1:11"));
    let inline = "[workload]\nweb = { select = { systemd = \"a.service\" } }\n";
    assert_eq!(shown(&[&format!("{inline}{}", &inline[11..])]), twice("a:3:1 a:2:1"));
    let thrice = format!("{WEB}{other}{other}");
    assert_eq!(shown(&[&thrice]), [twice("a:3:11 a:1:11"), twice("a:5:11 a:1:11")].concat());
    let unknown = format!("{WEB}{other}[[allow]]\nfrom = \"web\"\nto = \"nobody\"\n");
    assert_eq!(shown(&[&unknown])[1..], ["a:7:6: unknown name `nobody`"]);
}

#[test]
fn a_key_that_is_there_twice_is_shown_with_both_places() {
    let twice = |places: &str, key: &str| [format!("{places}: `{key}` is there twice")];
    let rule = "[[allow]]\nfrom = \"any\"\nto = \"any\"\n";
    assert_eq!(shown(&[&format!("{WEB}{rule}{rule}from = \"web\"\n")]), twice("a:9:1 a:7:1", "from"));
    assert_eq!(shown(&[&format!("{WEB}select = 1\n")]), twice("a:3:1 a:2:1", "select"));
    let inline = "[workload.web]\nselect = { systemd = \"a.service\", systemd = \"b.service\" }\n";
    assert_eq!(shown(&[inline]), twice("a:2:35 a:2:12", "systemd"));
    let again = "[workload]\n[workload]\n";
    assert_eq!(shown(&[again]), twice("a:2:2 a:1:2", "workload"));
    let far = format!("[peer.p]\ncidrs = []{}\ncidrs = []\n", "\n".repeat(50));
    let files = [Source::new("p", far)];
    let text = load(&files).unwrap_err().render(&files, false);
    assert!(text.contains("p:53:1") && text.contains("first here"), "{text}");
}

#[test]
fn all_mistakes_of_all_files_come_out_in_one_run() {
    let files = [
        Source::new("a", "[workload.x]\nselect = { systemd = \"x\" }\nfoo = 1\n"),
        Source::new("b", "[[allow]]\nfrom = \"nobody\"\nto = \"any\"\nports = [\"tcp/0\", \"tpc/1\"]\n"),
        Source::new("c", "[workload.x]\nselect = { systemd = \"y.service\" }\n"),
    ];
    let found = load(&files).unwrap_err();
    let at: Vec<_> = found.iter().map(|d| (&*d.place.file, d.place.line, d.code.name())).collect();
    assert_eq!(
        at,
        [
            ("a", 2, "bad-selector"),
            ("a", 3, "unknown-key"),
            ("b", 2, "unknown-name"),
            ("b", 4, "bad-port"),
            ("b", 4, "bad-port"),
            ("c", 1, "duplicate-name"),
        ]
    );
    assert!(found.render(&files, false).contains("declared first here"), "both places are shown");
}

#[test]
fn a_misread_file_makes_no_name_unknown() {
    let files = [
        Source::new("a", "[workload.web\nselect = { systemd = \"x.service\" }\n"),
        Source::new("b", "[[allow]]\nfrom = \"web\"\nto = \"any\"\n"),
    ];
    let found = load(&files).unwrap_err();
    assert!(found.iter().all(|d| d.place.file.as_ref() == "a"), "{found}");
}

#[test]
fn a_misspelt_kind_makes_no_name_unknown() {
    let rule = "[[allow]]\nfrom = \"web\"\nto = \"nobody\"\n";
    let codes = |text: &str| {
        let found = load(&[Source::new("a", text)]).unwrap_err();
        found.iter().map(|d| d.code.name()).collect::<Vec<_>>()
    };
    assert_eq!(codes(&format!("[workloads.web]\n{rule}")), ["unknown-key"]);
    assert_eq!(
        codes(&format!("[agent]\nreload = 1\n{rule}")),
        ["unknown-key", "unknown-name", "unknown-name"]
    );
}

#[test]
fn a_finding_shows_the_line_that_it_is_about() {
    let files = [Source::new("shop.toml", format!("{WEB}[[allow]]\nform = \"web\"\nto = \"any\"\n"))];
    let text = load(&files).unwrap_err().render(&files, false);
    let expected = "error[unknown-key]: unknown key `form` in a rule
 --> shop.toml:4:1
  |
4 | form = \"web\"
  | ^^^^
  |
  = see: docs/policy.md#unknown-key
help: did you mean `from`?";
    assert!(text.contains(expected), "{text}");
}

#[test]
fn a_rule_without_an_id_gets_one_that_edits_elsewhere_do_not_change() {
    let rule = "[[allow]]\nfrom = \"web\"\nto = \"any\"\nports = [\"tcp/1\"]\n";
    let id = |text: &str| {
        let policy = crate::testing::policy(&format!("{WEB}{text}"));
        policy.rules.last().unwrap().id.clone()
    };
    let other = "[[allow]]\nfrom = \"any\"\nto = \"web\"\n";
    assert_eq!(id(rule), id(&format!("{other}{rule}")));
    assert_ne!(id(rule), id(other));
    assert_ne!(id(rule), id(&format!("{rule}{rule}")), "twins are told apart");
}

const TWO: &str = r#"
[environment.prod]
[environment.dev]
[environment.lan]
cidrs = ["10.0.0.0/8"]
[environment.iot]
cidrs = ["10.40.0.0/16"]
[workload.db]
environment = "prod"
select = { systemd = "db.service" }
[workload.ci]
environment = "dev"
select = { systemd = "ci.service" }
[peer.mirror]
names = ["*.example.org"]
cidrs = ["203.0.113.9"]
"#;

/// The findings about rules between two environments.
#[track_caller]
fn between(rules: &str) -> String {
    findings(&format!("{TWO}{rules}"))
}

fn allow(from: &str, to: &str, more: &str) -> String {
    format!("[[allow]]\nid = \"r\"\nfrom = \"{from}\"\nto = \"{to}\"\n{more}\n")
}

#[test]
fn an_allow_that_contradicts_a_forbid_does_not_compile() {
    let forbid = |from, to, more| format!("[[forbid]]\nfrom = \"{from}\"\nto = \"{to}\"\n{more}\n");
    let dev_prod = forbid("env:dev", "env:prod", "");
    for (rule, forbid, contradicts) in [
        (allow("ci", "db", ""), dev_prod.clone(), true),
        (allow("any", "db", ""), dev_prod.clone(), true),
        (allow("env:dev", "env:prod", ""), dev_prod.clone(), true),
        (allow("db", "ci", ""), dev_prod.clone(), false),
        (allow("ci", "10.0.0.0/8", ""), dev_prod.clone(), false),
        (allow("ci", "db", ""), forbid("env:dev", "env:prod", "except = [\"r\"]"), false),
        (
            allow("ci", "db", "ports = [\"tcp/443\"]"),
            forbid("env:dev", "env:prod", "ports = [\"tcp/5432\"]"),
            false,
        ),
        (
            allow("ci", "db", "ports = [\"tcp/*\"]"),
            forbid("env:dev", "env:prod", "ports = [\"tcp/5432\"]"),
            true,
        ),
        (allow("ci", "10.1.0.0/16", ""), forbid("env:dev", "env:lan", ""), true),
        (allow("ci", "10.40.1.0/24", ""), forbid("env:dev", "env:lan", ""), false),
        (allow("ci", "10.40.1.0/24", ""), forbid("env:dev", "env:iot", ""), true),
        (allow("ci", "0.0.0.0/0", ""), forbid("env:dev", "env:iot", ""), true),
        (allow("ci", "private", ""), forbid("env:dev", "env:iot", ""), true),
        (allow("ci", "internet", ""), forbid("env:dev", "env:iot", ""), false),
        (allow("ci", "192.0.2.0/24", ""), forbid("env:dev", "internet", ""), true),
    ] {
        let found = between(&format!("{rule}{forbid}"));
        assert_eq!(found.contains("forbids"), contradicts, "{rule}{forbid}{found}");
    }
}

#[test]
fn a_contradiction_names_both_places() {
    let text = format!("{TWO}{}[[forbid]]\nfrom = \"env:dev\"\nto = \"env:prod\"\n", allow("ci", "db", ""));
    let files = [Source::new("p", text)];
    let found = load(&files).unwrap_err();
    assert!(
        found.to_string().contains("p:17:1: rule `r` allows ci to reach db, which p:22 forbids"),
        "{found}"
    );
    let shown = found.render(&files, false);
    assert!(shown.contains("allowed here") && shown.contains("forbidden here"), "{shown}");
}

#[test]
fn what_is_probably_not_meant_is_warned_of() {
    let rest = allow("ci", "db", "ports = [\"tcp/1\"]").replace("\"r\"", "\"rest\"");
    for (rules, expected) in [
        (allow("10.0.0.1", "10.0.0.2", ""), "rule `r` opens nothing: neither end is a workload"),
        (allow("ci", "db", "ports = [\"tcp/1\"]"), "rule `rest` opens nothing that `r` does not open"),
        (allow("env:dev", "env:prod", ""), "rule `rest` opens nothing that `r` does not open"),
        (allow("any", "env:prod", ""), "rule `r` opens env:prod to every other environment"),
        (allow("any", "db", ""), "rule `r` opens db to every other environment"),
        (allow("ci", "mirror", "ports = [\"tcp/443\"]"), "may not ask a resolver"),
        ("[workload.x]\nselect = { cgroup = \"/**/x\" }".into(), "no rule names workload `x`"),
        ("[workload.x]\nselect = { cgroup = \"/**/x\" }".into(), "whoever may create cgroups"),
    ] {
        let found = between(&format!("{rules}\n{rest}"));
        assert!(found.contains(expected), "{rules}{found}");
    }
}

#[test]
fn what_is_meant_is_not_warned_of() {
    for rules in [
        allow("ci", "db", "ports = [\"tcp/1\"]"),
        allow("any", "db", "ports = [\"tcp/443\"]")
            + &allow("any", "ci", "ports = [\"tcp/443\"]").replace("\"r\"", "\"s\""),
        allow("env:dev", "mirror", "ports = [\"tcp/443\"]")
            + "[[allow]]\nfrom = [\"ci\", \"db\"]\nto = \"dns\"\nports = [\"udp/53\"]\n",
    ] {
        assert_eq!(between(&rules), "", "{rules}");
    }
}

#[test]
fn a_rule_is_expired_from_its_second_on() {
    let policy =
        crate::testing::policy(&format!("{TWO}{}", allow("ci", "db", "expires = 2026-01-01T00:00:00Z")));
    let second = 1_767_225_600_000_000_000;
    assert!(crate::expired_rules(&policy, second - 1).is_empty());
    assert_eq!(crate::expired_rules(&policy, second).len(), 1);
}

#[test]
fn places_far_apart_are_both_shown_and_a_flood_of_findings_ends() {
    let gap = "\n".repeat(5_000);
    let files = [Source::new(
        "p",
        format!("[workload.x]\nselect = {{ systemd = \"a.service\" }}{gap}[peer.x]\ncidrs = []\n"),
    )];
    let shown = load(&files).unwrap_err().render(&files, false);
    assert!(shown.contains("p:5002:7") && shown.contains("declared first here"), "{shown}");
    assert!(shown.lines().count() < 20, "{shown}");
    let files = [Source::new("p", "[[allow]]\nfrom = \"x\"\nto = \"y\"\n".repeat(1_000))];
    let shown = load(&files).unwrap_err().render(&files, false);
    assert!(shown.ends_with("… and 1800 more\n"));
    let files = [Source::new("p", format!("[peer.p]\nnames = \"unfinished{gap}"))];
    assert!(load(&files).unwrap_err().render(&files, false).lines().count() < 60);
}

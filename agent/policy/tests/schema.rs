//! Editors agree with `check`: policies/policy.schema.json accepts what the loader accepts, and refuses every wrong key
//! and every value of a wrong kind that the loader refuses.

use std::{collections::BTreeSet, fs, path::Path};

use bulkhead_policy::{Source, json_schema, load};
use jsonschema::Validator;
use serde_json::Value;

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn validator() -> Validator {
    let schema = serde_json::from_str(&json_schema()).unwrap();
    jsonschema::draft7::meta::validate(&schema)
        .unwrap_or_else(|e| panic!("the schema is no JSON Schema: {e}"));
    jsonschema::draft7::new(&schema).unwrap_or_else(|e| panic!("{e}"))
}

/// TOML as editors hand it to a validator: a time is a string.
fn document(text: &str) -> Value {
    fn json(value: toml::Value) -> Value {
        match value {
            toml::Value::Datetime(time) => Value::String(time.to_string()),
            toml::Value::Array(values) => values.into_iter().map(json).collect(),
            toml::Value::Table(table) => table.into_iter().map(|(key, value)| (key, json(value))).collect(),
            toml::Value::String(text) => Value::String(text),
            toml::Value::Integer(number) => number.into(),
            toml::Value::Float(number) => number.into(),
            toml::Value::Boolean(yes) => yes.into(),
        }
    }
    json(toml::from_str(text).unwrap_or_else(|e| panic!("{e}\n{text}")))
}

fn faults(text: &str) -> Vec<String> {
    validator().iter_errors(&document(text)).map(|e| format!("{}: {e}", e.instance_path())).collect()
}

#[test]
fn every_example_is_as_the_schema_says_and_names_it() {
    let files = fs::read_dir(root().join("policies")).unwrap().map(|entry| entry.unwrap().path());
    let examples: Vec<_> = files.filter(|path| path.extension().is_some_and(|e| e == "toml")).collect();
    assert!(examples.len() >= 5, "found only {examples:?}");
    for path in examples {
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(faults(&text), Vec::<String>::new(), "{}", path.display());
        let first = text.lines().next();
        assert_eq!(first, Some("#:schema ./policy.schema.json"), "{}: for editors", path.display());
    }
}

#[test]
fn every_snippet_of_the_reference_that_compiles_is_as_the_schema_says() {
    let page = fs::read_to_string(root().join("docs/policy.md")).unwrap();
    let snippets: Vec<_> =
        page.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(snippets.len() > 5, "found only {} snippets", snippets.len());
    for snippet in snippets {
        assert_eq!(faults(snippet), Vec::<String>::new(), "{snippet}");
    }
}

/// Uses every key.
const WHOLE: &str = r#"
[environment.e]
mode = "audit"
interfaces = ["br0"]
cidrs = "10.0.0.0/8"
[workload.a]
environment = "e"
select = [{ systemd = "a.service" }, { container = { name = "a", image = "b", labels = { c = "d" } } }]
ingress = "isolate"
egress = "allow"
[workload.b]
select = { kubernetes = { namespace = "n", labels = { c = "d" } } }
[workload.c]
select = { cgroup = ["/c", "/d"] }
[peer.p]
environment = "e"
cidrs = ["192.0.2.0/24"]
names = "example.org"
[[allow]]
id = "r"
from = "b"
to = ["c", "p"]
ports = "tcp/1"
expires = 2030-01-01T00:00:00Z
reason = "x"
[[forbid]]
from = "env:e"
to = "b"
ports = ["tcp/2"]
except = ["r"]
reason = "x"
[[test]]
name = "t"
from = "b"
to = "c"
port = ["tcp/1"]
expect = "allow"
"#;

fn loads(text: &str) -> bool {
    load(&[Source::new("p", text)]).is_ok()
}

/// Both accept it, or both refuse it.
#[track_caller]
fn agree(text: &str, good: bool, what: &str) {
    assert_eq!(loads(text), good, "the loader: {what}");
    let faults = faults(text);
    assert_eq!(faults.is_empty(), good, "the schema: {what}: {faults:?}");
}

/// The keys that the loader knows in the table that this one begins, which it names to whoever writes another one.
fn keys_of_loader(table: &str) -> BTreeSet<String> {
    let text = table.replace("KEY", "qqqqqqqqqqqq = 1");
    let findings = load(&[Source::new("p", text.as_str())]).unwrap_err();
    let unknown = findings.iter().find(|finding| finding.message.starts_with("unknown key `qqqqqqqqqqqq`"));
    let help =
        unknown.and_then(|finding| finding.help.clone()).unwrap_or_else(|| panic!("{text}: {findings}"));
    let (_, keys) = help.split_once(" has the keys ").unwrap_or_else(|| panic!("{help}"));
    keys.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The keys that the schema knows in a table: of one that is written in several ways, of all of them.
fn keys_of_schema(schema: &Value) -> BTreeSet<String> {
    let ways = schema["oneOf"].as_array().map_or_else(|| vec![schema], |ways| ways.iter().collect());
    let keys = ways.into_iter().flat_map(|way| way["properties"].as_object().unwrap());
    keys.map(|(key, _)| key.clone()).collect()
}

#[test]
fn loader_and_schema_know_the_same_keys_in_every_table() {
    let schema: Value = serde_json::from_str(&json_schema()).unwrap();
    let mut tables: BTreeSet<_> =
        schema["definitions"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys_of_loader("KEY\n"), keys_of_schema(&schema));
    for (name, table) in [
        ("Environment", "[environment.e]\nKEY\n"),
        ("Workload", "[workload.w]\nKEY\n"),
        ("Selector", "[workload.w]\nselect = { KEY }\n"),
        ("Container", "[workload.w]\nselect = { container = { KEY } }\n"),
        ("Kubernetes", "[workload.w]\nselect = { kubernetes = { KEY } }\n"),
        ("Peer", "[peer.p]\nKEY\n"),
        ("Allow", "[[allow]]\nKEY\n"),
        ("Forbid", "[[forbid]]\nKEY\n"),
        ("Test", "[[test]]\nKEY\n"),
    ] {
        assert_eq!(keys_of_loader(table), keys_of_schema(&schema["definitions"][name]), "{name}");
        tables.remove(name);
    }
    let with_keys = |name: &&str| schema["definitions"][name].to_string().contains("\"properties\"");
    assert_eq!(
        tables.into_iter().filter(with_keys).collect::<Vec<_>>(),
        Vec::<&str>::new(),
        "are not compared"
    );
}

/// So that what is tried below is tried of every key.
#[test]
fn the_policy_that_is_tried_has_every_key() {
    let schema: Value = serde_json::from_str(&json_schema()).unwrap();
    let tables = schema["definitions"].as_object().unwrap().values().chain([&schema]);
    let with_keys = tables.filter(|table| table.to_string().contains("\"properties\""));
    for key in with_keys.flat_map(keys_of_schema) {
        assert!([format!("{key} = "), format!("[{key}")].iter().any(|form| WHOLE.contains(form)), "{key}");
    }
}

#[test]
fn a_wrong_key_is_refused_wherever_it_stands() {
    agree(WHOLE, true, "all keys");
    let keys = WHOLE.lines().filter_map(|line| line.split_once(" = "));
    for (key, _) in keys {
        let misspelt = WHOLE.replacen(&format!("\n{key} = "), &format!("\n{key}x = "), 1);
        assert_ne!(misspelt, WHOLE);
        agree(&misspelt, false, &format!("{key}x"));
    }
    for inner in ["systemd", "container", "image", "kubernetes", "namespace", "cgroup"] {
        agree(&WHOLE.replacen(&format!("{inner} ="), &format!("{inner}x ="), 1), false, inner);
    }
    for table in ["environment", "workload", "peer", "allow", "forbid", "test"] {
        let misspelt = WHOLE.replace(&format!("[{table}"), &format!("[{table}x"));
        assert_ne!(misspelt, WHOLE);
        agree(&misspelt, false, &format!("[{table}x]"));
    }
}

#[test]
fn a_value_of_a_wrong_kind_is_refused_at_every_key() {
    for line in WHOLE.lines().filter(|line| line.contains(" = ")) {
        let (key, _) = line.split_once(" = ").unwrap();
        for wrong in ["1", "true", "[[]]", "[1]", "{ x = 1 }"] {
            let text = WHOLE.replacen(line, &format!("{key} = {wrong}"), 1);
            agree(&text, false, &format!("{key} = {wrong}"));
        }
    }
}

#[test]
fn a_key_that_must_be_there_is_missed_by_both() {
    for key in ["select", "from", "to", "name", "port", "expect"] {
        let line = WHOLE.lines().find(|line| line.starts_with(&format!("{key} = "))).unwrap();
        agree(&WHOLE.replacen(&format!("{line}\n"), "", 1), false, &format!("without {key}"));
    }
    let nobody = WHOLE.replace("cidrs = [\"192.0.2.0/24\"]\nnames = \"example.org\"\n", "");
    agree(&nobody, false, "a peer of no addresses");
}

#[test]
fn what_means_nothing_is_refused_by_both() {
    for (there, instead) in [
        ("\"audit\"", "\"audti\""),
        ("ingress = \"isolate\"", "ingress = \"open\""),
        ("expect = \"allow\"", "expect = \"audit\""),
        ("to = [\"c\", \"p\"]", "to = []"),
        ("ports = [\"tcp/2\"]", "ports = []"),
        ("port = [\"tcp/1\"]", "port = []"),
        ("{ cgroup = [\"/c\", \"/d\"] }", "{ cgroup = [] }"),
        ("{ cgroup = [\"/c\", \"/d\"] }", "{}"),
        ("{ cgroup = [\"/c\", \"/d\"] }", "[]"),
        ("{ cgroup = [\"/c\", \"/d\"] }", "{ cgroup = \"/c\", systemd = \"c.service\" }"),
        ("namespace = \"n\", ", ""),
    ] {
        let text = WHOLE.replacen(there, instead, 1);
        assert_ne!(text, WHOLE);
        agree(&text, false, instead);
    }
}

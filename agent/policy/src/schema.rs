//! The JSON Schema of policy files, for editors that complete and check as one writes.
//!
//! These types mirror what [`crate::load`] reads. They only describe: names, addresses, ports and selectors are
//! checked by the loader, which says more about a mistake than a schema can.

use std::collections::BTreeMap;

use schemars::{JsonSchema, generate::SchemaSettings};
use serde::Deserialize;

/// A policy of Bulkhead: who may open connections to whom.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Bulkhead policy")]
#[expect(dead_code, reason = "the types are read by the schema's generator")]
pub(crate) struct PolicyFile {
    /// Trust boundaries. Traffic between two of them is refused unless a rule allows it.
    #[serde(default)]
    environment: BTreeMap<String, Environment>,
    /// Processes on this host. Each is isolated in both directions.
    #[serde(default)]
    workload: BTreeMap<String, Workload>,
    /// Addresses and DNS names that are no workload.
    #[serde(default)]
    peer: BTreeMap<String, Peer>,
    /// Rules: who may open connections to whom, on which ports.
    #[serde(default)]
    allow: Vec<Allow>,
    /// Assertions: a policy with a rule that contradicts one does not compile.
    #[serde(default)]
    forbid: Vec<Forbid>,
    /// What the policy promises.
    #[serde(default)]
    test: Vec<Test>,
}

/// One of them, or a list.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "the types are read by the schema's generator")]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

/// One of them, or a list that is not empty.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "the types are read by the schema's generator")]
enum OneOrSome<T> {
    One(T),
    Some(#[schemars(length(min = 1))] Vec<T>),
}

/// A trust boundary.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the types are read by the schema's generator")]
struct Environment {
    /// How seriously it is taken.
    mode: Option<Mode>,
    /// On a router: the interfaces that it is behind.
    interfaces: Option<OneOrMany<String>>,
    /// Addresses that are in it, such as "10.20.0.0/16".
    cidrs: Option<OneOrMany<String>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    /// What no rule allows is refused.
    Enforce,
    /// What no rule allows passes and is reported.
    Audit,
    /// Its workloads are left alone.
    Off,
}

/// Processes on this host.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the types are read by the schema's generator")]
struct Workload {
    /// The environment that it is in.
    environment: Option<String>,
    /// What names its processes.
    select: OneOrSome<Selector>,
    /// May everybody connect to it?
    ingress: Option<SideMode>,
    /// May it connect to everybody?
    egress: Option<SideMode>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum SideMode {
    /// Only what a rule allows.
    Isolate,
    /// Everything.
    Allow,
}

/// What names processes.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[expect(dead_code, reason = "the types are read by the schema's generator")]
enum Selector {
    /// Units of the system manager, such as "nginx.service"; `*` may stand in a name.
    Systemd(OneOrSome<String>),
    /// Cgroup paths, such as "/ci.slice/**".
    Cgroup(OneOrSome<String>),
    /// Containers.
    Container(Container),
    /// Kubernetes pods.
    Kubernetes(Kubernetes),
}

/// Containers. What is left out matches all.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the types are read by the schema's generator")]
struct Container {
    /// The container's name; `*` may stand in it.
    name: Option<String>,
    /// The name of its image.
    image: Option<String>,
    /// Its labels.
    labels: Option<BTreeMap<String, String>>,
}

/// Kubernetes pods.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the types are read by the schema's generator")]
struct Kubernetes {
    /// Their namespace; `*` may stand in it.
    namespace: String,
    /// Their labels.
    labels: Option<BTreeMap<String, String>>,
}

/// Addresses and DNS names that are no workload.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("anyOf" = [{ "required": ["cidrs"] }, { "required": ["names"] }]))]
#[expect(dead_code, reason = "the types are read by the schema's generator")]
struct Peer {
    /// The environment that it is in.
    environment: Option<String>,
    /// Its addresses, such as "192.0.2.0/24".
    cidrs: Option<OneOrMany<String>>,
    /// Its DNS names, such as "*.example.org".
    names: Option<OneOrMany<String>>,
}

/// A rule.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the types are read by the schema's generator")]
struct Allow {
    /// Its name in reports.
    id: Option<String>,
    /// Who may open connections: a workload, a peer, "env:NAME", an address or range, any, host, dns, private, internet.
    from: OneOrSome<String>,
    /// To whom.
    to: OneOrSome<String>,
    /// To which ports, such as "tcp/443"; left out: every protocol and port.
    ports: Option<OneOrSome<String>>,
    /// From then on it holds no more, such as 2026-12-31T00:00:00Z (without quotes).
    #[schemars(with = "Option<String>")]
    expires: Option<toml::value::Datetime>,
    /// Why it is there.
    reason: Option<String>,
}

/// What no rule may allow.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the types are read by the schema's generator")]
struct Forbid {
    /// Who must not open connections.
    from: OneOrSome<String>,
    /// To whom.
    to: OneOrSome<String>,
    /// To which ports; left out: every protocol and port.
    ports: Option<OneOrSome<String>>,
    /// Ids of rules that may.
    except: Option<OneOrMany<String>>,
    /// Why.
    reason: Option<String>,
}

/// What the policy promises.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the types are read by the schema's generator")]
struct Test {
    /// What it shows.
    name: String,
    /// Who connects: each of them.
    from: OneOrSome<String>,
    /// To whom: each of them.
    to: OneOrSome<String>,
    /// To which ports: each of them.
    port: OneOrSome<String>,
    /// What must come of it.
    expect: Expectation,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Expectation {
    /// It is allowed.
    Allow,
    /// It is refused, or would be if it were enforced.
    Deny,
}

/// The JSON Schema (draft 7, which editors of TOML know best) of a policy file.
pub fn json_schema() -> String {
    let schema = SchemaSettings::draft07().into_generator().into_root_schema_for::<PolicyFile>();
    // A schema is plain JSON: nothing in it can fail to be written.
    format!("{:#}\n", schema.as_value())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_schema_is_the_generated_one() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../policies/policy.schema.json");
        let generated = json_schema();
        if std::env::var_os("UPDATE_SCHEMA").is_some() {
            std::fs::write(&path, &generated).unwrap();
        }
        let shipped = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            shipped == generated,
            "run the tests with UPDATE_SCHEMA=1 to write policies/policy.schema.json anew"
        );
    }

    /// The loader and the schema agree on every key: what one accepts here, the other does.
    #[test]
    fn the_schema_knows_the_keys_that_the_loader_knows() {
        let whole = r#"
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
        crate::testing::policy(whole);
        toml::from_str::<PolicyFile>(whole).unwrap();
        for line in whole.lines().filter(|l| l.contains('=')) {
            let (key, _) = line.trim().split_once(" =").unwrap();
            let misspelt = whole.replacen(&format!("{key} ="), &format!("{key}x ="), 1);
            assert!(toml::from_str::<PolicyFile>(&misspelt).is_err(), "the schema knows {key}x");
            assert!(crate::testing::findings(&misspelt).contains("unknown key"), "the loader knows {key}x");
        }
    }
}

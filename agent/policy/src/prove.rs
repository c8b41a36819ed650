//! The policy's own `[[test]]`s.

use bulkhead_common::{Protocol, Verdict};
use serde::Serialize;

use crate::{
    connection::{Connection, Explanation, Party, explain},
    inventory::Inventory,
    language::{Expectation, Policy, Test},
    nearest::nearest_rule,
    parties::{Addresses, parties, services},
    unresolved::Roll,
};

/// What came of one test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TestResult {
    /// Its name.
    pub name: String,
    /// The file that it is in.
    pub file: String,
    /// Its line.
    pub line: u32,
    /// Did every connection come out as expected?
    pub passed: bool,
    /// How many connections were asked for: one of each kind that the policy tells apart.
    pub connections: usize,
    /// Those that came out otherwise, explained in words; at most [`TestResult::SHOWN`].
    pub failures: Vec<String>,
}

impl TestResult {
    /// The most failures that one test lists.
    pub const SHOWN: usize = 5;
}

/// Asks every `[[test]]` of the policy at `now_ns` (nanoseconds since the Unix epoch). Ends that stand for several
/// (environments, ranges, `any`) are each of them. What would be refused if it were enforced counts as refused.
pub fn run_tests(policy: &Policy, inventory: &Inventory, now_ns: u64) -> Vec<TestResult> {
    let roll = Roll::new([policy], inventory);
    let outlook = roll.outlook(policy, inventory);
    let addresses = Addresses::new([policy], inventory);
    let ask = |test: &Test| {
        let everybody = |ends: &[_]| -> Vec<_> {
            ends.iter().flat_map(|end| parties(policy, inventory, &addresses, &outlook, *end)).collect()
        };
        let (from, to) = (everybody(&test.from), everybody(&test.to));
        let services: Vec<_> = test.ports.iter().flat_map(|p| services(policy, p)).collect();
        let mut result = TestResult {
            name: test.name.clone(),
            file: test.place.file.to_string(),
            line: test.place.line,
            passed: true,
            connections: 0,
            failures: Vec::new(),
        };
        for (from, to) in from.iter().flat_map(|f| to.iter().map(move |t| (*f, *t))).filter(|(f, t)| f != t) {
            for (protocol, port) in &services {
                let connection = Connection { from, to, protocol: Protocol(*protocol), port: *port };
                if services.len() > 1 && !connection.is_possible() {
                    continue;
                }
                // The nearest rule matters only of the few that are shown.
                let found = explain(&outlook, &connection, now_ns, |_| None);
                // Between two addresses nothing is decided on this host.
                if !found.ends.is_empty() {
                    result.count(test.expect, &found, || {
                        let found =
                            explain(&outlook, &connection, now_ns, |asked| nearest_rule(policy, asked));
                        let name = |party| match party {
                            Party::Address(ip) => addresses.alike(ip).in_words(),
                            other => roll.party_name(policy, other),
                        };
                        let [from, to] = [from, to].map(name);
                        found.in_words_between(policy, &from, &to)
                    });
                }
            }
        }
        if result.connections == 0 {
            result.passed = false;
            result.failures.push(
                "asks for no connection: no workload is at either end, or ICMP is of the other IP version"
                    .into(),
            );
        }
        result
    };
    policy.tests.iter().map(ask).collect()
}

impl TestResult {
    /// Counts a connection; `words` explain it.
    fn count(&mut self, expect: Expectation, found: &Explanation, words: impl FnOnce() -> String) {
        self.connections += 1;
        if (found.verdict() == Verdict::Allowed) == (expect == Expectation::Allow) {
            return;
        }
        self.passed = false;
        if self.failures.len() < Self::SHOWN {
            self.failures.push(words());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::policy;

    const SHOP: &str = r#"
[environment.dev]
mode = "audit"
[workload.web]
select = { systemd = "web.service" }
[workload.db]
select = { systemd = "db.service" }
[workload.ci]
environment = "dev"
select = { systemd = "ci.service" }
[[allow]]
from = "web"
to = "db"
ports = ["tcp/5432-5433"]
[[allow]]
from = "ci"
to = "dns"
ports = ["udp/53"]
[peer.mirrors]
names = ["deb.example.org"]
[[allow]]
from = "ci"
to = "mirrors"
ports = ["tcp/443"]
"#;

    #[track_caller]
    fn outcome(from: &str, to: impl std::fmt::Debug, port: &str, expect: &str) -> TestResult {
        let test = format!(
            "[[test]]\nname = \"t\"\nfrom = {from:?}\nto = {to:?}\nport = {port:?}\nexpect = {expect:?}"
        );
        run_tests(&policy(&format!("{SHOP}{test}")), &Inventory::default(), 0).remove(0)
    }

    #[test]
    fn a_test_passes_if_each_connection_comes_out_as_expected() {
        for (from, to, port, expect, passes) in [
            ("web", "db", "tcp/5432", "allow", true),
            ("web", "db", "tcp/5432", "deny", false),
            ("web", "db", "tcp/5432-5433", "allow", true),
            ("web", "db", "tcp/5432-5434", "allow", false),
            ("web", "db", "tcp/5432-5434", "deny", false),
            ("env:dev", "db", "tcp/*", "deny", true),
            ("any", "db", "tcp/5432", "deny", false),
            ("any", "ci", "tcp/*", "deny", true),
            ("ci", "internet", "tcp/443", "deny", true),
            ("ci", "dns", "udp/53", "allow", true),
            ("ci", "mirrors", "tcp/443", "allow", true),
            ("web", "mirrors", "tcp/443", "deny", true),
            ("ci", "192.0.2.0/24", "udp/53", "deny", true),
        ] {
            let result = outcome(from, to, port, expect);
            assert_eq!(result.passed, passes, "{from} -> {to} {port} {expect}: {result:?}");
        }
    }

    #[test]
    fn whom_only_a_host_knows_is_named_in_a_failure() {
        let result = outcome("ci", ["dns", "mirrors"], "udp/54", "allow");
        let first = |n: usize| result.failures[n].lines().next();
        assert_eq!(first(0), Some("would-deny: ci -> dns udp/54"));
        assert_eq!(first(1), Some("would-deny: ci -> deb.example.org udp/54"));
    }

    #[test]
    fn a_failure_names_all_whom_an_address_stands_for() {
        let result = outcome("web", "192.0.2.0/24", "tcp/80", "allow");
        assert_eq!(result.failures[0].lines().next(), Some("denied: web -> 192.0.2.0/24 tcp/80"));
    }

    #[test]
    fn this_machine_is_more_than_loopback() {
        let test =
            "[[test]]\nname = \"t\"\nfrom = \"ci\"\nto = \"host\"\nport = \"tcp/80\"\nexpect = \"allow\"\n";
        let rule = |to: &str| format!("{SHOP}[[allow]]\nfrom = \"ci\"\nto = {to}\n{test}");
        let passes = |to: &str| {
            run_tests(&policy(&rule(to)), &Inventory::default(), 0).iter().all(|result| result.passed)
        };
        assert!(passes("\"host\"") && !passes("[\"127.0.0.0/8\", \"::1\"]"));
    }

    #[test]
    fn an_echo_request_to_an_ipv4_address_is_none_of_icmpv6() {
        let rule = "[[allow]]\nfrom = \"web\"\nto = \"192.0.2.1\"\nports = [\"icmp/8\"]\n";
        let test = "[[test]]\nname = \"t\"\nfrom = \"web\"\nto = \"192.0.2.1\"\nport = \"icmp/echo-request\"\nexpect = \"allow\"\n";
        let results = run_tests(&policy(&format!("{SHOP}{rule}{test}")), &Inventory::default(), 0);
        assert!(results.iter().all(|result| result.passed && result.connections == 1), "{results:?}");
    }

    #[test]
    fn a_test_of_nothing_fails() {
        let result = outcome("10.0.0.1", "10.0.0.2", "tcp/1", "deny");
        assert!(!result.passed && result.failures[0].contains("no workload"), "{result:?}");
    }
}

//! The rule that would have allowed a refused connection, had it said a little more.

use std::net::IpAddr;

use bulkhead_common::{Address, Direction, Protocol};

use crate::{
    describe::names_address,
    language::{End, Policy, Rule, WorkloadId},
};

/// A connection that was refused at one end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked<'e> {
    /// Which way it was opened, seen from the subject.
    pub direction: Direction,
    /// The workload at whose end it was refused.
    pub subject: WorkloadId,
    /// The workload at the other end, if there is one.
    pub peer_workload: Option<WorkloadId>,
    /// The other end's address.
    pub peer_address: IpAddr,
    /// Ends of rules that the other end is known to be, whatever its address says.
    pub peer_is: &'e [End],
    /// IP protocol.
    pub protocol: Protocol,
    /// The service port ([`bulkhead_common::Flow::port`]).
    pub port: u16,
    /// When, in nanoseconds since the Unix epoch.
    pub now_ns: u64,
}

/// The rule that comes nearest to allowing a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NearestRule {
    /// Index into [`Policy::rules`].
    pub rule: usize,
    /// The keys of the rule that stand against the connection: `from`, `to`, `ports`, `expires`.
    pub differs: Vec<&'static str>,
}

/// The rule that differs in the fewest keys; of equals one that names the subject, then the first. A rule that names
/// neither end is not near.
pub fn nearest_rule(policy: &Policy, asked: &Asked<'_>) -> Option<NearestRule> {
    let near = policy.rules.iter().enumerate().filter_map(|(n, rule)| {
        let (from, to) = ends_match(policy, rule, asked);
        let names_subject = if asked.direction == Direction::Egress { from } else { to };
        let ports = rule.ports.is_empty() || rule.ports.iter().any(|p| p.holds(asked.protocol, asked.port));
        let current = rule.expires.is_none_or(|end| asked.now_ns < end);
        let keys = [("from", from), ("to", to), ("ports", ports), ("expires", current)];
        let differs: Vec<_> = keys.into_iter().filter(|(_, same)| !same).map(|(key, _)| key).collect();
        (from || to).then_some(((differs.len(), !names_subject, n), NearestRule { rule: n, differs }))
    });
    near.min_by_key(|(order, _)| *order).map(|(_, rule)| rule)
}

/// Do `from` and `to` name the ends? At the subject's end only a workload's name opens anything.
fn ends_match(policy: &Policy, rule: &Rule, asked: &Asked<'_>) -> (bool, bool) {
    let local = |ends: &[End]| ends.iter().any(|e| names_workload(policy, *e, asked.subject));
    let address = Address::from(asked.peer_address);
    let far = |ends: &[End]| {
        ends.iter().any(|e| {
            asked.peer_workload.is_some_and(|w| names_workload(policy, *e, w))
                || names_address(policy, *e, address)
                || asked.peer_is.contains(e)
        })
    };
    match asked.direction {
        Direction::Egress => (local(&rule.from), far(&rule.to)),
        Direction::Ingress => (far(&rule.from), local(&rule.to)),
    }
}

/// Does `end` name the workload, itself or by its environment?
pub(crate) fn names_workload(policy: &Policy, end: End, workload: WorkloadId) -> bool {
    match end {
        End::Workload(w) => w == workload,
        End::Environment(e) => policy.workloads[workload.0].environment == Some(e),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ip, policy};

    const SHOP: &str = r#"
        [environment.prod]
        [environment.dev]
        [workload.web]
        environment = "prod"
        select = { systemd = "web.service" }
        [workload.db]
        environment = "prod"
        select = { systemd = "db.service" }
        [workload.ci]
        environment = "dev"
        select = { systemd = "ci.service" }
        [[allow]]
        id = "web-db"
        from = "web"
        to = "db"
        ports = ["tcp/5432"]
        [[allow]]
        id = "ci-out"
        from = "ci"
        to = "192.0.2.0/24"
        ports = ["tcp/443"]
        expires = 2026-01-01T00:00:00Z
    "#;

    fn asked(policy: &Policy, from: &str, to: &str, port: u16) -> Asked<'static> {
        let (peer_workload, address) = match policy.workload(to) {
            Some(w) => (Some(w), "127.0.0.1"),
            None => (None, to),
        };
        Asked {
            direction: Direction::Egress,
            subject: policy.workload(from).unwrap(),
            peer_workload,
            peer_address: ip(address),
            peer_is: &[],
            protocol: Protocol::TCP,
            port,
            now_ns: 1_800_000_000_000_000_000,
        }
    }

    #[track_caller]
    fn expect(asked: &Asked<'_>, policy: &Policy, id: &str, differs: &[&str]) {
        let nearest = nearest_rule(policy, asked).expect("a near rule");
        assert_eq!((policy.rules[nearest.rule].id.as_str(), &nearest.differs[..]), (id, differs));
    }

    #[test]
    fn it_differs_in_as_few_keys_as_can_be() {
        let p = policy(SHOP);
        expect(&asked(&p, "ci", "db", 5432), &p, "web-db", &["from"]);
        expect(&asked(&p, "web", "db", 5433), &p, "web-db", &["ports"]);
        expect(&asked(&p, "ci", "192.0.2.7", 443), &p, "ci-out", &["expires"]);
        expect(&asked(&p, "web", "192.0.2.7", 5432), &p, "web-db", &["to"]);
    }

    #[test]
    fn the_other_end_asks_its_own_side() {
        let p = policy(SHOP);
        let at_db = Asked {
            direction: Direction::Ingress,
            subject: p.workload("db").unwrap(),
            peer_workload: p.workload("ci"),
            ..asked(&p, "ci", "db", 5432)
        };
        expect(&at_db, &p, "web-db", &["from"]);
    }

    #[test]
    fn a_rule_that_names_neither_end_is_not_near() {
        let p = policy(SHOP);
        assert_eq!(nearest_rule(&p, &asked(&p, "db", "203.0.113.1", 5432)), None);
    }
}

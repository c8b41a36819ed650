//! The rule that would have allowed a refused connection, had it said a little more.

use std::{
    cell::RefCell,
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    slice,
    sync::Arc,
};

use bulkhead_common::{Address, Direction, Protocol};

use crate::{
    describe::{environment_of, names_address},
    language::{Cidr, End, Policy, Rule, WorkloadId},
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
    /// The other end's address. None: it is the workload by its socket, whatever address that has, or nobody's that is known.
    pub peer_address: Option<IpAddr>,
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
    nearest_among(policy, asked, 0..policy.rules.len())
}

/// The nearest of these rules.
fn nearest_among(
    policy: &Policy,
    asked: &Asked<'_>,
    rules: impl Iterator<Item = usize>,
) -> Option<NearestRule> {
    let near = rules.filter_map(|n| {
        let rule = &policy.rules[n];
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

/// The rules of a policy by the ends that they name: [`nearest_rule`] for very many connections.
#[derive(Debug)]
pub struct NearRules {
    from: HashMap<End, Vec<usize>>,
    to: HashMap<End, Vec<usize>>,
    /// The ends that are ranges of addresses or have them, and how long their prefixes are.
    ranges: HashMap<Cidr, Vec<End>>,
    lengths: BTreeSet<u8>,
    /// The ends that name an address, of those that were asked for.
    known: RefCell<HashMap<IpAddr, Arc<[End]>>>,
}

impl NearRules {
    /// So many addresses are remembered.
    const KNOWN: usize = 4_096;

    /// Of all rules of a policy.
    pub fn new(policy: &Policy) -> Self {
        let [mut from, mut to] = [HashMap::<_, Vec<_>>::new(), HashMap::new()];
        for (n, rule) in policy.rules.iter().enumerate() {
            rule.from.iter().for_each(|end| from.entry(*end).or_default().push(n));
            rule.to.iter().for_each(|end| to.entry(*end).or_default().push(n));
        }
        let mut ranges: HashMap<Cidr, Vec<End>> = HashMap::new();
        for end in from.keys().chain(to.keys().filter(|end| !from.contains_key(end))) {
            let cidrs = match end {
                End::Cidr(cidr) => slice::from_ref(cidr),
                End::Peer(p) => &policy.peers[*p].cidrs,
                _ => &[],
            };
            for cidr in cidrs {
                ranges.entry(*cidr).or_default().push(*end);
            }
        }
        let lengths = ranges.keys().map(|cidr| cidr.prefix_len()).collect();
        Self { from, to, ranges, lengths, known: RefCell::default() }
    }

    /// As [`nearest_rule`], of the same policy.
    pub fn nearest(&self, policy: &Policy, asked: &Asked<'_>) -> Option<NearestRule> {
        let (own, far) = match asked.direction {
            Direction::Egress => (&self.from, &self.to),
            Direction::Ingress => (&self.to, &self.from),
        };
        let addressed = asked.peer_address.map(|ip| self.of_address(policy, ip));
        let addressed = addressed.iter().flat_map(|ends| ends.iter()).copied();
        let peer = asked.peer_workload.into_iter().flat_map(|w| of_workload(policy, w));
        let peer = peer.chain(addressed).chain(asked.peer_is.iter().copied()).chain([End::Any]);
        let rules = of_workload(policy, asked.subject).filter_map(|end| own.get(&end));
        let rules = rules.chain(peer.filter_map(|end| far.get(&end)));
        nearest_among(policy, asked, rules.flatten().copied())
    }

    /// The ends that name an address.
    fn of_address(&self, policy: &Policy, ip: IpAddr) -> Arc<[End]> {
        let find = || {
            let address = Address::from(ip);
            let built_in = End::BUILT_IN.iter().map(|(_, end)| *end).filter(|end| *end != End::Any);
            let built_in = built_in.filter(|end| names_address(policy, *end, address));
            let environment = environment_of(policy, address).map(End::Environment);
            let single = Cidr::single(ip);
            let around = self.lengths.iter().map(|len| single.widened(*len)).filter(|c| c.covers(single));
            let ranges = around.filter_map(|cidr| self.ranges.get(&cidr)).flatten().copied();
            built_in.chain(environment).chain(ranges).collect()
        };
        let mut known = self.known.borrow_mut();
        if known.len() >= Self::KNOWN {
            known.clear();
        }
        Arc::clone(known.entry(ip).or_insert_with(find))
    }
}

/// The ends that name a workload.
fn of_workload(policy: &Policy, workload: WorkloadId) -> impl Iterator<Item = End> {
    let environment = policy.workloads[workload.0].environment.map(End::Environment);
    [Some(End::Workload(workload)), environment].into_iter().flatten()
}

/// Do `from` and `to` name the ends? At the subject's end only a workload's name opens anything.
fn ends_match(policy: &Policy, rule: &Rule, asked: &Asked<'_>) -> (bool, bool) {
    let local = |ends: &[End]| ends.iter().any(|e| names_workload(policy, *e, asked.subject));
    let address = asked.peer_address.map(Address::from);
    let far = |ends: &[End]| {
        ends.iter().any(|e| {
            *e == End::Any
                || asked.peer_workload.is_some_and(|w| names_workload(policy, *e, w))
                || address.is_some_and(|address| names_address(policy, *e, address))
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
            Some(w) => (Some(w), None),
            None => (None, Some(ip(to))),
        };
        Asked {
            direction: Direction::Egress,
            subject: policy.workload(from).unwrap(),
            peer_workload,
            peer_address: address,
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
    fn looking_rules_up_by_their_ends_finds_the_same() {
        const NETWORKS: &str = r#"
            [environment.lan]
            cidrs = ["10.0.0.0/8"]
            [peer.nas]
            environment = "prod"
            cidrs = ["10.1.0.0/16", "2001:db8::/32"]
            [peer.mirrors]
            names = ["deb.example.org"]
        "#;
        let ends = [
            "any",
            "host",
            "private",
            "internet",
            "dns",
            "web",
            "env:prod",
            "env:lan",
            "nas",
            "mirrors",
            "10.1.2.0/24",
            "10.1.2.3",
            "::/0",
            "0.0.0.0/0",
        ];
        let rule = |n: usize, from, to| {
            format!(
                "[[allow]]\nid = \"r{n}\"\nfrom = {from:?}\nto = {to:?}\nports = [\"tcp/{}\"]\n",
                n % 3 + 1
            )
        };
        let rules = ends
            .iter()
            .enumerate()
            .flat_map(|(n, end)| [rule(2 * n, "db", *end), rule(2 * n + 1, *end, "ci")]);
        let p = policy(&rules.fold(format!("{SHOP}{NETWORKS}"), |text, rule| text + &rule));
        let near = NearRules::new(&p);
        let mirrors = p.peers.iter().position(|peer| peer.name == "mirrors").map(End::Peer);
        let mirrors = [Vec::from_iter(mirrors), Vec::new()];
        let mut found = 0;
        for subject in (0..p.workloads.len()).map(WorkloadId) {
            for address in
                ["10.1.2.3", "10.1.9.9", "10.9.9.9", "127.0.0.1", "9.9.9.9", "2001:db8::1", "::1", "fe80::1"]
            {
                for peer_workload in [None, p.workload("web"), p.workload("db")] {
                    for (direction, peer_is, port) in [
                        (Direction::Egress, &mirrors[0], 1),
                        (Direction::Egress, &mirrors[1], 2),
                        (Direction::Ingress, &mirrors[1], 3),
                    ] {
                        let asked = Asked {
                            direction,
                            subject,
                            peer_workload,
                            peer_address: peer_workload.is_none().then(|| ip(address)),
                            peer_is,
                            port,
                            ..asked(&p, "web", "db", port)
                        };
                        let nearest = nearest_rule(&p, &asked);
                        assert_eq!(near.nearest(&p, &asked), nearest, "{asked:?}");
                        found += usize::from(nearest.is_some());
                    }
                }
            }
        }
        assert!(found > 100, "{found} have a nearest rule");
    }

    #[test]
    fn a_rule_that_names_neither_end_is_not_near() {
        let p = policy(SHOP);
        assert_eq!(nearest_rule(&p, &asked(&p, "db", "203.0.113.1", 5432)), None);
    }
}

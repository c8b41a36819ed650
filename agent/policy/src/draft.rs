//! The rule that would allow what was refused: drafted, and proven on the policy that refused it.

use bulkhead_common::{Direction, Reason, SubjectId, Verdict};

use crate::{
    compile::{Compiled, compile},
    inventory::Inventory,
    language::{Cidr, Policy, WorkloadId, load},
    one_end::OneEnd,
    service::service,
    text::{Severity, Source},
};

/// A rule that allows one kind of connection and nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// One `[[allow]]` in TOML, to be added to any file of the policy, with comments on what could be written instead.
    pub text: String,
    /// What it allows.
    pub words: String,
}

/// Why there is no such rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoDraft {
    /// The policy that it is asked of does not compile.
    #[error("the policy does not compile: {0}")]
    Policy(String),
    /// It is no longer refused.
    #[error("the policy in force allows it")]
    Allowed,
    /// It was not refused for want of a rule.
    #[error("no rule would allow it: it is refused as {}", .0.name())]
    NoMatterOfRules(Reason),
    /// The rule would contradict something else.
    #[error("a rule that allows it would be refused: {0}")]
    Refused(String),
    /// There is something that the rule would not be enough for.
    #[error("one rule would not be enough: this is a bug")]
    NotEnough,
}

/// Drafts the rule that allows what an end has refused, under the policy in `sources` on this host, at `now_ns`
/// (nanoseconds since the Unix epoch). Added to the policy it compiles, and allows it at both ends.
pub fn draft(
    sources: &[Source],
    inventory: &Inventory,
    refused: &OneEnd,
    now_ns: u64,
) -> Result<Draft, NoDraft> {
    let policy = load(sources).map_err(|errors| NoDraft::Policy(errors.to_string()))?.policy;
    let compiled = compile(&policy, inventory);
    let decision = compiled.decide(refused, now_ns);
    match (decision.verdict, decision.reason) {
        (Verdict::Allowed, _) => return Err(NoDraft::Allowed),
        (_, Reason::NoRule | Reason::Expired) => {}
        (_, reason) => return Err(NoDraft::NoMatterOfRules(reason)),
    }
    let peer = compiled.peer_workload(refused);
    let draft = written(&policy, inventory, refused, peer);

    let with_it: Vec<Source> =
        sources.iter().cloned().chain([Source::new("the drafted rule", draft.text.clone())]).collect();
    let policy = load(&with_it).map_err(|findings| {
        let errors = findings.iter().filter(|finding| finding.severity == Severity::Error);
        let messages: Vec<_> = errors.map(|error| error.message.clone()).collect();
        NoDraft::Refused(messages.join("; "))
    })?;
    let compiled = compile(&policy.policy, inventory);
    let other = peer.map(|peer| OneEnd {
        own: peer,
        direction: match refused.direction {
            Direction::Egress => Direction::Ingress,
            Direction::Ingress => Direction::Egress,
        },
        peer: Some(refused.own),
        ..*refused
    });
    let passes = |end: &OneEnd| compiled.decide(end, now_ns).verdict == Verdict::Allowed;
    if passes(refused) && other.is_none_or(|other| passes(&other)) {
        Ok(draft)
    } else {
        Err(NoDraft::NotEnough)
    }
}

impl Compiled {
    /// The workload at the other end, known by its socket or by an address that it has to itself.
    fn peer_workload(&self, end: &OneEnd) -> Option<WorkloadId> {
        let by_address = || {
            let subject = self.peer(end.peer_address).subject;
            let known = subject != SubjectId::NONE && subject != SubjectId::UNIDENTIFIED;
            known.then(|| WorkloadId(subject.0 as usize - 1))
        };
        end.peer.or_else(by_address)
    }
}

fn written(policy: &Policy, inventory: &Inventory, refused: &OneEnd, peer: Option<WorkloadId>) -> Draft {
    let own = policy.workloads[refused.own.0].name.clone();
    let service = service(refused.protocol, refused.port);
    let (far, wider) = match peer {
        Some(peer) => (policy.workloads[peer.0].name.clone(), Vec::new()),
        None => by_address(policy, inventory, refused),
    };
    let (from, to, key) = match refused.direction {
        Direction::Egress => (own, far, "to"),
        Direction::Ingress => (far, own, "from"),
    };
    let id = id(policy, &[&from, &to, &service]);
    let comments: Vec<_> = wider.iter().map(|end| format!("# wider: {key} = {end:?}\n")).collect();
    let rule = format!("[[allow]]\nid = {id:?}\nfrom = {from:?}\nto = {to:?}\nports = [{service:?}]\n");
    let text = comments.concat() + &rule;
    Draft { text, words: format!("{from} may reach {to} on {service}") }
}

/// Who has the address and nothing else, as a rule names him, and the names that he shares with others.
fn by_address(policy: &Policy, inventory: &Inventory, refused: &OneEnd) -> (String, Vec<String>) {
    let address = refused.peer_address;
    let single = Cidr::single(address.into());
    let exact = policy.peers.iter().find(|peer| peer.cidrs == [single] && peer.names.is_empty());
    let holds = |cidrs: &[Cidr]| cidrs.iter().any(|cidr| cidr.holds(address));
    let peers = policy.peers.iter().filter(|peer| {
        let named = peer.names.iter().filter_map(|name| inventory.names.get(name));
        holds(&peer.cidrs) || named.flatten().any(|ip| bulkhead_common::Address::from(*ip) == address)
    });
    let environments = policy.environments.iter().filter(|environment| holds(&environment.cidrs));
    let shared = peers.filter(|peer| exact.is_none_or(|exact| exact.name != peer.name));
    let wider = shared
        .map(|peer| peer.name.clone())
        .chain(environments.map(|environment| format!("env:{}", environment.name)));
    (exact.map_or_else(|| single.to_string(), |peer| peer.name.clone()), wider.collect())
}

/// The longest id that a rule may have.
const LONGEST: usize = 63;

/// An id that no rule has yet and that tells what the rule is about.
fn id(policy: &Policy, parts: &[&str]) -> String {
    let fit = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_') { c } else { '-' };
    let about: String = parts.join("-").chars().map(fit).collect();
    let about = about.trim_matches('-');
    let mut numbers = 1..;
    loop {
        let number = numbers.next().unwrap_or(0);
        let end = if number == 1 { String::new() } else { format!("-{number}") };
        let id: String = about.chars().take(LONGEST - end.len()).chain(end.chars()).collect();
        if policy.rules.iter().all(|rule| rule.id != id) {
            return id;
        }
    }
}

#[cfg(test)]
mod tests {
    use bulkhead_common::Protocol;

    use super::*;
    use crate::testing::ip;

    const SHOP: &str = r#"
[environment.prod]
cidrs = ["10.0.0.0/8"]
[environment.dev]
[workload.ci]
environment = "dev"
select = { systemd = "ci.service" }
[workload.db]
environment = "prod"
select = { systemd = "db.service" }
[peer.nas]
cidrs = ["10.1.2.0/24"]
[peer.mirror]
cidrs = ["192.0.2.7"]
[peer.cdn]
names = ["cdn.example.org"]
[[allow]]
id = "ci-db-tcp-5432"
from = "ci"
to = "db"
ports = ["tcp/5433"]
"#;

    /// ci's attempt to reach somebody.
    fn attempt(to: &str, protocol: Protocol, port: u16) -> OneEnd {
        let peer = (to == "db").then_some(WorkloadId(1));
        let address = if to == "db" { "127.0.0.1" } else { to };
        OneEnd {
            own: WorkloadId(0),
            direction: Direction::Egress,
            peer,
            peer_address: ip(address).into(),
            protocol,
            port,
        }
    }

    fn drafted(more: &str, refused: &OneEnd) -> Result<String, NoDraft> {
        let names = [("cdn.example.org".to_owned(), [ip("198.51.100.9")].into())].into();
        let inventory = Inventory { names, ..Inventory::default() };
        let sources = [Source::new("shop.toml", format!("{SHOP}{more}"))];
        draft(&sources, &inventory, refused, 0).map(|draft| draft.text)
    }

    #[test]
    fn a_workload_is_named_and_the_id_is_free() {
        assert_eq!(
            drafted("", &attempt("db", Protocol::TCP, 5432)).unwrap(),
            "[[allow]]\nid = \"ci-db-tcp-5432-2\"\nfrom = \"ci\"\nto = \"db\"\nports = [\"tcp/5432\"]\n"
        );
    }

    #[test]
    fn an_address_is_opened_alone_and_what_holds_it_is_told() {
        assert_eq!(
            drafted("", &attempt("10.1.2.3", Protocol::UDP, 53)).unwrap(),
            "# wider: to = \"nas\"\n# wider: to = \"env:prod\"\n[[allow]]\nid = \"ci-10.1.2.3-udp-53\"\nfrom = \"ci\"\n\
             to = \"10.1.2.3\"\nports = [\"udp/53\"]\n"
        );
        let cdn = drafted("", &attempt("198.51.100.9", Protocol::TCP, 443)).unwrap();
        assert!(cdn.starts_with("# wider: to = \"cdn\"\n[[allow]]"), "{cdn}");
        let mirror = drafted("", &attempt("192.0.2.7", Protocol::ICMP, 0x800)).unwrap();
        assert!(mirror.contains("to = \"mirror\"\nports = [\"icmp/8\"]"), "{mirror}");
        let v6 = drafted("", &attempt("2001:db8::1", Protocol::TCP, 443)).unwrap();
        assert!(v6.contains("id = \"ci-2001-db8--1-tcp-443\"\n"), "{v6}");
    }

    #[test]
    fn who_comes_from_outside_is_named_where_he_comes_from() {
        let mut refused = attempt("203.0.113.9", Protocol::TCP, 22);
        refused.direction = Direction::Ingress;
        let text = drafted("", &refused).unwrap();
        assert!(text.contains("from = \"203.0.113.9\"\nto = \"ci\"\nports = [\"tcp/22\"]"), "{text}");
    }

    #[test]
    fn what_may_not_be_allowed_is_not_drafted() {
        let to_db = attempt("db", Protocol::TCP, 5432);
        let forbid = "[[forbid]]\nfrom = \"env:dev\"\nto = \"env:prod\"\nexcept = [\"ci-db-tcp-5432\"]\n";
        let Err(NoDraft::Refused(why)) = drafted(forbid, &to_db) else { panic!("it is drafted") };
        assert!(why.contains("ci-db-tcp-5432-2"), "{why}");
        assert_eq!(drafted("", &attempt("db", Protocol::TCP, 5433)), Err(NoDraft::Allowed));
    }

    #[test]
    fn ids_are_as_long_as_they_may_be() {
        let policy = crate::testing::policy(SHOP);
        let long = "x".repeat(80);
        assert_eq!(id(&policy, &[&long]).len(), LONGEST);
        assert_eq!(id(&policy, &["::1", "ci", "tcp/80"]), "1-ci-tcp-80");
    }
}

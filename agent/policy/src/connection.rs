//! What comes of one connection, asked at both of its ends.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bulkhead_common::{Decision, Direction, Flow, Peer, Protocol, Reason, SubjectId, Verdict};
use serde::Serialize;

pub(crate) use crate::service::service;
use crate::{
    language::{self, Policy, WorkloadId},
    nearest::{Asked, NearestRule},
    question::Answer,
    unresolved::{Outlook, Unresolved},
};

/// Who is at one end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Party {
    /// A workload on this host, known by its socket.
    Workload(WorkloadId),
    /// Whoever has this address.
    Address(IpAddr),
    /// Somebody whose address is not known.
    Unresolved(Unresolved),
}

/// One connection: who opens it, to whom, and to which port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Connection {
    /// Who opens it.
    pub from: Party,
    /// To whom.
    pub to: Party,
    /// IP protocol.
    pub protocol: Protocol,
    /// The service port ([`Flow::port`]).
    pub port: u16,
}

impl Connection {
    /// Can a connection of this protocol be between these two? ICMP is spoken over IPv4 and ICMPv6 over IPv6.
    pub(crate) fn is_possible(&self) -> bool {
        [self.from, self.to].iter().all(|party| match (party, self.protocol) {
            (Party::Address(ip), Protocol::ICMP) => ip.is_ipv4(),
            (Party::Address(ip), Protocol::ICMPV6) => ip.is_ipv6(),
            _ => true,
        })
    }
}

/// What one end's allowlist says of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndDecision {
    /// The workload whose allowlist it is.
    pub subject: WorkloadId,
    /// Which way the connection is opened, seen from there.
    pub direction: Direction,
    /// What it says.
    pub decision: Decision,
    /// If it refuses, the rule that comes nearest to allowing it.
    pub nearest: Option<NearestRule>,
}

/// What comes of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The connection.
    pub connection: Connection,
    /// What the ends say that are workloads: the opener's first. None: nobody here decides on it.
    pub ends: Vec<EndDecision>,
}

/// What the kernel would do with a connection at `now_ns` (nanoseconds since the Unix epoch), and why. `nearest` finds the
/// nearest rule.
///
/// Only TCP and UDP tell on a host whose the socket at the other end is. By other protocols two workloads reach each other
/// if they may at addresses of their own, or else by the host's.
pub(crate) fn explain(
    outlook: &Outlook,
    connection: &Connection,
    now_ns: u64,
    mut nearest: impl FnMut(&Asked<'_>) -> Option<NearestRule>,
) -> Explanation {
    let by_name = outlook.by_name(connection, now_ns, &mut nearest);
    let Connection { from, to, protocol, .. } = *connection;
    let are_workloads = matches!((from, to), (Party::Workload(_), Party::Workload(_))) && from != to;
    if are_workloads && !tells_sockets(protocol) && by_name.verdict() != Verdict::Allowed {
        let at_host = outlook.at_host(connection, now_ns, &mut nearest);
        if at_host.verdict() == Verdict::Allowed {
            return at_host;
        }
    }
    by_name
}

/// Where a connection goes: connect() takes the unspecified address for loopback (net/ipv4/route.c, net/ipv6/tcp_ipv6.c).
fn reached(to: Party) -> Party {
    match to {
        Party::Address(IpAddr::V4(Ipv4Addr::UNSPECIFIED)) => Party::Address(Ipv4Addr::LOCALHOST.into()),
        Party::Address(IpAddr::V6(Ipv6Addr::UNSPECIFIED)) => Party::Address(Ipv6Addr::LOCALHOST.into()),
        other => other,
    }
}

/// Can a socket of this protocol be looked up by addresses and ports (`bpf_sk_lookup_tcp`, `bpf_sk_lookup_udp`)?
pub(crate) fn tells_sockets(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::TCP | Protocol::UDP)
}

impl Outlook {
    /// What comes of a connection if each end knows who the other one is.
    pub(crate) fn by_name(
        &self,
        connection: &Connection,
        now_ns: u64,
        nearest: impl FnMut(&Asked<'_>) -> Option<NearestRule>,
    ) -> Explanation {
        let far = [reached(connection.to), connection.from];
        Explanation { connection: *connection, ends: self.decide(connection, far, now_ns, nearest) }
    }

    /// What comes of it if each end sees an address of this machine.
    pub(crate) fn at_host(
        &self,
        connection: &Connection,
        now_ns: u64,
        nearest: impl FnMut(&Asked<'_>) -> Option<NearestRule>,
    ) -> Explanation {
        let host = Party::Address(Ipv4Addr::LOCALHOST.into());
        Explanation { connection: *connection, ends: self.decide(connection, [host; 2], now_ns, nearest) }
    }

    /// What the ends say that are workloads: the opener's of the first of `far`, the other one's of the second.
    fn decide(
        &self,
        connection: &Connection,
        far: [Party; 2],
        now_ns: u64,
        mut nearest: impl FnMut(&Asked<'_>) -> Option<NearestRule>,
    ) -> Vec<EndDecision> {
        let Connection { from, to, protocol, port } = *connection;
        let ends = [(Direction::Egress, from, far[0]), (Direction::Ingress, to, far[1])];
        let ends = ends.into_iter().filter_map(|(direction, own, far)| {
            let (subject, far) = (self.end(own).workload?, self.end(far));
            let flow = Flow { direction, protocol, port, peer: far.peer };
            let decision = self.compiled.judge(subject, &flow, now_ns);
            let asked = Asked {
                direction,
                subject,
                peer_workload: far.workload,
                peer_address: far.address,
                peer_is: far.is,
                protocol,
                port,
                now_ns,
            };
            let nearest = decision.reason.refuses().then(|| nearest(&asked)).flatten();
            Some(EndDecision { subject, direction, decision, nearest })
        });
        ends.collect()
    }

    fn end(&self, party: Party) -> End<'_> {
        match party {
            Party::Workload(w) => {
                let end = self.compiled.endpoints[w.0];
                let peer = Peer { subject: end.subject, class: end.peer };
                End { workload: Some(w), address: None, is: &[], peer }
            }
            Party::Address(ip) => {
                let entry = self.compiled.peer(ip.into());
                let owner = entry.subject.0.checked_sub(1).map(|n| WorkloadId(n as usize));
                let peer = Peer { subject: entry.subject, class: entry.class };
                End { workload: owner, address: Some(ip), is: &[], peer }
            }
            Party::Unresolved(who) => {
                let peer = Peer { subject: SubjectId::NONE, class: self.class(who) };
                End { workload: None, address: None, is: self.ends(who), peer }
            }
        }
    }
}

/// One end as the tables know it.
#[derive(Clone, Copy)]
struct End<'o> {
    workload: Option<WorkloadId>,
    address: Option<IpAddr>,
    /// The ends of rules that it is, whatever its address.
    is: &'o [language::End],
    peer: Peer,
}

impl Explanation {
    /// What comes of the connection: it passes if it passes at both ends.
    pub fn verdict(&self) -> Verdict {
        let worst = |v: &Verdict| match v {
            Verdict::Allowed => 0,
            Verdict::WouldDeny => 1,
            Verdict::Denied => 2,
        };
        self.ends.iter().map(|e| e.decision.verdict).max_by_key(worst).unwrap_or(Verdict::Allowed)
    }

    /// In words, one line for the connection between ends with these names, and one for each end.
    pub(crate) fn in_words_between(&self, policy: &Policy, from: &str, to: &str) -> String {
        let Connection { protocol, port, .. } = self.connection;
        let service = service(protocol, port);
        let mut lines = vec![format!("{}: {from} -> {to} {service}", verdict_name(self.verdict()))];
        lines.extend(self.ends.iter().map(|end| format!("  {}", end.in_words(policy))));
        if self.ends.is_empty() {
            lines.push("  neither end is a workload of this host: nothing is decided here".into());
        }
        lines.join("\n")
    }
}

impl Answer {
    /// In words, one line for the connections, one for each end, and what is left open.
    pub fn in_words(&self, policy: &Policy) -> String {
        let mut words = self.explanation.in_words_between(policy, &self.from, &self.to);
        for note in &self.notes {
            words += "\n  note: ";
            words += note;
        }
        words
    }

    /// As reports write it.
    pub fn to_report<'p>(&'p self, policy: &'p Policy) -> impl Serialize + use<'p> {
        let Explanation { connection, ends } = &self.explanation;
        Report {
            verdict: verdict_name(self.explanation.verdict()),
            from: &self.from,
            to: &self.to,
            service: service(connection.protocol, connection.port),
            ends: ends.iter().map(|e| e.to_report(policy)).collect(),
            notes: &self.notes,
        }
    }
}

impl EndDecision {
    fn in_words(&self, policy: &Policy) -> String {
        let who = &policy.workloads[self.subject.0].name;
        let side = match self.direction {
            Direction::Egress => "egress",
            Direction::Ingress => "ingress",
        };
        let place = |n: usize| format!("`{}` ({})", policy.rules[n].id, policy.rules[n].place);
        let why = match (self.decision.reason, &self.nearest) {
            (Reason::Rule, _) => format!("allowed by rule {}", place(self.decision.rule.0 as usize)),
            (Reason::Expired, _) => format!("rule {} has expired", place(self.decision.rule.0 as usize)),
            (Reason::NotIsolated, _) => "allowed: this side is not isolated".into(),
            (Reason::SameWorkload, _) => "allowed: traffic of a workload with itself".into(),
            (Reason::Essential, _) => "allowed: IP does not work without it".into(),
            (reason, Some(n)) => {
                format!(
                    "{}; nearest is rule {}, which differs in {}",
                    reason.name(),
                    place(n.rule),
                    n.differs.join(", ")
                )
            }
            (reason, None) => reason.name().into(),
        };
        format!("{side} of {who}: {why}")
    }

    fn to_report<'p>(&self, policy: &'p Policy) -> EndReport<'p> {
        let rule = |n: usize| RuleReport {
            id: &policy.rules[n].id,
            file: &policy.rules[n].place.file,
            line: policy.rules[n].place.line,
            differs: None,
        };
        let named = matches!(self.decision.reason, Reason::Rule | Reason::Expired);
        EndReport {
            workload: &policy.workloads[self.subject.0].name,
            mode: policy.mode(self.subject).name(),
            direction: match self.direction {
                Direction::Egress => "egress",
                Direction::Ingress => "ingress",
            },
            verdict: verdict_name(self.decision.verdict),
            reason: self.decision.reason.name(),
            rule: named.then(|| rule(self.decision.rule.0 as usize)),
            nearest_rule: self
                .nearest
                .as_ref()
                .map(|n| RuleReport { differs: Some(n.differs.clone()), ..rule(n.rule) }),
        }
    }
}

#[derive(Serialize)]
struct Report<'p> {
    verdict: &'static str,
    from: &'p str,
    to: &'p str,
    service: String,
    ends: Vec<EndReport<'p>>,
    notes: &'p [String],
}

#[derive(Serialize)]
struct EndReport<'p> {
    workload: &'p str,
    mode: &'static str,
    direction: &'static str,
    verdict: &'static str,
    reason: &'static str,
    rule: Option<RuleReport<'p>>,
    nearest_rule: Option<RuleReport<'p>>,
}

#[derive(Serialize)]
struct RuleReport<'p> {
    id: &'p str,
    file: &'p str,
    line: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    differs: Option<Vec<&'static str>>,
}

/// The name that reports use.
pub(crate) const fn verdict_name(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allowed => "allowed",
        Verdict::Denied => "denied",
        Verdict::WouldDeny => "would-deny",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Inventory, nearest::nearest_rule, testing::policy, unresolved::Roll};

    const SHOP: &str = r#"
[workload.web]
select = { systemd = "web.service" }
[workload.db]
select = { systemd = "db.service" }
[peer.nas]
cidrs = ["192.0.2.0/24"]
[[allow]]
id = "web-db"
from = "web"
to = "db"
ports = ["tcp/5432"]
expires = 2026-01-01T00:00:00Z
[[allow]]
id = "nas-out"
from = "web"
to = "nas"
"#;

    #[track_caller]
    fn words(from: &str, to: &str, port: u16, now_ns: u64) -> String {
        let p = policy(SHOP);
        let party = |text: &str| {
            p.workload(text).map_or_else(|| Party::Address(crate::testing::ip(text)), Party::Workload)
        };
        let connection = Connection { from: party(from), to: party(to), protocol: Protocol::TCP, port };
        let inventory = Inventory::default();
        let outlook = Roll::new([&p], &inventory).outlook(&p, &inventory);
        explain(&outlook, &connection, now_ns, |asked| nearest_rule(&p, asked)).in_words_between(&p, from, to)
    }

    #[test]
    fn both_ends_say_why() {
        assert_eq!(
            words("web", "db", 5432, 0),
            "allowed: web -> db tcp/5432\n  egress of web: allowed by rule `web-db` (policy.toml:8)\n  \
             ingress of db: allowed by rule `web-db` (policy.toml:8)"
        );
        assert_eq!(
            words("db", "web", 5432, 0),
            "denied: db -> web tcp/5432\n  egress of db: no-rule\n  ingress of web: no-rule"
        );
        assert_eq!(
            words("web", "db", 80, 0).lines().nth(1).unwrap(),
            "  egress of web: no-rule; nearest is rule `web-db` (policy.toml:8), which differs in ports"
        );
        assert!(words("web", "db", 5432, u64::MAX).contains("rule `web-db` (policy.toml:8) has expired"));
    }

    #[test]
    fn an_address_is_asked_at_the_workloads_end_only() {
        let allowed = "allowed: web -> 192.0.2.0 tcp/80\n  egress of web";
        assert!(words("web", "192.0.2.0", 80, 0).starts_with(allowed));
        assert!(words("192.0.2.1", "192.0.2.2", 80, 0).contains("neither end is a workload"));
    }
}

//! What the names of two workloads do not tell: how they fare where addresses say who they are.

use bulkhead_common::{Flow, Peer, Verdict};

use crate::{
    connection::{Connection, EndDecision, Explanation, Party, tells_sockets, verdict_name},
    describe::names_address,
    language::{End, Policy},
    parties::{Addresses, Alike},
    service::protocol_name,
    unresolved::Outlook,
};

/// A note on what was found for two workloads, if at other addresses something else comes of it.
pub(crate) fn note(
    policy: &Policy,
    outlook: &Outlook,
    kinds: &Addresses,
    found: &Explanation,
    now_ns: u64,
) -> Option<String> {
    let connection = &found.connection;
    let (Party::Workload(from), Party::Workload(to)) = (connection.from, connection.to) else { return None };
    if from == to {
        return None;
    }
    if tells_sockets(connection.protocol) {
        return Pair { policy, outlook, kinds, found, now_ns }.by_ranges();
    }
    let ways = [outlook.by_name(connection, now_ns, |_| None), outlook.at_host(connection, now_ns, |_| None)];
    let [by_name, at_host] = ways.map(|way| way.verdict());
    (by_name != at_host).then(|| {
        format!(
            "nobody can tell whose socket {} belongs to: {} where both have addresses to themselves; at addresses of this \
             machine both are `host`, and it is {}",
            protocol_name(connection.protocol),
            verdict_name(by_name),
            verdict_name(at_host)
        )
    })
}

/// Two workloads, and what was found for their names.
struct Pair<'a> {
    policy: &'a Policy,
    outlook: &'a Outlook,
    kinds: &'a Addresses,
    found: &'a Explanation,
    now_ns: u64,
}

impl Pair<'_> {
    /// Ranges name a workload that has an address to itself. Where names refuse, may they meet by rules for these?
    fn by_ranges(&self) -> Option<String> {
        if self.found.verdict() == Verdict::Allowed {
            return None;
        }
        let [from, to] = &self.found.ends[..] else { return None };
        let name = |end: &EndDecision| &self.policy.workloads[end.subject.0].name;
        [true, false].into_iter().find_map(|v4| {
            let (target, source) = (self.allows(from, name(to), v4)?, self.allows(to, name(from), v4)?);
            Some(format!(
                "ranges name workloads that have addresses to themselves: `{}` may reach {target}, and {source} may reach `{}`",
                name(from),
                name(to)
            ))
        })
    }

    /// Whom of one family the allowlist of `end` allows where it decides on the other end, in words.
    fn allows(&self, end: &EndDecision, other: &str, v4: bool) -> Option<String> {
        if end.decision.verdict == Verdict::Allowed {
            return Some(format!("`{other}`"));
        }
        let compiled = &self.outlook.compiled;
        let Connection { protocol, port, .. } = self.found.connection;
        let mut alike = Alike::default();
        for (first, last) in self.kinds.ranges().filter(|(first, _)| first.is_v4() == v4) {
            let is_somebodys =
                [End::Private, End::Internet].iter().any(|e| names_address(self.policy, *e, first));
            let entry = compiled.peer(first);
            let peer = Peer { subject: entry.subject, class: entry.class };
            let flow = Flow { direction: end.direction, protocol, port, peer };
            if is_somebodys && compiled.judge(end.subject, &flow, self.now_ns).verdict == Verdict::Allowed {
                alike.add(first, last);
            }
        }
        let words = alike.in_words();
        (!words.is_empty()).then_some(words)
    }
}

#[cfg(test)]
mod tests {
    use bulkhead_common::Protocol;

    use crate::{ask, testing::policy};

    const SITE: &str = r#"
[workload.web]
select = { systemd = "web.service" }
[workload.db]
select = { systemd = "db.service" }
[workload.cache]
select = { systemd = "cache.service" }
[[allow]]
from = "web"
to = "10.0.0.0/8"
ports = ["tcp/5432", "sctp/5432"]
[[allow]]
from = ["10.1.0.0/16", "fd00::/8"]
to = ["db", "cache"]
ports = ["tcp/5432"]
[[allow]]
from = "web"
to = "cache"
ports = ["sctp/1"]
[[allow]]
from = "web"
to = "host"
ports = ["sctp/2"]
[[allow]]
from = "host"
to = "cache"
ports = ["sctp/2"]
"#;

    #[track_caller]
    fn notes(from: &str, to: &str, protocol: Protocol, port: u16) -> Vec<String> {
        let p = policy(SITE);
        let [from, to] = [from, to].map(|text| p.whom(text).unwrap());
        ask(&p, &[&p], &from, &to, &[(protocol, port)], 0).unwrap().remove(0).notes
    }

    #[test]
    fn workloads_that_may_meet_by_ranges_are_told_of() {
        assert_eq!(
            notes("web", "db", Protocol::TCP, 5432),
            [
                "ranges name workloads that have addresses to themselves: `web` may reach 10.0.0.0/8, and 10.1.0.0/16 may reach `db`"
            ]
        );
        for (from, to, port) in [("web", "db", 80), ("db", "web", 5432), ("db", "cache", 5432)] {
            assert!(notes(from, to, Protocol::TCP, port).is_empty(), "{from} -> {to} tcp/{port}");
        }
    }

    #[test]
    fn what_no_socket_tells_depends_on_addresses() {
        let of_sctp = "nobody can tell whose socket sctp belongs to: ";
        for (to, port, told) in [
            (
                "cache",
                1,
                Some(
                    "allowed where both have addresses to themselves; at addresses of this machine both are `host`, and it is denied",
                ),
            ),
            (
                "cache",
                2,
                Some(
                    "denied where both have addresses to themselves; at addresses of this machine both are `host`, and it is allowed",
                ),
            ),
            ("db", 1, None),
        ] {
            let expected: Vec<_> = told.iter().map(|told| format!("{of_sctp}{told}")).collect();
            assert_eq!(notes("web", to, Protocol::SCTP, port), expected);
        }
    }
}

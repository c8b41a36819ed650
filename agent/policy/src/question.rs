//! A question to a policy: what comes of connections between two ends that may each stand for many.

use std::{collections::HashMap, fmt};

use bulkhead_common::{Address, Protocol};

use crate::{
    connection::{Connection, Explanation, Party, explain},
    inventory::Inventory,
    language::{Policy, WorkloadId},
    nearest::NearRules,
    own_addresses,
    parties::{Addresses, Alike},
    unresolved::Roll,
    whom::Whom,
};

/// What comes of connections that fare alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Who opens them: as it was asked, or the part of it that these connections are of.
    pub from: String,
    /// To whom.
    pub to: String,
    /// What comes of each of them, and why.
    pub explanation: Explanation,
    /// What the answer leaves open.
    pub notes: Vec<String>,
    /// The ends of each of them, as reports name them.
    pub(crate) ends: Vec<(String, String)>,
}

/// A question about so many connections that nobody would read the answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TooManyConnections {
    from: String,
    to: String,
    count: usize,
}

impl TooManyConnections {
    /// The most pairs that one question is about.
    pub const MOST: usize = 200_000;
}

impl fmt::Display for TooManyConnections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to, count } = self;
        write!(
            f,
            "from {from} to {to} are {count} connections, and at most {} are explained at once: name fewer at one end, \
             such as a workload or a range; a [[test]] asks for any number",
            Self::MOST
        )
    }
}

impl std::error::Error for TooManyConnections {}

/// What comes of the connections from `from` to `to`, to each of `services`, at `now_ns` (nanoseconds since the Unix
/// epoch): one answer for those that fare alike. Whoever stands for several is each of them: every workload, and one
/// address of each kind that one of the policies in `among` tells apart. Those are the same ones whichever is asked.
///
/// # Errors
/// If they are more than anybody would read about.
pub fn ask(
    policy: &Policy,
    among: &[&Policy],
    from: &Whom,
    to: &Whom,
    services: &[(Protocol, u16)],
    now_ns: u64,
) -> Result<Vec<Answer>, TooManyConnections> {
    let inventory = Inventory::default();
    let mut roll = Roll::new(among.iter().copied(), &inventory);
    let [from_name, to_name] = [from, to].map(|whom| whom.join(&mut roll));
    let outlook = roll.outlook(policy, &inventory);
    let mut kinds = Addresses::new(among.iter().copied(), &inventory);
    [from, to].iter().filter_map(|whom| whom.range()).for_each(|cidr| kinds.split(cidr));
    let [from_all, to_all] = [(from, from_name), (to, to_name)]
        .map(|(whom, name)| whom.parties(policy, &inventory, &kinds, &outlook, name));
    let count = from_all.len().saturating_mul(to_all.len());
    if count > TooManyConnections::MOST {
        let [from, to] = [from, to].map(|whom| whom.text().to_owned());
        return Err(TooManyConnections { from, to, count });
    }
    let near = NearRules::new(policy);
    let mut found = Groups { policy, kinds: &kinds, roll: &roll, alike: Vec::new(), numbers: HashMap::new() };
    let several = from_all.len() > 1 || to_all.len() > 1;
    for (a, b) in from_all.iter().flat_map(|a| to_all.iter().map(move |b| (*a, *b))) {
        for (protocol, port) in services.iter().copied() {
            let connection = Connection { from: a, to: b, protocol, port };
            if services.len() > 1 && !connection.is_possible() {
                continue;
            }
            let explanation = explain(&outlook, &connection, now_ns, |asked| near.nearest(policy, asked));
            if !several || (a != b && !explanation.ends.is_empty()) {
                found.add(explanation);
            }
        }
    }
    let mut answers = found.answers(from, to);
    if !several {
        // Where there is one connection of each service, each has its own answer.
        for answer in &mut answers {
            answer.notes.extend(own_addresses::note(policy, &outlook, &kinds, &answer.explanation, now_ns));
        }
    }
    Ok(answers)
}

/// Connections that fare alike.
struct Groups<'a> {
    policy: &'a Policy,
    kinds: &'a Addresses,
    roll: &'a Roll,
    alike: Vec<Group>,
    /// Those of each service and pair: a workload answers for itself, addresses fare alike or do not.
    numbers: HashMap<Pair, Vec<usize>>,
}

/// A service, and the workloads at both ends.
type Pair = (Protocol, u16, [Option<WorkloadId>; 2]);

struct Group {
    explanation: Explanation,
    from: Vec<Party>,
    to: Vec<Party>,
}

impl Group {
    /// Are there too many ranges in it to write all of them out?
    fn is_scattered(&self, groups: &Groups<'_>) -> bool {
        [&self.from, &self.to].into_iter().any(|parties| groups.who(parties).is_scattered())
    }
}

/// The workload that it is, if it is one.
const fn workload(party: Party) -> Option<WorkloadId> {
    match party {
        Party::Workload(w) => Some(w),
        Party::Address(_) | Party::Unresolved(_) => None,
    }
}

impl Groups<'_> {
    fn add(&mut self, explanation: Explanation) {
        let Connection { from, to, protocol, port } = explanation.connection;
        let numbers = self.numbers.entry((protocol, port, [from, to].map(workload))).or_default();
        let alike = numbers.iter().copied().find(|n| self.alike[*n].explanation.ends == explanation.ends);
        if let Some(n) = alike {
            self.alike[n].from.push(from);
            self.alike[n].to.push(to);
        } else {
            numbers.push(self.alike.len());
            self.alike.push(Group { explanation, from: vec![from], to: vec![to] });
        }
    }

    fn answers(self, from: &Whom, to: &Whom) -> Vec<Answer> {
        // Each answer is about all of whom was asked, unless its like differ in who it is about.
        let differs = |side: fn(&Group) -> &Vec<Party>| {
            self.alike.iter().any(|group| side(group) != side(&self.alike[0]))
        };
        let [from_differs, to_differs] = [differs(|g| &g.from), differs(|g| &g.to)];
        // Of one pair at most one answer is about "the rest".
        let mut rests = vec![false; self.alike.len()];
        for numbers in self.numbers.values() {
            let mut scattered = numbers.iter().filter(|n| self.alike[**n].is_scattered(&self));
            if let (Some(n), None) = (scattered.next(), scattered.next()) {
                rests[*n] = true;
            }
        }
        let name = |whom: &Whom, differs, parties: &[Party], rest| {
            if differs { self.words(whom, parties, rest) } else { whom.text().to_owned() }
        };
        let notes: Vec<_> = [from, to].iter().filter_map(|whom| whom.note(self.policy)).collect();
        let answers = self.alike.iter().zip(rests).map(|(group, rest)| Answer {
            from: name(from, from_differs, &group.from, rest),
            to: name(to, to_differs, &group.to, rest),
            explanation: group.explanation.clone(),
            notes: notes.clone(),
            ends: group
                .from
                .iter()
                .zip(&group.to)
                .map(|(a, b)| (self.roll.party_name(self.policy, *a), self.roll.party_name(self.policy, *b)))
                .collect(),
        });
        answers.collect()
    }

    fn words(&self, whom: &Whom, parties: &[Party], rest: bool) -> String {
        let who = self.who(parties);
        if who.is_scattered() && rest {
            let rest = format!("the rest of {}", whom.text());
            return who.names.into_iter().chain([rest]).collect::<Vec<_>>().join(", ");
        }
        who.in_words()
    }

    fn who(&self, parties: &[Party]) -> Alike {
        let mut alike = Alike::default();
        let mut addresses: Vec<Address> = Vec::new();
        for party in parties {
            match party {
                Party::Workload(w) => alike.names.push(self.policy.workloads[w.0].name.clone()),
                Party::Unresolved(who) => alike.names.push(self.roll.name(*who).to_owned()),
                Party::Address(ip) => addresses.push((*ip).into()),
            }
        }
        alike.names.dedup();
        addresses.sort_unstable();
        addresses.dedup();
        for (first, last) in self.kinds.ranges().filter(|(first, _)| addresses.binary_search(first).is_ok()) {
            alike.add(first, last);
        }
        alike
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::policy;

    const HOME: &str = r#"
[environment.lan]
cidrs = ["192.168.10.0/24"]
[workload.web]
environment = "lan"
select = { systemd = "web.service" }
[workload.db]
environment = "lan"
select = { systemd = "db.service" }
[peer.nas]
cidrs = ["192.168.10.9"]
[peer.mirrors]
names = ["deb.example.org", "*.cdn.example.org"]
[[allow]]
id = "ask"
from = "web"
to = "dns"
ports = ["udp/53"]
[[allow]]
id = "files"
from = "web"
to = "nas"
[[allow]]
id = "fetch"
from = "web"
to = ["mirrors", "host"]
ports = ["tcp/443"]
[[allow]]
id = "ping"
from = "web"
to = "any"
ports = ["icmp/echo-request"]
"#;

    /// The first lines of all answers.
    fn answers(from: &str, to: &str, services: &[&str]) -> Vec<String> {
        let p = policy(HOME);
        let spans = services.iter().map(|s| s.parse::<crate::Ports>().unwrap());
        let services: Vec<_> =
            spans.flat_map(|p| p.spans().to_vec()).map(|span| (span.protocol, span.first)).collect();
        let found = ask(&p, &[&p], &p.whom(from).unwrap(), &p.whom(to).unwrap(), &services, 0).unwrap();
        found.iter().map(|answer| answer.in_words(&p).lines().next().unwrap().to_owned()).collect()
    }

    #[test]
    fn whom_only_a_host_knows_is_told_of_by_name() {
        assert_eq!(answers("web", "dns", &["udp/53"]), ["allowed: web -> dns udp/53"]);
        assert_eq!(answers("web", "dns", &["tcp/53"]), ["denied: web -> dns tcp/53"]);
        assert_eq!(answers("web", "host", &["tcp/443"]), ["allowed: web -> host tcp/443"]);
        for name in ["mirrors", "deb.example.org", "a.b.cdn.example.org", "*.cdn.example.org"] {
            assert_eq!(answers("web", name, &["tcp/443"]), [format!("allowed: web -> {name} tcp/443")]);
        }
        assert_eq!(answers("db", "mirrors", &["tcp/443"]), ["denied: db -> mirrors tcp/443"]);
    }

    #[test]
    fn who_is_several_is_each_of_them() {
        assert_eq!(
            answers("web", "192.168.10.0/28", &["tcp/80"]),
            [
                "denied: web -> 192.168.10.0/29, 192.168.10.8, 192.168.10.10/31, 192.168.10.12/30 tcp/80",
                "allowed: web -> 192.168.10.9 tcp/80",
            ]
        );
        assert_eq!(
            answers("web", "private", &["tcp/80"]),
            ["denied: web -> the rest of private tcp/80", "allowed: web -> 192.168.10.9 tcp/80"]
        );
        assert_eq!(answers("web", "internet", &["tcp/80"]), ["denied: web -> internet tcp/80"]);
        assert_eq!(
            answers("env:lan", "nas", &["tcp/80"]),
            ["allowed: web -> nas tcp/80", "denied: db -> nas tcp/80"]
        );
        let all = answers("any", "any", &["udp/53"]);
        assert!(all.contains(&"allowed: web -> dns udp/53".to_owned()), "{all:#?}");
        assert_eq!(answers("192.0.2.1", "192.0.2.2", &["tcp/1"]), ["allowed: 192.0.2.1 -> 192.0.2.2 tcp/1"]);
    }

    #[test]
    fn a_message_of_both_families_is_of_the_addresss() {
        let echo = ["icmp/echo-request"];
        assert_eq!(answers("web", "192.0.2.1", &echo), ["allowed: web -> 192.0.2.1 icmp/8"]);
        assert_eq!(answers("web", "2001:db8::1", &echo), ["allowed: web -> 2001:db8::1 icmpv6/128"]);
        assert_eq!(answers("web", "db", &echo).len(), 2);
    }

    #[test]
    fn what_names_an_address_names_no_workload_of_this_host() {
        const BY_ADDRESS: &str = "[[allow]]\nid = \"out\"\nfrom = \"web\"\nto = [\"host\", \"private\", \"::/0\"]\n\
                                  [[allow]]\nid = \"in\"\nfrom = [\"host\", \"private\", \"::/0\"]\nto = \"db\"\n";
        let p = policy(&format!("{HOME}{BY_ADDRESS}"));
        let [web, db] = ["web", "db"].map(|text| p.whom(text).unwrap());
        let words = |service| ask(&p, &[&p], &web, &db, &[service], 0).unwrap()[0].in_words(&p);
        let tcp = words((Protocol::TCP, 5432));
        assert!(tcp.starts_with("denied: web -> db tcp/5432"), "{tcp}");
        assert!(
            tcp.contains("rule `in` (policy.toml:37), which differs in from\n  note: ranges name"),
            "{tcp}"
        );
        // Nobody can tell by whose socket this is sent: for both the other end is the host.
        let sctp = words((Protocol::SCTP, 5432));
        assert!(
            sctp.starts_with("allowed: web -> db sctp/5432\n  egress of web: allowed by rule `out`"),
            "{sctp}"
        );
    }

    #[test]
    fn the_unspecified_address_is_not_this_machine() {
        let p = policy(&HOME.replace("[\"mirrors\", \"host\"]", "\"host\""));
        let whom = |text| p.whom(text).unwrap();
        let ask = |from, to| {
            ask(&p, &[&p], &whom(from), &whom(to), &[(Protocol::TCP, 443)], 0).unwrap()[0].in_words(&p)
        };
        for address in ["0.0.0.0", "::"] {
            assert!(ask(address, "web").contains("denied"));
            // connect() takes it for loopback.
            let words = ask("web", address);
            assert!(words.contains("allowed by rule `fetch`"), "{words}");
        }
    }

    #[test]
    fn what_ip_does_not_work_without_needs_no_rule() {
        for (service, first) in [
            ("icmp/3.4", "allowed: 192.0.2.1 -> db icmp/3.4"),
            ("icmp/3", "denied: 192.0.2.1 -> db icmp/3"),
            ("icmp/11", "denied: 192.0.2.1 -> db icmp/11"),
        ] {
            assert_eq!(answers("192.0.2.1", "db", &[service]), [first]);
        }
        assert_eq!(answers("fe80::1", "db", &["icmpv6/135"]), ["allowed: fe80::1 -> db icmpv6/135"]);
        assert_eq!(answers("db", "192.0.2.1", &["icmp/3.4"]), ["denied: db -> 192.0.2.1 icmp/3.4"]);
    }

    #[test]
    fn the_nearest_rule_differs_in_what_it_says_otherwise() {
        let p = policy(HOME);
        let [web, dns] = ["web", "dns"].map(|text| p.whom(text).unwrap());
        let words = ask(&p, &[&p], &web, &dns, &[(Protocol::TCP, 53)], 0).unwrap()[0].in_words(&p);
        assert!(
            words.contains("nearest is rule `ask` (policy.toml:14), which differs in ports\n"),
            "{words}"
        );
        assert!(words.contains("note: which addresses the resolvers have is not known here"), "{words}");
    }
}

//! What the agents of a site record: denials of connections that its policy refuses, as their hosts would try them.

use std::net::{IpAddr, Ipv4Addr};

use bulkhead_common::{Direction, Protocol, Verdict};
use bulkhead_policy::{
    Asked, Compiled, Inventory, NearRules, OneEnd, Policy, WorkloadId, compile, describe_peer, protocol_name,
    service,
};
use bulkhead_report::{Denial, NearestRule, Peer, Process, Rule, Workload};
use jiff::{SignedDuration, Timestamp};

use crate::site::Numbers;

/// What hosts run: command name, path and user.
const PROGRAMS: [(&str, &str, u32); 30] = [
    ("curl", "/usr/bin/curl", 1000),
    ("python3", "/usr/bin/python3.11", 998),
    ("java", "/usr/lib/jvm/java-17-openjdk-amd64/bin/java", 1001),
    ("node", "/usr/bin/node", 997),
    ("nginx", "/usr/sbin/nginx", 33),
    ("postgres", "/usr/lib/postgresql/15/bin/postgres", 112),
    ("redis-server", "/usr/bin/redis-server", 113),
    ("apache2", "/usr/sbin/apache2", 33),
    ("php-fpm8.2", "/usr/sbin/php-fpm8.2", 33),
    ("ruby", "/usr/bin/ruby3.1", 1002),
    ("mariadbd", "/usr/sbin/mariadbd", 111),
    ("haproxy", "/usr/sbin/haproxy", 114),
    ("prometheus", "/usr/bin/prometheus", 115),
    ("node_exporter", "/usr/local/bin/node_exporter", 116),
    ("grafana", "/usr/share/grafana/bin/grafana", 117),
    ("beam.smp", "/usr/lib/erlang/erts-13.1.5/bin/beam.smp", 118),
    ("mongod", "/usr/bin/mongod", 119),
    ("dotnet", "/usr/share/dotnet/dotnet", 1003),
    ("exim4", "/usr/sbin/exim4", 105),
    ("dovecot", "/usr/sbin/dovecot", 0),
    ("rsync", "/usr/bin/rsync", 0),
    ("ssh", "/usr/bin/ssh", 1000),
    ("git-remote-http", "/usr/lib/git-core/git-remote-http", 1000),
    ("wget", "/usr/bin/wget", 0),
    ("apt-get", "/usr/bin/apt-get", 0),
    ("http", "/usr/lib/apt/methods/http", 42),
    ("chronyd", "/usr/sbin/chronyd", 107),
    ("unattended-upgr", "/usr/bin/python3.11", 0),
    ("snmpd", "/usr/sbin/snmpd", 108),
    ("ping", "/usr/bin/ping", 1000),
];

/// Denials without end, hardly two of which are alike; the same ones every time.
pub(crate) struct Denials<'p> {
    policy: &'p Policy,
    compiled: Compiled,
    near: NearRules,
    numbers: Numbers,
    time: Timestamp,
}

impl<'p> Denials<'p> {
    pub(crate) fn new(policy: &'p Policy) -> Self {
        Self {
            policy,
            compiled: compile(policy, &Inventory::default()),
            near: NearRules::new(policy),
            numbers: Numbers(2),
            time: Timestamp::constant(1_795_291_200, 0),
        }
    }

    /// True `part` times of `whole`.
    fn chance(&mut self, part: u64, whole: u64) -> bool {
        self.numbers.below(whole) < part
    }

    fn number(&mut self, end: u32) -> u32 {
        u32::try_from(self.numbers.below(end.into())).unwrap_or(u32::MAX)
    }

    fn workload(&mut self) -> WorkloadId {
        WorkloadId(self.number(u32::try_from(self.policy.workloads.len()).unwrap_or(u32::MAX)) as usize)
    }

    /// A connection between any two of the workloads or, half of them, with any address.
    fn attempt(&mut self) -> OneEnd {
        let (own, peer) = (self.workload(), self.workload());
        let peer = self.chance(1, 2).then_some(peer);
        let peer_address = Ipv4Addr::from_bits(self.number(u32::MAX)).octets();
        let direction = if self.chance(1, 4) { Direction::Ingress } else { Direction::Egress };
        let (protocol, port) = match self.numbers.below(50) {
            0 => (Protocol::ICMP, 0x0800),
            1..6 => (Protocol::UDP, self.number(60_000) + 1),
            _ => (Protocol::TCP, self.number(60_000) + 1),
        };
        let port = u16::try_from(port).unwrap_or(u16::MAX);
        OneEnd {
            own,
            direction,
            peer,
            peer_address: bulkhead_common::Address::v4(peer_address),
            protocol,
            port,
        }
    }

    /// Mostly what the workload is there for, sometimes any other, some of them more often than others. What comes in
    /// is refused before any process sees it.
    fn process(&mut self, end: &OneEnd) -> Option<Process> {
        if end.direction == Direction::Ingress {
            return None;
        }
        let other = self.number(30).min(self.number(30)) as usize;
        let program = if self.chance(3, 4) { end.own.0 } else { other };
        let (comm, exe, uid) = PROGRAMS[program % PROGRAMS.len()];
        Some(Process { pid: self.number(1 << 22), comm: comm.into(), exe: Some(exe.into()), uid })
    }

    fn nearest_rule(&self, end: &OneEnd) -> Option<NearestRule> {
        let asked = Asked {
            direction: end.direction,
            subject: end.own,
            peer_workload: end.peer,
            peer_address: end.peer.is_none().then(|| end.peer_address.into()),
            peer_is: &[],
            protocol: end.protocol,
            port: end.port,
            now_ns: 0,
        };
        let found = self.near.nearest(self.policy, &asked)?;
        let rule = &self.policy.rules[found.rule];
        let (file, line) = (rule.place.file.to_string(), rule.place.line);
        Some(NearestRule { rule: Rule { id: rule.id.clone(), file, line }, differs: found.differs })
    }

    fn environment(&self, workload: WorkloadId) -> Option<String> {
        let environment = self.policy.workloads[workload.0].environment?;
        Some(self.policy.environments[environment.0].name.clone())
    }

    fn peer(&mut self, end: &OneEnd) -> Peer {
        let address = IpAddr::from(end.peer_address);
        let (name, environment) = if let Some(peer) = end.peer {
            (Some(self.policy.workloads[peer.0].name.clone()), self.environment(peer))
        } else {
            let (name, environment) = describe_peer(self.policy, address);
            (name.map(str::to_owned), environment.map(str::to_owned))
        };
        let port = match end.direction {
            Direction::Egress => end.port,
            // Of the port range that Linux opens connections from.
            Direction::Ingress => u16::try_from(32_768 + self.number(28_232)).unwrap_or(u16::MAX),
        };
        let port = end.protocol.has_ports().then_some(port);
        Peer { address: Some(address), port, name, environment }
    }
}

impl Iterator for Denials<'_> {
    type Item = Denial;

    fn next(&mut self) -> Option<Denial> {
        let (end, decision) = loop {
            let end = self.attempt();
            let decision = self.compiled.decide(&end, 0);
            if decision.verdict == Verdict::Denied {
                break (end, decision);
            }
        };
        self.time += SignedDuration::from_micros(self.numbers.below(2_000).cast_signed());
        let name = &self.policy.workloads[end.own.0].name;
        let unit = format!("{name}.service");
        // One in eight stands for several of its kind.
        let count = if self.chance(1, 8) { 2 + self.numbers.below(40) } else { 1 };
        Some(Denial {
            time: self.time,
            verdict: "denied",
            mode: "enforce",
            direction: match end.direction {
                Direction::Egress => "egress",
                Direction::Ingress => "ingress",
            },
            protocol: protocol_name(end.protocol),
            workload: Workload {
                name: Some(name.clone()),
                environment: self.environment(end.own),
                cgroup: Some(format!("/system.slice/{unit}")),
                unit: Some(unit),
            },
            process: self.process(&end),
            peer: self.peer(&end),
            rule: None,
            reason: decision.reason.name(),
            nearest_rule: self.nearest_rule(&end),
            count,
            suppressed: count - 1,
            generation: 12,
            service: service(end.protocol, end.port),
        })
    }
}

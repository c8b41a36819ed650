//! Small worlds: policies, hosts and packets from few names, ranges and ports, so that they meet often.
//!
//! The compiled tables are held against a reference on them, and the programs in the kernel against the tables.

#![forbid(unsafe_code)]

mod universe;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write},
    net::IpAddr,
};

use bulkhead_common::{Decision, Direction, Endpoint, Flow, Peer, PeerEntry, Protocol, Tables, decide};
use bulkhead_policy::{Compiled, Connection, Inventory, Party, Policy, Source, WorkloadId, load};
use proptest::{collection::vec, option, prelude::*, sample::select};

pub use universe::NAMES;
use universe::{ADDRESSES, EXPIRIES, PORTS, RANGES, SERVICES, TIMES};

/// Packets in each world.
pub const PACKETS: usize = 60;

/// Workloads in each world.
pub const WORKLOADS: usize = 5;

const ENVIRONMENTS: usize = 3;
const PEERS: usize = 4;

/// One policy on one host, and packets.
#[derive(Clone)]
pub struct World {
    environments: Vec<(&'static str, Vec<&'static str>)>,
    workloads: Vec<(Option<usize>, bool, bool)>,
    peers: Vec<(Option<usize>, Vec<&'static str>, Vec<&'static str>)>,
    /// The rules, in the order of the policy.
    pub rules: Vec<RuleText>,
    host: Host,
    /// The packets to ask about.
    pub packets: Vec<Packet>,
}

/// What a host knows.
#[derive(Clone, Debug, Default)]
pub struct Host {
    owners: Vec<(&'static str, Option<usize>)>,
    local: Vec<&'static str>,
    resolvers: Vec<&'static str>,
    resolved: Vec<(&'static str, &'static str)>,
}

/// A rule's parts as text.
#[derive(Clone, Debug)]
pub struct RuleText {
    from: Vec<String>,
    to: Vec<String>,
    ports: Vec<&'static str>,
    expires: Option<&'static str>,
}

/// One packet at one local end.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    /// The workload at this end.
    pub local: WorkloadId,
    /// The workload of the socket at the other end, if it is on this host.
    pub socket: Option<WorkloadId>,
    /// The other end's address; none: one that no rule names.
    pub address: Option<IpAddr>,
    /// Who opens the connection, seen from this end.
    pub direction: Direction,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its service port (see [`Flow::port`]).
    pub port: u16,
    /// When, in nanoseconds since the Unix epoch.
    pub now_ns: u64,
}

impl Packet {
    /// What compiled tables say of it.
    pub fn decision(&self, compiled: &Compiled) -> Decision {
        let address = |ip: IpAddr| compiled.peer(ip.into());
        self.decision_by(&compiled.endpoints, address, &compiled.at(self.now_ns))
    }

    /// What tables say of it, asked as the programs ask them.
    pub fn decision_by(
        &self,
        endpoints: &[Endpoint],
        address: impl Fn(IpAddr) -> PeerEntry,
        policy: &impl Tables,
    ) -> Decision {
        decide(policy, &endpoints[self.local.0], &self.flow(endpoints, address))
    }

    /// It as the verdict function is asked about it.
    pub fn flow(&self, endpoints: &[Endpoint], address: impl Fn(IpAddr) -> PeerEntry) -> Flow {
        let peer = if let Some(WorkloadId(w)) = self.socket {
            Peer { subject: endpoints[w].subject, class: endpoints[w].peer }
        } else {
            let entry = self.address.map_or(PeerEntry::UNKNOWN, address);
            Peer { subject: entry.subject, class: entry.class }
        };
        Flow { direction: self.direction, protocol: self.protocol, port: self.port, peer }
    }
}

/// An address of the lists above.
fn ip(text: &str) -> IpAddr {
    text.parse().expect("an IP address")
}

fn end() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => (0..WORKLOADS).prop_map(|n| format!("w{n}")),
        2 => (0..ENVIRONMENTS).prop_map(|n| format!("env:e{n}")),
        2 => (0..PEERS).prop_map(|n| format!("p{n}")),
        2 => select(&RANGES[..]).prop_map(str::to_owned),
        2 => select(&["any", "host", "dns", "private", "internet"][..]).prop_map(str::to_owned),
    ]
}

/// A rule.
pub fn rule() -> impl Strategy<Value = RuleText> {
    let ports = prop_oneof![1 => Just(vec![]), 3 => vec(select(&PORTS[..]), 1..4)];
    (vec(end(), 1..5), vec(end(), 1..5), ports, option::weighted(0.3, select(&EXPIRIES[..])))
        .prop_map(|(from, to, ports, expires)| RuleText { from, to, ports, expires })
}

fn packet() -> impl Strategy<Value = Packet> {
    let ends = (0..WORKLOADS, option::of(0..WORKLOADS), select(&ADDRESSES[..]));
    let service = select(&SERVICES[..]);
    (ends, any::<bool>(), service, select(&TIMES[..])).prop_map(
        |((local, socket, address), out, service, now)| Packet {
            local: WorkloadId(local),
            socket: socket.map(WorkloadId),
            address: Some(ip(address)),
            direction: if out { Direction::Egress } else { Direction::Ingress },
            protocol: Protocol(service.0),
            port: service.1,
            now_ns: now * 1_000_000_000,
        },
    )
}

/// A host.
pub fn host() -> impl Strategy<Value = Host> {
    let addresses = || vec(select(&ADDRESSES[..]), 0..4);
    let owned = vec((select(&ADDRESSES[..]), option::weighted(0.8, 0..WORKLOADS)), 0..4);
    let resolved = vec((select(&NAMES[..]), select(&ADDRESSES[..])), 0..5);
    (owned, addresses(), addresses(), resolved).prop_map(|(owners, local, resolvers, resolved)| Host {
        owners,
        local,
        resolvers,
        resolved,
    })
}

/// A world.
pub fn world() -> impl Strategy<Value = World> {
    let ranges = || vec(select(&RANGES[..]), 0..3);
    let environment = (select(&["enforce", "enforce", "audit", "off"][..]), ranges());
    let open = || any::<u8>().prop_map(|n| n < 30);
    let workload = (option::weighted(0.8, 0..ENVIRONMENTS), open(), open());
    let names = prop_oneof![3 => Just(vec![]), 1 => vec(select(&NAMES[..]), 1..3)];
    let peer = (option::of(0..ENVIRONMENTS), ranges(), names);
    let declared = (vec(environment, ENVIRONMENTS), vec(workload, WORKLOADS), vec(peer, PEERS));
    (declared, vec(rule(), 0..16), host(), vec(packet(), PACKETS)).prop_map(
        |((environments, workloads, peers), rules, host, packets)| {
            World { environments, workloads, peers, rules, host, packets }.unambiguous()
        },
    )
}

/// A connection of every kind that worlds tell apart: workloads with each other, and with an address of every kind.
pub fn connections(inventory: &Inventory) -> impl Iterator<Item = Connection> {
    const TCP: [u16; 11] = [0, 1, 440, 443, 444, 451, 1024, 5432, 5433, 65534, 65535];
    let ports = TCP.iter().map(|p| (6, *p)).chain(SERVICES).chain([
        (99, 0),
        (17, 54),
        (17, 8000),
        (1, 0x0900),
        (58, 0),
    ]);
    let ports: Vec<_> = ports.collect();
    let around = [
        "0.0.0.0",
        "128.0.0.0",
        "10.0.0.0",
        "10.1.0.0",
        "10.1.2.0",
        "192.0.2.0",
        "127.0.0.0",
        "169.254.0.0",
        "8000::",
        "2000::",
        "fd00::",
        "fd00:1::",
        "::1:0:0:0:0",
        "4000::",
        "64:ff9b::",
        "64:ff9b:1::",
        "fe80::",
        "192.168.0.0",
        "172.16.0.0",
        "100.64.0.0",
        "224.0.0.0",
        "240.0.0.0",
        "1.0.0.0",
        "fc00::",
    ];
    let known =
        inventory.local.iter().chain(&inventory.resolvers).chain(inventory.names.values().flatten()).copied();
    let addresses: Vec<IpAddr> = ADDRESSES.iter().chain(&around).copied().map(ip).chain(known).collect();
    let addresses = addresses.into_iter().map(Party::Address);
    let parties: Vec<_> = (0..WORKLOADS).map(|w| Party::Workload(WorkloadId(w))).chain(addresses).collect();
    let local = |party: Party| matches!(party, Party::Workload(_));
    let all = parties.clone();
    let pairs = parties.into_iter().flat_map(move |from| all.clone().into_iter().map(move |to| (from, to)));
    let pairs = pairs.filter(move |(from, to)| from != to && (local(*from) || local(*to)));
    pairs.flat_map(move |(from, to)| {
        let of = move |(protocol, port)| Connection { from, to, protocol: Protocol(protocol), port };
        ports.clone().into_iter().map(of)
    })
}

/// As its author would write it; a failure names the packet.
impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\n{}{}{:#?}", self.declarations(), Self::text(&self.rules), self.inventory())
    }
}

impl World {
    /// Two workloads, one of which may reach the other's port 443.
    pub fn shop() -> Self {
        let rule = RuleText {
            from: vec!["w0".into()],
            to: vec!["w1".into()],
            ports: vec!["tcp/443", "udp/443"],
            expires: None,
        };
        Self {
            environments: vec![],
            workloads: vec![(None, false, false); 2],
            peers: vec![],
            rules: vec![rule],
            host: Host::default(),
            packets: vec![],
        }
    }

    /// The same world with other rules.
    pub fn with_rules<'r>(&self, rules: impl Iterator<Item = &'r RuleText>) -> Self {
        Self { rules: rules.cloned().collect(), ..self.clone() }
    }

    /// A range in two environments is an error: the later one goes.
    fn unambiguous(mut self) -> Self {
        let mut taken: Vec<(&str, usize)> = Vec::new();
        let mut keep = |ranges: &mut Vec<&'static str>, environment: usize| {
            ranges.retain(|range| {
                let holder = taken.iter().find(|(r, _)| r == range).map(|(_, e)| *e);
                if holder.is_none() {
                    taken.push((range, environment));
                }
                holder.is_none_or(|e| e == environment)
            });
        };
        for (n, (_, ranges)) in self.environments.iter_mut().enumerate() {
            keep(ranges, n);
        }
        for (environment, ranges, _) in &mut self.peers {
            if let Some(e) = environment {
                keep(ranges, *e);
            }
        }
        self
    }

    /// The same rules in another world.
    pub fn with_declarations_of(&self, other: &Self) -> Self {
        let Self { environments, workloads, peers, .. } = other.clone();
        Self { environments, workloads, peers, ..self.clone() }
    }

    /// What is known of its host.
    pub fn inventory(&self) -> Inventory {
        self.host.inventory()
    }

    /// Its policy.
    pub fn policy(&self) -> Policy {
        self.load(&self.sources())
    }

    /// Its policy as it is written.
    pub fn sources(&self) -> [Source; 1] {
        [Source::new("p", self.declarations() + &Self::text(&self.rules))]
    }

    /// Half of the rules in a file before that of the declarations.
    pub fn policy_of_two_files(&self) -> Policy {
        let (a, b) = self.rules.split_at(self.rules.len() / 2);
        self.load(&[Source::new("a", Self::text(a)), Source::new("b", self.declarations() + &Self::text(b))])
    }

    /// Everything the other way round: declarations, rules, and what they list.
    pub fn policy_backwards(&self) -> Policy {
        let turned = self.rules.iter().rev().cloned().map(|mut rule| {
            rule.from.reverse();
            rule.to.reverse();
            rule.ports.reverse();
            rule
        });
        let turned: Vec<_> = turned.collect();
        let declarations = self.declarations();
        let mut tables: Vec<_> = declarations.split_inclusive("\n[").collect();
        // What comes after a table's last line begins the next one.
        let rest: Vec<_> = tables.drain(1..).map(|table| format!("[{table}")).collect();
        let first = tables.first().copied().unwrap_or_default();
        let all =
            rest.iter().rev().map(|table| table.trim_end_matches('[')).chain([first.trim_end_matches('[')]);
        let text = all.fold(Self::text(&turned), |text, table| text + table.trim_end() + "\n");
        self.load(&[Source::new("p", text)])
    }

    fn load(&self, sources: &[Source]) -> Policy {
        match load(sources) {
            Ok(loaded) => loaded.policy,
            Err(e) => panic!("{}\n{self:?}", e.render(sources, false)),
        }
    }

    fn declarations(&self) -> String {
        let mut text = String::new();
        for (n, (mode, cidrs)) in self.environments.iter().enumerate() {
            let _ = writeln!(text, "[environment.e{n}]\nmode = {mode:?}\ncidrs = {cidrs:?}");
        }
        for (n, (environment, ingress, egress)) in self.workloads.iter().enumerate() {
            let _ = writeln!(text, "[workload.w{n}]\nselect = {{ systemd = \"w{n}.service\" }}");
            for (key, open) in [("ingress", ingress), ("egress", egress)] {
                let _ = writeln!(text, "{key} = {:?}", if *open { "allow" } else { "isolate" });
            }
            if let Some(e) = environment {
                let _ = writeln!(text, "environment = \"e{e}\"");
            }
        }
        for (n, (environment, cidrs, names)) in self.peers.iter().enumerate() {
            let _ = writeln!(text, "[peer.p{n}]\ncidrs = {cidrs:?}");
            if !names.is_empty() {
                let _ = writeln!(text, "names = {names:?}");
            }
            if let Some(e) = environment {
                let _ = writeln!(text, "environment = \"e{e}\"");
            }
        }
        text
    }

    fn text(rules: &[RuleText]) -> String {
        let mut text = String::new();
        for RuleText { from, to, ports, expires } in rules {
            let _ = writeln!(text, "[[allow]]\nfrom = {from:?}\nto = {to:?}");
            if !ports.is_empty() {
                let _ = writeln!(text, "ports = {ports:?}");
            }
            if let Some(expires) = expires {
                let _ = writeln!(text, "expires = {expires}");
            }
        }
        text
    }
}

impl Host {
    /// What is known of it.
    pub fn inventory(&self) -> Inventory {
        let ips = |texts: &[&str]| texts.iter().copied().map(ip).collect();
        let mut names: BTreeMap<String, BTreeSet<IpAddr>> = BTreeMap::new();
        for (name, address) in &self.resolved {
            names.entry((*name).to_owned()).or_default().insert(ip(address));
        }
        Inventory {
            addresses: self.owners.iter().map(|(text, w)| (ip(text), w.map(WorkloadId))).collect(),
            local: ips(&self.local),
            resolvers: ips(&self.resolvers),
            names,
        }
    }
}

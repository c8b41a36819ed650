//! Whom policies name and only a host can find: its resolvers, its own addresses, and who has a DNS name.

use std::collections::{BTreeSet, HashMap};

use bulkhead_common::PeerId;

use crate::{
    compile::{Claim, Compiled, Compiler},
    connection::Party,
    inventory::Inventory,
    language::{End, Policy},
};

/// One whom a policy names and of whom no address is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Unresolved(usize);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    /// This machine, at its addresses beyond loopback.
    Host,
    Dns,
    /// Who has a DNS name, or one of the names that a pattern stands for.
    Name(String),
}

/// All of them.
#[derive(Clone, Debug)]
pub(crate) struct Roll(Vec<Who>);

impl Roll {
    /// Those whom the policies can name and of whom `inventory` knows no address.
    pub(crate) fn new<'p>(policies: impl IntoIterator<Item = &'p Policy>, inventory: &Inventory) -> Self {
        let names = policies.into_iter().flat_map(|p| &p.peers).flat_map(|p| &p.names);
        let names = names.filter(|name| inventory.names.get(*name).is_none_or(BTreeSet::is_empty));
        let mut all: BTreeSet<_> = names.cloned().map(Who::Name).collect();
        all.extend(inventory.local.is_empty().then_some(Who::Host));
        all.extend(inventory.resolvers.is_empty().then_some(Who::Dns));
        Self(all.into_iter().collect())
    }

    /// Who has this DNS name, too.
    pub(crate) fn add_name(&mut self, name: String) -> Unresolved {
        let who = Who::Name(name);
        let known = self.0.iter().position(|other| *other == who);
        Unresolved(known.unwrap_or_else(|| {
            self.0.push(who);
            self.0.len() - 1
        }))
    }

    /// As a report names it.
    pub(crate) fn name(&self, Unresolved(number): Unresolved) -> &str {
        match &self.0[number] {
            Who::Host => "host",
            Who::Dns => "dns",
            Who::Name(name) => name,
        }
    }

    /// A party as policies and reports name it.
    pub(crate) fn party_name(&self, policy: &Policy, party: Party) -> String {
        match party {
            Party::Workload(w) => policy.workloads[w.0].name.clone(),
            Party::Address(ip) => ip.to_string(),
            Party::Unresolved(who) => self.name(who).to_owned(),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Unresolved> + use<> {
        (0..self.0.len()).map(Unresolved)
    }

    /// A policy as far as it can be asked on this inventory.
    pub(crate) fn outlook(&self, policy: &Policy, inventory: &Inventory) -> Outlook {
        let names = PeerNames::new(policy);
        let mut compiler = Compiler::new(policy, inventory.clone());
        let known = self.0.iter().map(|who| {
            let ends = match who {
                Who::Host => vec![End::Host],
                Who::Dns => vec![End::Dns],
                Who::Name(name) => names.ends(name),
            };
            (compiler.class_of(&ends), ends)
        });
        let known = known.collect();
        Outlook { compiled: compiler.compiled(), known }
    }
}

/// The peers by their DNS names.
struct PeerNames<'p> {
    policy: &'p Policy,
    peers: HashMap<&'p str, Vec<usize>>,
}

impl<'p> PeerNames<'p> {
    fn new(policy: &'p Policy) -> Self {
        let mut peers: HashMap<&str, Vec<usize>> = HashMap::new();
        for (n, peer) in policy.peers.iter().enumerate() {
            for name in &peer.names {
                peers.entry(name).or_default().push(n);
            }
        }
        Self { policy, peers }
    }

    /// The ends of rules that who has this name is, whatever its addresses are.
    fn ends(&self, name: &str) -> Vec<End> {
        let above = name.match_indices('.').map(|(dot, _)| format!("*{}", &name[dot..]));
        let patterns = [name.to_owned()].into_iter().chain(above);
        let peers: BTreeSet<_> = patterns.filter_map(|p| self.peers.get(&*p)).flatten().copied().collect();
        let mut environment = None;
        for peer in &peers {
            let own = self.policy.peers[*peer].environment;
            environment = own.map_or(environment, |e| Some(Claim::add(environment, e)));
        }
        let environment = match environment {
            Some(Claim::One(environment)) => Some(End::Environment(environment)),
            Some(Claim::Several) | None => None,
        };
        peers.into_iter().map(End::Peer).chain(environment).collect()
    }
}

/// A compiled policy, and in which class each of a [`Roll`] is.
pub(crate) struct Outlook {
    pub(crate) compiled: Compiled,
    known: Vec<(PeerId, Vec<End>)>,
}

impl Outlook {
    pub(crate) fn class(&self, Unresolved(number): Unresolved) -> PeerId {
        self.known[number].0
    }

    /// Those whom `end` names.
    pub(crate) fn named(&self, end: End) -> impl Iterator<Item = Unresolved> {
        let known = self.known.iter().enumerate();
        known.filter(move |(_, (_, ends))| end == End::Any || ends.contains(&end)).map(|(n, _)| Unresolved(n))
    }

    /// The ends of rules that it is, whatever its addresses are.
    pub(crate) fn ends(&self, Unresolved(number): Unresolved) -> &[End] {
        &self.known[number].1
    }
}

//! Who is in a class of peers: the kernel counts by classes, whose numbers nobody else knows.

use std::{collections::BTreeMap, net::IpAddr, ops::Deref};

use bulkhead_common::PeerId;

use super::{Compiler, lookup::without_overlaps};
use crate::{
    describe::describe_peer,
    language::{End, Policy, address},
};

/// A class of peers: those that the same rule ends name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerClass {
    /// The rule ends, in the policy's order.
    ends: Box<[End]>,
    /// An address of theirs; none if they are known by their sockets alone.
    pub like: Option<IpAddr>,
}

/// A class in the words of its policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamedClass {
    /// The workload or peer that they are, if the rules name one.
    pub name: Option<String>,
    /// The environment that they are in, as far as the rules tell environments apart or they have a name.
    pub environment: Option<String>,
    /// All that names them, as rules write it. Nothing: they are everybody else.
    pub is: Vec<String>,
}

impl PeerClass {
    /// In the words of the policy that it is compiled from.
    pub fn named(&self, policy: &Policy) -> NamedClass {
        let workload = self.ends.iter().find_map(|end| match end {
            End::Workload(w) => Some(&policy.workloads[w.0]),
            _ => None,
        });
        let mut peers = self.ends.iter().filter_map(|end| match end {
            End::Peer(p) => Some(&policy.peers[*p]),
            _ => None,
        });
        // Of several the narrowest, as in reports of single refusals.
        let narrowest = self.like.and_then(|like| describe_peer(policy, like).0);
        let peer = peers.clone().find(|peer| Some(peer.name.as_str()) == narrowest).or_else(|| peers.next());
        let named = workload.map(|w| (&w.name, w.environment)).or(peer.map(|p| (&p.name, p.environment)));
        let environment = self.ends.iter().find_map(|end| match end {
            End::Environment(e) => Some(*e),
            _ => None,
        });
        let environment = environment.or_else(|| named.and_then(|(_, environment)| environment));
        NamedClass {
            name: named.map(|(name, _)| name.clone()),
            environment: environment.map(|e| policy.environments[e.0].name.clone()),
            is: self.ends.iter().map(|end| policy.end_name(*end).to_string()).collect(),
        }
    }
}

impl<P: Deref<Target = Policy>> Compiler<P> {
    /// The classes numbered above `known`: those that have come up since that was the last. Numbers are not given twice.
    pub fn classes_above(&self, known: PeerId) -> BTreeMap<PeerId, PeerClass> {
        let mut classes = self.classes.iter().filter(|(id, _)| *id > known).peekable();
        if classes.peek().is_none() {
            return BTreeMap::new();
        }
        let ends = self.terms.ends();
        let mut like = BTreeMap::new();
        for (first, _, entry) in without_overlaps(&self.peers()).ranges(u128::MAX) {
            if entry.class > known {
                like.entry(entry.class).or_insert(IpAddr::from(address(first)));
            }
        }
        let class = |(id, terms): (PeerId, &[super::terms::Term])| {
            let ends = terms.iter().map(|term| ends[term.0 as usize]).collect();
            (id, PeerClass { ends, like: like.get(&id).copied() })
        };
        classes.map(class).collect()
    }
}

#[cfg(test)]
mod tests {
    use bulkhead_common::PeerId;

    use super::NamedClass;
    use crate::{
        Inventory,
        compile::{Compiler, compile},
        testing::{ip, policy},
    };

    const POLICY: &str = r#"
        [environment.prod]
        [environment.lan]
        cidrs = ["10.0.0.0/8"]
        [workload.web]
        environment = "prod"
        select = { systemd = "web.service" }
        [workload.db]
        environment = "prod"
        select = { systemd = "db.service" }
        [peer.nas]
        environment = "lan"
        cidrs = ["10.1.0.0/16"]
        [peer.disk]
        cidrs = ["10.1.2.0/24"]
        [[allow]]
        from = "web"
        to = ["db", "nas", "disk", "env:lan", "192.0.2.0/24", "internet", "dns"]
    "#;

    /// The class of an address, and of a workload known by its socket.
    fn named(address: &str) -> NamedClass {
        let policy = policy(POLICY);
        let class = compile(&policy, &Inventory::default()).peer(ip(address).into()).class;
        let classes = Compiler::new(&policy, Inventory::default()).classes_above(PeerId::NONE);
        classes.get(&class).map(|class| class.named(&policy)).unwrap_or_default()
    }

    #[track_caller]
    fn expect(address: &str, name: Option<&str>, environment: Option<&str>, is: &[&str]) {
        let found = named(address);
        assert_eq!((found.name.as_deref(), found.environment.as_deref()), (name, environment), "{address}");
        assert_eq!(found.is, is, "{address}");
    }

    #[test]
    fn a_class_is_named_as_rules_name_it() {
        expect("10.1.0.7", Some("nas"), Some("lan"), &["nas", "env:lan"]);
        expect("10.1.2.7", Some("disk"), Some("lan"), &["nas", "disk", "env:lan"]);
        expect("10.9.0.7", None, Some("lan"), &["env:lan"]);
        expect("192.0.2.7", None, None, &["192.0.2.0/24", "internet"]);
        expect("198.51.100.7", None, None, &["internet"]);
        expect("192.168.0.7", None, None, &[]);
    }

    #[test]
    fn a_workload_is_known_by_its_socket() {
        let policy = policy(POLICY);
        let compiler = Compiler::new(&policy, Inventory::default());
        let db = compiler.endpoint(policy.workload("db").unwrap()).peer;
        let class = &compiler.classes_above(PeerId::NONE)[&db];
        let NamedClass { name, environment, is } = class.named(&policy);
        assert_eq!((name.as_deref(), environment.as_deref(), class.like), (Some("db"), Some("prod"), None));
        assert_eq!(is, ["db"]);
    }

    #[test]
    fn what_stands_for_a_class_is_in_it() {
        let policy = policy(POLICY);
        let compiler = Compiler::new(&policy, Inventory::default());
        let tables = compiler.compiled();
        let classes = compiler.classes_above(PeerId::NONE);
        let mut with_address = 0;
        for (id, class) in classes {
            if let Some(like) = class.like {
                assert_eq!(tables.peer(like.into()).class, id, "{like}");
                with_address += 1;
            }
        }
        assert!(with_address >= 5);
    }

    #[test]
    fn classes_that_come_up_are_told_once() {
        let policy = policy(POLICY);
        let mut compiler = Compiler::new(&policy, Inventory::default());
        let last = *compiler.classes_above(PeerId::NONE).last_key_value().unwrap().0;
        assert!(compiler.classes_above(last).is_empty());
        compiler.follow(Inventory { resolvers: [ip("10.1.0.53")].into(), ..Inventory::default() });
        let new: Vec<_> = compiler.classes_above(last).into_values().collect();
        let [class] = &new[..] else { panic!("{new:?}") };
        assert_eq!(class.named(&policy).is, ["nas", "env:lan", "dns"]);
        assert_eq!(class.like, Some(ip("10.1.0.53")));
    }
}

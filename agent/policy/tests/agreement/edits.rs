//! Tables that follow a host by edits, against tables compiled from nothing.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use bulkhead_common::{Address, Decision, Endpoint, PeerEntry, PeerId, PolicyKey, PolicyValue, Tables};
use bulkhead_policy::{Compiled, Compiler, Edits, Inventory, compile};
use bulkhead_worlds::{self as worlds, Packet};
use proptest::{collection::vec, prelude::*};

use crate::{WORLDS, config};

/// Of so many packets it is asked after every single edit what comes of them.
const BETWEEN: usize = 12;

/// The tables as a kernel holds them: edited entry by entry, and looked up by the longest prefix.
#[derive(Clone, Debug, PartialEq)]
struct Live {
    endpoints: Vec<Endpoint>,
    peers: BTreeMap<(Address, u32), PeerEntry>,
    policy: BTreeMap<(PolicyKey, u32), PolicyValue>,
}

#[derive(Clone, Copy, Debug)]
enum Edit {
    Allow(u32, PolicyKey, PolicyValue),
    Peer(Address, u32, Option<PeerEntry>),
    Forget(u32, PolicyKey),
}

/// In the order in which live tables are edited.
fn in_order(edits: &Edits) -> impl Iterator<Item = Edit> {
    let puts = edits.policy_puts.iter().map(|(len, key, value)| Edit::Allow(*len, *key, *value));
    let peers = edits.peers.iter().map(|(address, len, entry)| Edit::Peer(*address, *len, *entry));
    let removes = edits.policy_removes.iter().map(|(len, key)| Edit::Forget(*len, *key));
    puts.chain(peers).chain(removes)
}

impl Live {
    fn new(compiled: &Compiled) -> Self {
        Self {
            endpoints: compiled.endpoints.clone(),
            peers: compiled.peers.iter().map(|(address, len, entry)| ((*address, *len), *entry)).collect(),
            policy: compiled.policy.iter().map(|(len, key, value)| ((*key, *len), *value)).collect(),
        }
    }

    /// Makes one edit; was there anything to edit?
    fn apply(&mut self, edit: Edit) -> bool {
        match edit {
            Edit::Allow(len, key, value) => self.policy.insert((key, len), value).is_none(),
            Edit::Peer(address, len, Some(entry)) => self.peers.insert((address, len), entry) != Some(entry),
            Edit::Peer(address, len, None) => self.peers.remove(&(address, len)).is_some(),
            Edit::Forget(len, key) => self.policy.remove(&(key, len)).is_some(),
        }
    }

    fn peer(&self, ip: IpAddr) -> PeerEntry {
        let covering = self.peers.iter().filter(|((first, len), _)| {
            covers(u128::from_be_bytes(first.octets()), u128::from_be_bytes(Address::from(ip).octets()), *len)
        });
        covering.max_by_key(|((_, len), _)| *len).map_or(PeerEntry::UNKNOWN, |(_, entry)| *entry)
    }

    fn decide(&self, packet: &Packet) -> Decision {
        packet.decision_by(&self.endpoints, |ip| self.peer(ip), &At(self, packet.now_ns))
    }

    fn highest_class(&self) -> PeerId {
        let named = self.policy.keys().map(|(key, _)| key.peer).filter(|class| *class != PeerId::ANY);
        named.chain(self.peers.values().map(|entry| entry.class)).max().unwrap_or_default()
    }
}

struct At<'l>(&'l Live, u64);

impl Tables for At<'_> {
    fn policy(&self, key: &PolicyKey) -> Option<PolicyValue> {
        let bits = |key: &PolicyKey| {
            let ports = u128::from(u32::from_be_bytes([0, key.protocol, key.port[0], key.port[1]]));
            u128::from(key.subject.0) << 96
                | u128::from(key.peer.0) << 64
                | u128::from(key.direction) << 56
                | ports << 32
        };
        let covering = self.0.policy.iter().filter(|((k, len), _)| covers(bits(k), bits(key), *len));
        covering.max_by_key(|((_, len), _)| *len).map(|(_, value)| *value)
    }

    fn now(&self) -> u64 {
        self.1
    }
}

fn covers(prefix: u128, number: u128, len: u32) -> bool {
    len == 0 || (prefix ^ number) >> (128 - len) == 0
}

/// The same tables with classes numbered in the order in which ends and addresses name them.
fn canonical(compiled: &Compiled) -> Live {
    let mut numbers = HashMap::from([(PeerId::NONE, PeerId::NONE), (PeerId::ANY, PeerId::ANY)]);
    let mut number = |class: PeerId| {
        let next = PeerId(u32::try_from(numbers.len()).unwrap());
        *numbers.entry(class).or_insert(next)
    };
    let mut live = Live::new(compiled);
    for end in &mut live.endpoints {
        end.peer = number(end.peer);
    }
    for entry in live.peers.values_mut() {
        entry.class = number(entry.class);
    }
    let renumbered = live.policy.into_iter().map(|((key, len), value)| {
        let peer = number(key.peer);
        ((PolicyKey { peer, ..key }, len), value)
    });
    live.policy = renumbered.collect();
    live
}

/// The addresses of which two inventories say different things.
fn differing(a: &Inventory, b: &Inventory) -> BTreeSet<Address> {
    let said = |inventory: &Inventory| -> BTreeSet<(Address, String)> {
        let Inventory { addresses, local, resolvers, names } = inventory;
        let owners = addresses.iter().map(|(ip, owner)| (*ip, format!("is {owner:?}'s")));
        let names =
            names.iter().flat_map(|(name, ips)| ips.iter().map(move |ip| (*ip, format!("is {name}"))));
        let plain = |ips: &BTreeSet<IpAddr>, what: &str| {
            ips.iter().map(|ip| (*ip, what.to_owned())).collect::<Vec<_>>()
        };
        let all = owners.chain(names).chain(plain(local, "is local")).chain(plain(resolvers, "resolves"));
        all.map(|(ip, what)| (ip.into(), what)).collect()
    };
    said(a).symmetric_difference(&said(b)).map(|(address, _)| *address).collect()
}

/// Each edit is of an address of which something else is said, or of a class that comes or goes with one.
fn no_more_than(edits: &Edits, before: &Live, touched: &BTreeSet<Address>) -> bool {
    let keys: BTreeSet<_> = edits.peers.iter().map(|(address, len, _)| (*address, *len)).collect();
    let come: BTreeSet<_> =
        edits.peers.iter().filter_map(|(.., entry)| Some(entry.as_ref()?.class)).collect();
    let gone: BTreeSet<_> = keys.iter().filter_map(|key| Some(before.peers.get(key)?.class)).collect();
    let once: BTreeSet<_> = edits.policy_puts.iter().map(|(len, key, _)| (*len, *key)).collect();
    keys.len() == edits.peers.len()
        && keys.iter().all(|(address, len)| *len == 128 && touched.contains(address))
        && once.len() == edits.policy_puts.len()
        && edits.policy_puts.iter().all(|(_, key, _)| come.contains(&key.peer) && !gone.contains(&key.peer))
        && edits.policy_removes.iter().all(|(_, key)| gone.contains(&key.peer) && !come.contains(&key.peer))
}

proptest! {
    #![proptest_config(config(WORLDS / 20))]

    #[test]
    fn edits_lead_where_compiling_from_nothing_does(
        world in worlds::world(),
        hosts in vec(worlds::host(), 1..6),
    ) {
        let policy = world.policy();
        let mut compiler = Compiler::new(&policy, world.inventory());
        let mut live = Live::new(&compiler.compiled());
        let mut highest = live.highest_class();
        let mut inventory = world.inventory();
        for host in hosts {
            let (before, edits) = (live.clone(), compiler.follow(host.inventory()));
            for (_, key, _) in &edits.policy_puts {
                prop_assert!(key.peer > highest, "the number of {:?} has been another's", key);
            }
            for edit in in_order(&edits) {
                prop_assert!(live.apply(edit), "{:?} changes nothing", edit);
            }
            highest = highest.max(live.highest_class());

            let from_nothing = compile(&policy, &host.inventory());
            prop_assert_eq!(canonical(&compiler.compiled()), canonical(&from_nothing));
            prop_assert_eq!(&live, &Live::new(&compiler.compiled()));
            prop_assert_eq!(
                compiler.content_hash(),
                Compiler::new(&policy, host.inventory()).content_hash()
            );
            prop_assert_eq!(edits.is_empty(), live == before);

            let touched = differing(&inventory, &host.inventory());
            prop_assert!(no_more_than(&edits, &before, &touched), "{:?} for {:?}", edits, touched);
            inventory = host.inventory();

            // At any moment a packet is answered as before or as after.
            let mut between = before.clone();
            let answers: Vec<_> = world.packets.iter().map(|packet| {
                (packet, before.decide(packet), packet.decision(&from_nothing))
            }).collect();
            for edit in in_order(&edits) {
                between.apply(edit);
                for (packet, old, new) in answers.iter().take(BETWEEN) {
                    let found = between.decide(packet);
                    prop_assert!(found == *old || found == *new, "{:?} after {:?}: {:?}", packet, edit, found);
                }
            }
            for (packet, _, new) in &answers {
                prop_assert_eq!(live.decide(packet), *new, "{:?}", packet);
            }
        }
    }
}

/// The naive look-ups themselves.
#[test]
fn live_tables_answer_by_the_longest_prefix() {
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let class = |n| PeerEntry { class: PeerId(n), ..PeerEntry::UNKNOWN };
    let peers = [((ip("10.0.0.0").into(), 104), class(1)), ((ip("10.1.0.0").into(), 112), class(2))];
    let live = Live { endpoints: vec![], peers: peers.into(), policy: BTreeMap::new() };
    let found = ["10.2.0.1", "10.1.0.1", "11.0.0.1"].map(|text| live.peer(ip(text)).class.0);
    assert_eq!(found, [1, 2, 0]);
}

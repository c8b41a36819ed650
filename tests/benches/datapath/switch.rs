//! A policy of a hundred thousand entries takes the place of another.

use std::time::Instant;

use anyhow::Result;
use bulkhead_common::{
    Direction, Endpoint, PeerEntry, PeerId, PolicyKey, PolicyValue, Protocol, RuleId, SubjectId,
};
use bulkhead_datapath::{Cgroups, Datapath, Generation};
use bulkhead_tests::cgroup::Subtree;

use crate::{figure::Figure, rounds::median, sizes::peer};

const ROUNDS: u32 = 7;
const ENTRIES: u32 = 100_000;
/// Addresses: of each, ten ports.
const ADDRESSES: u32 = ENTRIES / 10;

pub(crate) fn measure() -> Result<()> {
    eprintln!("==> a policy of {ENTRIES} entries");
    let subtree = Subtree::new()?;
    let mut datapath = Datapath::load(subtree.path(), None)?;
    let flags = PeerEntry::default().flags;
    let peers: Vec<_> = (0..ADDRESSES)
        .map(|n| (peer(n).to_ipv6_mapped().octets(), n + 1))
        .map(|(octets, class)| {
            let entry = PeerEntry { subject: SubjectId::NONE, class: PeerId(class), flags };
            (bulkhead_common::Address::from_octets(octets), 128, entry)
        })
        .collect();
    let policy: Vec<_> = (0..ENTRIES)
        .map(|n| {
            let (peer, port) = (PeerId(n % ADDRESSES + 1), if n < ADDRESSES { 443 } else { n / ADDRESSES });
            let port = u16::try_from(port).unwrap_or(u16::MAX);
            let key = PolicyKey::new(SubjectId(1), peer, Direction::Egress, Protocol::TCP, port);
            (PolicyKey::FULL, key, PolicyValue { rule: RuleId(n), flags: 0, expires: 0 })
        })
        .collect();
    let endpoints =
        [(1, Endpoint { subject: SubjectId(1), peer: PeerId::NONE, flags: Endpoint::ISOLATE_EGRESS })];
    let rounds = (1..=ROUNDS)
        .map(|number| {
            let cgroups = Cgroups { endpoints: &endpoints, followed: &[], names: &[] };
            let generation = Generation { number, cgroups, peers: &peers, policy: &policy };
            let start = Instant::now();
            datapath.install(&generation)?;
            Ok(start.elapsed().as_secs_f64())
        })
        .collect::<Result<Vec<f64>>>()?;
    let took = median(&rounds, |seconds| *seconds) * 1e3;
    Figure::new("new tables: 100,000 entries for 10,000 addresses, and the switch", took, "ms", 0)
        .at_most(500.0)
        .print()
}

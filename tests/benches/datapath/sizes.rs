//! How the cost grows with the policy: random peers of a policy of ten entries, of a hundred thousand, of ten thousand
//! workloads.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Result;
use bulkhead_common::Direction;

use crate::{
    figure::Figure,
    ground::{Ground, Guard, Stand},
    programs::{Costs, Statistics},
    rounds::{interleaved, median},
};

const ROUNDS: usize = 9;
/// Datagrams a round, and how many different peers they go to at most.
const SENDS: u32 = 20_000;
const PEERS: u32 = 4_096;

/// Sizes that are compared: rules for one peer each, and workloads.
const SIZES: [(u32, u32); 3] = [(10, 1), (100_000, 1), (10, 10_000)];

pub(crate) fn measure() -> Result<()> {
    eprintln!("==> policies of different sizes");
    let empty = Ground::new(Guard::empty)?;
    let sized =
        |(rules, workloads)| Ground::new(move |lab| Guard::sized(lab, (rules, Direction::Egress), workloads));
    let grounds = SIZES.into_iter().map(sized).collect::<Result<Vec<_>>>()?;
    let plain = Stand::new(&empty)?;
    let stands = grounds.iter().map(Stand::new).collect::<Result<Vec<_>>>()?;
    let [few, many, crowd] = &stands[..] else { unreachable!() };
    let _counting = Statistics::enable()?;
    let known = interleaved(ROUNDS, &[&plain, few, many, crowd], |stand| {
        stand.burst(SENDS)?;
        Costs::during(stand, || stand.burst(SENDS).map(drop))
    })?;
    let of = |which: usize| {
        median(&known, |round| {
            round[which].of("egress") + round[which].of("ingress") - 2.0 * round[0].of("empty")
        })
    };
    Figure::new("a known flow, 100,000 rules beside 10", of(2) / of(1), "times", 2).at_most(1.5).print()?;
    Figure::new("a known flow, 10,000 workloads beside 1", of(3) / of(1), "times", 2).at_most(1.5).print()?;

    let peers = SIZES.map(|(rules, _)| scattered(rules));
    let jobs = [(few, &peers[0]), (many, &peers[1]), (crowd, &peers[2])];
    let whole =
        interleaved(ROUNDS, &jobs, |(stand, peers)| Costs::during(stand, || stand.scatter(peers, SENDS)))?;
    let empty = median(&known, |round| round[0].of("empty"));
    let of = |which: usize| median(&whole, |round| round[which].of("egress")) - empty;
    let what = "a packet decided anew, egress above empty";
    Figure::new(&format!("{what}: random peers of 10"), of(0), "ns", 0).at_most(300.0).print()?;
    Figure::new(&format!("{what}: random peers of 100,000"), of(1), "ns", 0).at_most(300.0).print()?;
    Figure::new("the latter beside the former", of(1) / of(0), "times", 2).at_most(1.5).print()?;
    Figure::new("10,000 workloads beside 1", of(2) / of(0), "times", 2).at_most(1.5).print()?;
    drop((plain, stands));
    grounds.into_iter().try_for_each(Ground::end)
}

/// Some of so many peers, in no order that a cache could follow.
pub(crate) fn scattered(of: u32) -> Vec<SocketAddr> {
    // Neither a peer nor its neighbour soon comes again: steps of a prime modulo the number of peers.
    (0..PEERS.min(of)).map(|n| (peer(n.wrapping_mul(48_271) % of), 443).into()).collect()
}

/// The peer with this number. No two are neighbours, or they would be one range.
pub(crate) fn peer(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0b00_0000 + number * 2)
}

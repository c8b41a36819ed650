//! What arrives from random peers of a policy of ten entries, and of a hundred thousand: each packet is from another than
//! the one before, at a socket that is not connected.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Result, bail, ensure};
use bulkhead_common::Direction;
use bulkhead_tests::{
    Network, Probe, Socket,
    probe::{Family, Kind},
};

use crate::{
    figure::Figure,
    ground::{Ground, Guard},
    programs::{Costs, Statistics},
    rounds::{interleaved, median},
    sizes::scattered,
};

const ROUNDS: usize = 9;
/// Datagrams a round.
const SENDS: u32 = 20_000;
/// Where web listens.
const PORT: u16 = 443;

/// Rules for one peer each.
const SIZES: [u32; 2] = [10, 100_000];

pub(crate) fn measure() -> Result<()> {
    eprintln!("==> what arrives from random peers");
    let empty = Ground::new(Guard::empty)?;
    let sized = |rules| Ground::new(move |lab| Guard::sized(lab, (rules, Direction::Ingress), 1));
    let grounds = SIZES.into_iter().map(sized).collect::<Result<Vec<_>>>()?;
    let all = [&empty, &grounds[0], &grounds[1]];
    let routers = all.into_iter().map(Router::beside).collect::<Result<Vec<_>>>()?;
    let peers = [SIZES[1], SIZES[0], SIZES[1]].map(scattered);
    let mut stands = Vec::new();
    for ((ground, router), peers) in all.into_iter().zip(&routers).zip(&peers) {
        stands.push(Stand::new(ground, router, peers)?);
    }
    let _counting = Statistics::enable()?;
    let rounds =
        interleaved(ROUNDS, &stands, |stand| Costs::of_process(stand.ground.programs(), || stand.shower()))?;
    let above = |round: &Vec<Costs>, which: usize| round[which].of("ingress") - round[0].of("empty");
    let of = |which| median(&rounds, |round| above(round, which));
    let what = "a packet decided anew, ingress above empty";
    Figure::new(&format!("{what}: random peers of 10"), of(1), "ns", 0).at_most(300.0).print()?;
    Figure::new(&format!("{what}: random peers of 100,000"), of(2), "ns", 0).at_most(300.0).print()?;
    Figure::new("of these the latter beside the former", of(2) / of(1), "times", 2).at_most(1.5).print()?;
    drop(stands);
    drop(routers);
    grounds.into_iter().try_for_each(Ground::end)
}

/// Another machine on the LAN, by which everybody's packets come.
struct Router {
    // Fields drop in this order.
    probe: Probe,
    _network: Network,
}

impl Router {
    fn beside(ground: &Ground) -> Result<Self> {
        let network = ground.lab().network()?;
        Ok(Self { probe: ground.lab().stranger(&network)?, _network: network })
    }
}

/// web's socket, and one that sends to it in its peers' names.
struct Stand<'a> {
    ground: &'a Ground,
    sender: Socket<'a>,
    to: SocketAddr,
    packets: Vec<Vec<u8>>,
    _web: Socket<'a>,
}

impl<'a> Stand<'a> {
    fn new(ground: &'a Ground, router: &'a Router, peers: &[SocketAddr]) -> Result<Self> {
        let IpAddr::V4(host) = ground.lab().host().v4 else { bail!("the host has an IPv4 address") };
        let web = ground.datagrams()?;
        let to = web.bind(SocketAddr::from((host, PORT)))?;
        let sender = router.probe.open(Kind::RawIp, Family::V4)?;
        let packets = peers.iter().map(|peer| datagram(*peer, host)).collect::<Result<_>>()?;
        Ok(Self { ground, sender, to, packets, _web: web })
    }

    /// Nobody takes the packets out of web's socket: the programs judge them before they find it full.
    fn shower(&self) -> Result<()> {
        let sent = self.sender.repeat_each(self.to, &self.packets, SENDS)?;
        ensure!(sent == SENDS, "only {sent} of {SENDS} packets were taken");
        Ok(())
    }
}

/// A UDP packet; the kernel fills in length and checksum of the IP header (raw(7)), and UDP over IPv4 needs none.
fn datagram(from: SocketAddr, to: Ipv4Addr) -> Result<Vec<u8>> {
    let IpAddr::V4(source) = from.ip() else { bail!("{from} is no peer over IPv4") };
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0];
    packet.extend(source.octets());
    packet.extend(to.octets());
    packet.extend(from.port().to_be_bytes());
    packet.extend(PORT.to_be_bytes());
    packet.extend([0, 8, 0, 0]);
    Ok(packet)
}

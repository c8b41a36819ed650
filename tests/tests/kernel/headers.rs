//! Headers that a process writes itself (raw(7), `IP_HDRINCL`): sniffer has a rule for raw sockets of every protocol, and
//! for one other machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Result, bail};
use bulkhead_tests::{
    Network, Outcome, Probe, Socket,
    probe::{Family, Kind},
    scene::PORT,
    verdicts::{Checks, Expected::Refused, allowed, at, blocked, refused},
};

use crate::{
    Case,
    packets::{Part, SENDER, UDP, datagram, ipv4_packet, ipv6_packet},
    site::Site,
};

pub(crate) const CASES: &[Case] = &[
    ("headers::a_packet_is_judged_by_the_destination_in_its_header", destination_in_the_header),
    ("headers::a_forged_source_address_opens_nothing", forged_source),
    ("headers::fragments_pass_as_little_as_whole_packets", fragments),
];

fn v4(network: &Network) -> Result<Ipv4Addr> {
    let IpAddr::V4(address) = network.v4 else { bail!("a network has an IPv4 address") };
    Ok(address)
}

fn v6(network: &Network) -> Result<Ipv6Addr> {
    let IpAddr::V6(address) = network.v6 else { bail!("a network has an IPv6 address") };
    Ok(address)
}

/// A datagram socket at [`PORT`].
fn listening(probe: &Probe, address: Ipv4Addr) -> Result<Socket<'_>> {
    let socket = probe.open(Kind::Udp, Family::V4)?;
    socket.bind(at(address, PORT))?;
    Ok(socket)
}

/// A whole packet, or a part of one, with these addresses in its header; sent to the machine `by`.
fn send(raw: &Socket<'_>, way: (Ipv4Addr, Ipv4Addr), part: Part, by: Ipv4Addr) -> Result<Outcome> {
    let datagram = datagram(SENDER);
    let payload = match part {
        Part::Whole => &datagram[..],
        Part::First => &datagram[..8],
        Part::Last(_) => &datagram[8..],
    };
    raw.send_bytes(at(by, 0), ipv4_packet(way, part, &[], payload))
}

/// sendto() names one destination and the header another: what the header's own may not get, nobody gets.
fn destination_in_the_header(site: &Site) -> Result<()> {
    const UNSPECIFIED: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
    let lab = site.lab();
    let (friend, stranger, host) = (v4(site.partner())?, v4(site.stranger())?, v4(lab.host())?);
    let (sniffer, db) = (lab.probe("/sniffer")?, lab.probe("/db")?);
    let (near, far) = (lab.stranger(site.partner())?, lab.stranger(site.stranger())?);
    let at_friend = listening(&near, friend)?;
    let at_db = listening(&db, Ipv4Addr::UNSPECIFIED)?;
    let at_stranger = listening(&far, stranger)?;
    let raw = sniffer.open(Kind::RawIp, Family::V4)?;
    allowed("the friend", send(&raw, (UNSPECIFIED, friend), Part::Whole, friend)?)?;
    allowed("the friend's packet", at_friend.receive()?)?;
    let mut checks = Checks::default();
    for target in [stranger, host, Ipv4Addr::LOCALHOST, Ipv4Addr::BROADCAST] {
        for by in [friend, stranger, host, Ipv4Addr::LOCALHOST] {
            let attempt = format!("a header that names {target}, sent to {by}");
            checks.add(&attempt, Refused, send(&raw, (UNSPECIFIED, target), Part::Whole, by)?);
        }
    }
    let (own, friend, stranger) = (v6(lab.host())?, v6(site.partner())?, v6(site.stranger())?);
    let raw = sniffer.open(Kind::RawIp, Family::V6)?;
    for (target, by) in [(stranger, friend), (own, friend), (Ipv6Addr::LOCALHOST, friend), (stranger, own)] {
        let outcome = raw.send_bytes(at(by, 0), ipv6_packet((own, target), UDP, &datagram(SENDER)))?;
        checks.add(&format!("a header that names {target}, sent to {by}"), Refused, outcome);
    }
    checks.finish()?;
    blocked("a packet at the stranger", at_stranger.receive()?)?;
    blocked("a packet at db", at_db.receive()?)
}

/// web may ask db, and another machine app: neither from a raw socket of sniffer's or of nobody's in their names.
fn forged_source(site: &Site) -> Result<()> {
    let lab = site.lab();
    let (friend, stranger, host) = (v4(site.partner())?, v4(site.stranger())?, v4(lab.host())?);
    let (web, db, app) = (lab.probe("/web")?, lab.probe("/db")?, lab.probe("/app")?);
    let far = lab.stranger(site.stranger())?;
    let at_stranger = listening(&far, stranger)?;
    let at_app = listening(&app, host)?;
    for local in [Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 2)] {
        let at_db = listening(&db, local)?;
        let webs = web.open(Kind::Udp, Family::V4)?;
        webs.bind(at(local, SENDER))?;
        allowed("web's own datagram", webs.send(Some(at(local, PORT)))?)?;
        allowed("web's own datagram at db", at_db.receive()?)?;
        for (name, cgroup) in [("sniffer", "/sniffer"), ("nobody", "/other")] {
            let forger = lab.probe(cgroup)?;
            let raw = forger.open(Kind::RawIp, Family::V4)?;
            refused(&format!("{name} as web, to db"), send(&raw, (local, local), Part::Whole, local)?)?;
            // Nobody may send what it likes; that app gets nothing is its own ingress.
            let outcome = send(&raw, (friend, host), Part::Whole, host)?;
            if name == "sniffer" {
                refused("sniffer as the friend, to app", outcome)?;
                let outcome = send(&raw, (friend, stranger), Part::Whole, stranger)?;
                refused("sniffer as the friend, to the stranger", outcome)?;
            }
        }
        blocked("a forged datagram at db", at_db.receive()?)?;
    }
    blocked("a forged datagram at app", at_app.receive()?)?;
    blocked("a forged datagram at the stranger", at_stranger.receive()?)
}

/// Ports are in the first fragment alone: the others are refused, to whom a rule allows as well, and the first is held to
/// the rules.
fn fragments(site: &Site) -> Result<()> {
    let lab = site.lab();
    let (friend, stranger) = (v4(site.partner())?, v4(site.stranger())?);
    let (near, far) = (lab.stranger(site.partner())?, lab.stranger(site.stranger())?);
    let (at_friend, at_stranger) = (listening(&near, friend)?, listening(&far, stranger)?);
    let sniffer = lab.probe("/sniffer")?;
    let raw = sniffer.open(Kind::RawIp, Family::V4)?;
    let to = |target, part| send(&raw, (Ipv4Addr::UNSPECIFIED, target), part, target);
    allowed("a first fragment to the friend", to(friend, Part::First)?)?;
    refused("the last one to the friend", to(friend, Part::Last(1))?)?;
    refused("a first fragment to the stranger", to(stranger, Part::First)?)?;
    refused("the last one to the stranger", to(stranger, Part::Last(1))?)?;
    blocked("a datagram at the friend", at_friend.receive()?)?;
    blocked("a datagram at the stranger", at_stranger.receive()?)
}

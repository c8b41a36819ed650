//! Taking somebody else's place: its port, its address, its cgroup's name.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4};

use anyhow::{Result, bail};
use bulkhead_tests::{
    probe::{Family, Kind},
    scene::PORT,
    verdicts::{allowed, at, refused},
};
use serde_json::json;

use crate::{
    Case,
    packets::{Part, UDP, ipv4_packet, ipv6_packet, udp_header},
    site::Site,
};

pub(crate) const CASES: &[Case] = &[
    ("attacks::another_workload_at_the_askers_port_gets_no_answer", another_at_the_askers_port),
    ("attacks::nobody_inherits_an_exchange_with_the_askers_port", nobody_inherits_an_exchange),
    ("attacks::a_datagram_cannot_bear_another_workloads_address_and_port", forged_source),
    ("attacks::a_raw_socket_is_judged_by_its_packets_and_not_by_its_peer", raw_is_judged_by_packets),
    ("attacks::a_packet_that_goes_elsewhere_than_it_says_is_refused", packet_that_goes_elsewhere),
    ("attacks::the_same_port_of_the_other_family_is_another_server", same_port_of_the_other_family),
    ("attacks::the_same_port_of_another_address_is_not_web", same_port_of_another_address),
    ("attacks::a_workloads_name_below_another_workload_is_only_a_name", only_a_name),
    ("attacks::deep_below_a_workload_is_still_the_workload", deep_below),
];

/// The port that web asks from.
const ASKS_FROM: u16 = 40_001;
const DB: Ipv4Addr = Ipv4Addr::LOCALHOST;

fn another_at_the_askers_port(site: &Site) -> Result<()> {
    let lab = site.lab();
    let (web, ci, db) = (lab.probe("/web")?, lab.probe("/ci")?, lab.probe("/db")?);
    let server = db.open(Kind::Udp, Family::V4)?;
    server.bind(at(DB, PORT))?;
    let asker = at(Ipv4Addr::LOCALHOST, ASKS_FROM);
    let question = web.open(Kind::Udp, Family::V4)?;
    question.bind(asker)?;
    allowed("web's question", question.send(Some(at(DB, PORT)))?)?;
    allowed("web's question at db", server.receive()?)?;
    allowed("db's answer", server.send(Some(asker))?)?;
    drop(question);
    let heir = ci.open(Kind::Udp, Family::V4)?;
    heir.bind(asker)?;
    refused("db's answer to ci at web's old port", server.send(Some(asker))?)?;
    Ok(())
}

fn nobody_inherits_an_exchange(site: &Site) -> Result<()> {
    let lab = site.lab();
    let (web, nobody, db) = (lab.probe("/web")?, lab.probe("/other")?, lab.probe("/db")?);
    let server = db.open(Kind::Udp, Family::V4)?;
    server.bind(at(DB, PORT))?;
    let asker = at(Ipv4Addr::LOCALHOST, ASKS_FROM);
    let question = web.open(Kind::Udp, Family::V4)?;
    question.bind(asker)?;
    allowed("web's question", question.send(Some(at(DB, PORT)))?)?;
    allowed("web's question at db", server.receive()?)?;
    drop(question);
    allowed("db's answer to web, whose socket is closed", server.send(Some(asker))?)?;
    let heir = nobody.open(Kind::Udp, Family::V4)?;
    heir.bind(asker)?;
    refused("db's answer to nobody at web's old port", server.send(Some(asker))?)?;
    Ok(())
}

fn forged_source(site: &Site) -> Result<()> {
    let lab = site.lab();
    let IpAddr::V4(host) = lab.host().v4 else { bail!("the host has no IPv4 address") };
    let (web, nobody, db) = (lab.probe("/web")?, lab.probe("/other")?, lab.probe("/db")?);
    let webs = web.open(Kind::Udp, Family::V4)?;
    webs.bind(at(host, ASKS_FROM))?;
    let server = db.open(Kind::Udp, Family::V4)?;
    server.bind(at(host, PORT))?;
    let to = SocketAddrV4::new(host, PORT);
    allowed("web's own datagram", webs.send(Some(to.into()))?)?;
    allowed("web's own datagram at db", server.receive()?)?;

    let forger = nobody.open(Kind::Udp, Family::V4)?;
    forger.bind(at(Ipv4Addr::new(127, 0, 0, 2), ASKS_FROM))?;
    refused("a datagram as from web", forger.send_as(host, to)?)?;
    site.agent().denials().expect(&json!({
        "verdict": "denied", "reason": "forged-source", "direction": "egress", "protocol": "udp",
        "workload": {"name": null}, "peer": {"address": host, "port": PORT},
    }))?;
    Ok(())
}

fn raw_is_judged_by_packets(site: &Site) -> Result<()> {
    /// From db's port to db's port: what looks like an answer to a connection that was allowed.
    const SEGMENT: [u8; 20] = {
        let [high, low] = PORT.to_be_bytes();
        [high, low, 0x27, 0x0f, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x10, 0, 0, 0, 0, 0, 0]
    };
    let lab = site.lab();
    let (friends, strangers) = (site.partner(), site.stranger());
    let (app, friend) = (lab.probe("/sniffer")?, at(friends.v4, PORT));
    let raw = app.open(Kind::RawTcp, Family::V4)?;
    allowed("a raw socket connected to a friend", raw.connect(friend)?)?;
    allowed("a segment to the friend", raw.send_bytes(friend, SEGMENT.into())?)?;
    let stranger = at(strangers.v4, PORT);
    refused("a segment to a stranger", raw.send_bytes(stranger, SEGMENT.into())?)?;
    Ok(())
}

fn packet_that_goes_elsewhere(site: &Site) -> Result<()> {
    const ROUTING: u8 = 43;
    const UNSPECIFIED: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
    let lab = site.lab();
    let friends = site.partner();
    let (IpAddr::V4(v4), IpAddr::V6(v6)) = (friends.v4, friends.v6) else { bail!("a network has both") };
    let IpAddr::V6(own) = lab.host().v6 else { bail!("the host has IPv6") };
    let app = lab.probe("/sniffer")?;
    let malformed = |address: IpAddr| {
        let record = json!({"verdict": "denied", "reason": "malformed", "peer": {"address": address}});
        site.agent().denials().expect(&record)
    };

    let raw = app.open(Kind::RawIp, Family::V4)?;
    let udp = udp_header();
    // Loose source route (type 131) by way of the friend to 192.0.2.1, padded to whole words.
    let source_route = [131, 7, 4, 192, 0, 2, 1, 0];
    let (to, way) = (at(v4, 0), (UNSPECIFIED, v4));
    allowed("a plain packet", raw.send_bytes(to, ipv4_packet(way, Part::Whole, &[], &udp))?)?;
    refused("a source route", raw.send_bytes(to, ipv4_packet(way, Part::Whole, &source_route, &udp))?)?;
    refused("a later fragment", raw.send_bytes(to, ipv4_packet(way, Part::Last(8), &[], &udp))?)?;
    refused("half a UDP header", raw.send_bytes(to, ipv4_packet(way, Part::Whole, &[], &udp[..3]))?)?;
    malformed(v4.into())?;

    let raw = app.open(Kind::RawIp, Family::V6)?;
    // Next header, 8-byte units beyond the first, type, segments left (RFC 8200 section 4.4).
    let route = |segments_left: u8| {
        let mut header = vec![UDP, 2, 4, segments_left, 0, 0, 0, 0];
        header.extend(Ipv6Addr::LOCALHOST.octets());
        header.extend(udp);
        ipv6_packet((own, v6), ROUTING, &header)
    };
    let to = at(v6, 0);
    allowed("a plain packet", raw.send_bytes(to, ipv6_packet((own, v6), UDP, &udp))?)?;
    allowed("a route that has come to its end", raw.send_bytes(to, route(0))?)?;
    refused("a route with a segment left", raw.send_bytes(to, route(1))?)?;
    malformed(v6.into())?;
    Ok(())
}

fn same_port_of_the_other_family(site: &Site) -> Result<()> {
    let lab = site.lab();
    let (web, ci, db) = (lab.probe("/web")?, lab.probe("/ci")?, lab.probe("/db")?);
    for kind in [Kind::Tcp, Kind::Udp] {
        db.serve(kind, at(Ipv4Addr::UNSPECIFIED, PORT))?;
        ci.serve(kind, at(Ipv6Addr::LOCALHOST, PORT))?;
    }
    let (owner, squatter) = (at(DB, PORT), at(Ipv6Addr::LOCALHOST, PORT));
    allowed("tcp to db", web.tcp(owner)?)?;
    allowed("udp to db", web.udp(owner)?)?;
    refused("tcp to ci at db's port", web.tcp(squatter)?)?;
    refused("udp to ci at db's port", web.udp(squatter)?)?;
    refused("unconnected udp to ci at db's port", web.udp_unconnected(squatter)?)?;
    Ok(())
}

fn same_port_of_another_address(site: &Site) -> Result<()> {
    let lab = site.lab();
    let (web, ci, db) = (lab.probe("/web")?, lab.probe("/ci")?, lab.probe("/db")?);
    db.serve(Kind::Udp, at(DB, PORT))?;
    web.serve(Kind::Udp, at(Ipv4Addr::LOCALHOST, ASKS_FROM))?;
    let socket = ci.open(Kind::Udp, Family::V4)?;
    socket.bind(at(Ipv4Addr::new(127, 0, 0, 2), ASKS_FROM))?;
    refused("a datagram to db", socket.send(Some(at(DB, PORT)))?)?;
    refused("a connected socket to db", socket.connect(at(DB, PORT))?)?;
    allowed("web to db", web.udp(at(DB, PORT))?)?;
    Ok(())
}

fn only_a_name(site: &Site) -> Result<()> {
    let lab = site.lab();
    let (web, impostor, db) = (lab.probe("/web")?, lab.probe("/ci/web")?, lab.probe("/db")?);
    db.serve(Kind::Tcp, at(DB, PORT))?;
    allowed("web", web.tcp(at(DB, PORT))?)?;
    refused("ci's cgroup by the name of web", impostor.tcp(at(DB, PORT))?)?;
    let late = lab.probe("/ci/sub/web")?;
    refused("one made while the agent runs", late.tcp(at(DB, PORT))?)?;
    Ok(())
}

fn deep_below(site: &Site) -> Result<()> {
    /// More levels than the programs look up.
    const LEVELS: usize = 24;
    let lab = site.lab();
    let deep = "/d".repeat(LEVELS);
    let db = lab.probe("/db")?;
    db.serve(Kind::Tcp, at(DB, PORT))?;
    db.serve(Kind::Udp, at(DB, PORT))?;
    let (web, ci) = (lab.probe(&format!("/web{deep}"))?, lab.probe(&format!("/ci{deep}"))?);
    allowed("tcp from deep below web", web.tcp(at(DB, PORT))?)?;
    allowed("udp from deep below web", web.udp_unconnected(at(DB, PORT))?)?;
    refused("tcp from deep below ci", ci.tcp(at(DB, PORT))?)?;
    refused("udp from deep below ci", ci.udp_unconnected(at(DB, PORT))?)?;
    Ok(())
}

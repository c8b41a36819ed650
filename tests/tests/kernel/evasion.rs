//! What an attacker in a workload would try: web may reach ci's own port, which must not become a way out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use bulkhead_tests::{
    Probe,
    probe::{Family, Kind},
    scene::PORT,
    verdicts::{Checks, Expected::Refused, allowed, at, blocked, refused},
};

use crate::{Case, site::Site};

pub(crate) const CASES: &[Case] = &[
    ("evasion::a_listener_on_every_address_stands_for_no_other_machine", a_listener_on_every_address),
    (
        "evasion::another_machine_is_no_workload_by_the_port_that_it_sends_from",
        another_machine_is_no_workload,
    ),
    ("evasion::an_open_port_is_no_port_to_send_from", an_open_port),
    ("evasion::an_answered_question_opens_no_other_port", an_answered_question),
    ("evasion::an_allowed_peer_first_and_a_forbidden_one_after", an_allowed_peer_first),
    ("evasion::an_ipv4_address_in_ipv6_form_is_the_same_peer", an_ipv4_address_in_ipv6_form),
    ("evasion::a_ping_socket_is_no_way_around", a_ping_socket),
];

/// The port at which ci may be called by web.
const CI_PORT: u16 = 8080;
/// The port at which web may be called by ci.
const WEB_PORT: u16 = 9998;
/// A port that no rule names.
const OTHER_PORT: u16 = 9999;

/// Where a server listens that listens everywhere: the first is for IPv4 only, the second for both families.
const EVERYWHERE: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];

fn serve(probe: &Probe, address: IpAddr, port: u16) -> Result<()> {
    probe.serve(Kind::Tcp, at(address, port))?;
    probe.serve(Kind::Udp, at(address, port))?;
    Ok(())
}

fn a_listener_on_every_address(site: &Site) -> Result<()> {
    for everywhere in EVERYWHERE {
        let lab = site.lab();
        let elsewhere = site.stranger();
        let (web, ci, remote) = (lab.probe("/web")?, lab.probe("/ci")?, lab.stranger(elsewhere)?);
        serve(&web, everywhere, WEB_PORT)?;
        for address in [elsewhere.v4, elsewhere.v6] {
            serve(&remote, address, WEB_PORT)?;
        }
        allowed("ci to web", ci.tcp(at(Ipv4Addr::LOCALHOST, WEB_PORT))?)?;
        allowed("ci to web", ci.udp(at(lab.host().v4, WEB_PORT))?)?;
        let mut checks = Checks::default();
        for address in [elsewhere.v4, elsewhere.v6] {
            let to = at(address, WEB_PORT);
            let attempt = format!("from ci to another machine at {to} while web listens at {everywhere}");
            checks.add(&format!("tcp {attempt}"), Refused, ci.tcp(to)?);
            checks.add(&format!("udp {attempt}"), Refused, ci.udp(to)?);
            checks.add(&format!("unconnected udp {attempt}"), Refused, ci.udp_unconnected(to)?);
        }
        checks.finish()?;
    }
    Ok(())
}

fn another_machine_is_no_workload(site: &Site) -> Result<()> {
    for everywhere in EVERYWHERE {
        let lab = site.lab();
        let elsewhere = site.stranger();
        let (web, ci, remote) = (lab.probe("/web")?, lab.probe("/ci")?, lab.stranger(elsewhere)?);
        serve(&web, everywhere, OTHER_PORT)?;
        serve(&ci, Ipv6Addr::UNSPECIFIED.into(), CI_PORT)?;
        let host = lab.host();
        for (from, to) in [(elsewhere.v4, host.v4), (elsewhere.v6, host.v6)] {
            for kind in [Kind::Tcp, Kind::Udp] {
                let to = at(to, CI_PORT);
                let socket = remote.open(kind, Family::of(to))?;
                socket.bind(at(from, OTHER_PORT))?;
                let attempt =
                    format!("{kind:?} from another machine's port to ci while web is at {everywhere}");
                blocked(&attempt, socket.connect_and_exchange(to)?)?;
            }
        }
        allowed("web to ci", web.tcp(at(host.v4, CI_PORT))?)?;
    }
    Ok(())
}

fn an_open_port(site: &Site) -> Result<()> {
    let lab = site.lab();
    let elsewhere = site.stranger();
    let (web, ci, db) = (lab.probe("/web")?, lab.probe("/ci")?, lab.probe("/db")?);
    let there = lab.stranger(elsewhere)?;
    let remote = at(elsewhere.v4, PORT);
    for (probe, address) in [(&db, lab.host().v4), (&there, elsewhere.v4)] {
        probe.serve(Kind::Tcp, at(address, PORT))?;
        probe.serve(Kind::Udp, at(address, PORT))?;
    }
    web.serve(Kind::Udp, at(lab.host().v4, OTHER_PORT))?;
    let own = at(lab.host().v4, CI_PORT);
    for to in [at(lab.host().v4, PORT), remote, at(lab.host().v4, OTHER_PORT)] {
        let socket = ci.open(Kind::Udp, Family::V4)?;
        socket.bind(own)?;
        refused(&format!("a datagram from ci's open port to {to}"), socket.send(Some(to))?)?;
        refused(&format!("a connected socket at ci's open port to {to}"), socket.connect(to)?)?;
    }
    for to in [at(lab.host().v4, PORT), remote] {
        let socket = ci.open(Kind::Tcp, Family::V4)?;
        socket.bind(own)?;
        refused(&format!("a connection from ci's open port to {to}"), socket.connect(to)?)?;
    }
    Ok(())
}

fn an_answered_question(site: &Site) -> Result<()> {
    let lab = site.lab();
    let host = lab.host().v4;
    let (web, ci) = (lab.probe("/web")?, lab.probe("/ci")?);
    web.serve(Kind::Udp, at(host, OTHER_PORT))?;
    let socket = ci.open(Kind::Udp, Family::V4)?;
    socket.bind(at(host, CI_PORT))?;
    let question = web.open(Kind::Udp, Family::V4)?;
    let asker = question.bind(host)?;
    allowed("web's question", question.send(Some(at(host, CI_PORT)))?)?;
    allowed("web's question at ci", socket.receive()?)?;
    allowed("ci's answer", socket.send(Some(asker))?)?;
    allowed("ci's answer at web", question.receive()?)?;
    refused("ci's own question to another port", socket.send(Some(at(host, OTHER_PORT)))?)?;
    Ok(())
}

fn an_allowed_peer_first(site: &Site) -> Result<()> {
    let lab = site.lab();
    let elsewhere = site.stranger();
    let (web, db, remote) = (lab.probe("/web")?, lab.probe("/db")?, lab.stranger(elsewhere)?);
    let allowed_peer = at(lab.host().v4, PORT);
    let forbidden = at(elsewhere.v4, PORT);
    db.serve(Kind::Udp, allowed_peer)?;
    remote.serve(Kind::Udp, forbidden)?;

    let connected = web.open(Kind::Udp, Family::V4)?;
    allowed("the allowed peer", connected.connect_and_exchange(allowed_peer)?)?;
    refused("another address on a connected socket", connected.send(Some(forbidden))?)?;
    refused("a connected socket connected anew", connected.connect(forbidden)?)?;
    let unconnected = web.open(Kind::Udp, Family::V4)?;
    allowed("the allowed peer", unconnected.exchange(Some(allowed_peer))?)?;
    refused("another peer on the same socket", unconnected.send(Some(forbidden))?)?;
    allowed("the allowed peer again", unconnected.exchange(Some(allowed_peer))?)?;
    Ok(())
}

fn an_ipv4_address_in_ipv6_form(site: &Site) -> Result<()> {
    let lab = site.lab();
    let elsewhere = site.stranger();
    let (web, six, db) = (lab.probe("/web")?, lab.probe("/six")?, lab.probe("/db")?);
    let remote = lab.stranger(elsewhere)?;
    let mapped = |address: IpAddr| match address {
        IpAddr::V4(v4) => IpAddr::from(v4.to_ipv6_mapped()),
        IpAddr::V6(_) => address,
    };
    for (server, address) in [(&db, lab.host().v4), (&remote, elsewhere.v4)] {
        server.serve(Kind::Tcp, at(address, PORT))?;
        server.serve(Kind::Udp, at(address, PORT))?;
    }
    // The policy opens all of IPv6 to six, which must not hold the mapped IPv4 addresses.
    let (here, there) = (at(mapped(lab.host().v4), PORT), at(mapped(elsewhere.v4), PORT));
    allowed("web to db", web.tcp(here)?)?;
    allowed("web to db", web.udp(here)?)?;
    allowed("web to db", web.udp_unconnected(here)?)?;
    for to in [here, there] {
        refused("tcp from six", six.tcp(to)?)?;
        refused("udp from six", six.udp(to)?)?;
        refused("unconnected udp from six", six.udp_unconnected(to)?)?;
    }
    Ok(())
}

fn a_ping_socket(site: &Site) -> Result<()> {
    let lab = site.lab();
    let elsewhere = site.stranger();
    let ci = lab.probe("/ci")?;
    lab.host().allow_ping_sockets()?;
    let socket = ci.open(Kind::PingSocket, Family::V4)?;
    refused("an echo request", socket.send(Some(at(elsewhere.v4, 0)))?)?;
    refused("an echo request, connected", socket.connect_and_exchange(at(elsewhere.v4, 0))?)?;
    // net/ipv6/icmp.c: icmpv6_push_pending_frames() keeps the error to itself.
    let socket = ci.open(Kind::PingSocket, Family::V6)?;
    blocked("an ICMPv6 echo request", socket.exchange(Some(at(elsewhere.v6, 0)))?)?;
    Ok(())
}

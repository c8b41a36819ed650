//! What an attacker in a workload would try. The policy is that of `loopback`, with a way in to ci added: web may
//! reach ci's own port, which must not become a way out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use bulkhead_tests::{
    Lab, Probe,
    probe::{Family, Kind},
};

use crate::{
    loopback::{POLICY, PORT},
    verdicts::{Checks, Expected::Refused, allowed, at, blocked, refused},
};

/// The port at which ci may be called by web.
const CI_PORT: u16 = 8080;
/// A port that no rule names.
const OTHER_PORT: u16 = 9999;

fn policy() -> String {
    let rule =
        format!("[[allow]]\nfrom = \"web\"\nto = \"ci\"\nports = [\"tcp/{CI_PORT}\", \"udp/{CI_PORT}\"]\n");
    format!("{POLICY}\n{rule}")
}

/// Rules that let ci reach web at a port of its own, too.
fn both_ways() -> String {
    let ports = format!("ports = [\"tcp/{OTHER_PORT}\", \"udp/{OTHER_PORT}\"]");
    format!("{}\n[[allow]]\nfrom = \"ci\"\nto = \"web\"\n{ports}\n", policy())
}

/// Where a server listens that listens everywhere: the first is for IPv4 only, the second for both families.
const EVERYWHERE: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];

fn serve(probe: &Probe, address: IpAddr, port: u16) -> Result<()> {
    probe.serve(Kind::Tcp, at(address, port))?;
    probe.serve(Kind::Udp, at(address, port))?;
    Ok(())
}

#[test]
fn a_listener_on_every_address_stands_for_no_other_machine() -> Result<()> {
    for everywhere in EVERYWHERE {
        let lab = Lab::new()?;
        let elsewhere = lab.network()?;
        let (web, ci, remote) = (lab.probe("/web")?, lab.probe("/ci")?, lab.stranger(&elsewhere)?);
        serve(&web, everywhere, OTHER_PORT)?;
        for address in [elsewhere.v4, elsewhere.v6] {
            serve(&remote, address, OTHER_PORT)?;
        }
        let agent = lab.agent(&both_ways())?.start()?;
        allowed("ci to web", ci.tcp(at(Ipv4Addr::LOCALHOST, OTHER_PORT))?)?;
        allowed("ci to web", ci.udp(at(lab.host().v4, OTHER_PORT))?)?;
        let mut checks = Checks::default();
        for address in [elsewhere.v4, elsewhere.v6] {
            let to = at(address, OTHER_PORT);
            let attempt = format!("from ci to another machine at {to} while web listens at {everywhere}");
            checks.add(&format!("tcp {attempt}"), Refused, ci.tcp(to)?);
            checks.add(&format!("udp {attempt}"), Refused, ci.udp(to)?);
            checks.add(&format!("unconnected udp {attempt}"), Refused, ci.udp_unconnected(to)?);
        }
        checks.finish()?;
        agent.stop()?;
    }
    Ok(())
}

#[test]
fn another_machine_is_no_workload_by_the_port_that_it_sends_from() -> Result<()> {
    for everywhere in EVERYWHERE {
        let lab = Lab::new()?;
        let elsewhere = lab.network()?;
        let (web, ci, remote) = (lab.probe("/web")?, lab.probe("/ci")?, lab.stranger(&elsewhere)?);
        serve(&web, everywhere, OTHER_PORT)?;
        serve(&ci, Ipv6Addr::UNSPECIFIED.into(), CI_PORT)?;
        let agent = lab.agent(&policy())?.start()?;
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
        agent.stop()?;
    }
    Ok(())
}

#[test]
fn an_open_port_is_no_port_to_send_from() -> Result<()> {
    let lab = Lab::new()?;
    let elsewhere = lab.network()?;
    let (web, ci, db) = (lab.probe("/web")?, lab.probe("/ci")?, lab.probe("/db")?);
    let there = lab.stranger(&elsewhere)?;
    let remote = at(elsewhere.v4, PORT);
    for (probe, address) in [(&db, lab.host().v4), (&there, elsewhere.v4)] {
        probe.serve(Kind::Tcp, at(address, PORT))?;
        probe.serve(Kind::Udp, at(address, PORT))?;
    }
    web.serve(Kind::Udp, at(lab.host().v4, OTHER_PORT))?;
    let agent = lab.agent(&policy())?.start()?;
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
    agent.stop()?;
    Ok(())
}

#[test]
fn an_answered_question_opens_no_other_port() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.host().v4;
    let (web, ci) = (lab.probe("/web")?, lab.probe("/ci")?);
    web.serve(Kind::Udp, at(host, OTHER_PORT))?;
    let agent = lab.agent(&policy())?.start()?;
    let socket = ci.open(Kind::Udp, Family::V4)?;
    socket.bind(at(host, CI_PORT))?;
    let question = web.open(Kind::Udp, Family::V4)?;
    let asker = question.bind(host)?;
    allowed("web's question", question.send(Some(at(host, CI_PORT)))?)?;
    allowed("web's question at ci", socket.receive()?)?;
    allowed("ci's answer", socket.send(Some(asker))?)?;
    allowed("ci's answer at web", question.receive()?)?;
    refused("ci's own question to another port", socket.send(Some(at(host, OTHER_PORT)))?)?;
    agent.stop()?;
    Ok(())
}

#[test]
fn an_allowed_peer_first_and_a_forbidden_one_after() -> Result<()> {
    let lab = Lab::new()?;
    let elsewhere = lab.network()?;
    let (web, db, remote) = (lab.probe("/web")?, lab.probe("/db")?, lab.stranger(&elsewhere)?);
    let allowed_peer = at(lab.host().v4, PORT);
    let forbidden = at(elsewhere.v4, PORT);
    db.serve(Kind::Udp, allowed_peer)?;
    remote.serve(Kind::Udp, forbidden)?;
    let agent = lab.agent(&policy())?.start()?;

    let connected = web.open(Kind::Udp, Family::V4)?;
    allowed("the allowed peer", connected.connect_and_exchange(allowed_peer)?)?;
    refused("another address on a connected socket", connected.send(Some(forbidden))?)?;
    refused("a connected socket connected anew", connected.connect(forbidden)?)?;
    let unconnected = web.open(Kind::Udp, Family::V4)?;
    allowed("the allowed peer", unconnected.exchange(Some(allowed_peer))?)?;
    refused("another peer on the same socket", unconnected.send(Some(forbidden))?)?;
    allowed("the allowed peer again", unconnected.exchange(Some(allowed_peer))?)?;
    agent.stop()?;
    Ok(())
}

#[test]
fn an_ipv4_address_in_ipv6_form_is_the_same_peer() -> Result<()> {
    let lab = Lab::new()?;
    let elsewhere = lab.network()?;
    let (web, ci, db) = (lab.probe("/web")?, lab.probe("/ci")?, lab.probe("/db")?);
    let remote = lab.stranger(&elsewhere)?;
    let mapped = |address: IpAddr| match address {
        IpAddr::V4(v4) => IpAddr::from(v4.to_ipv6_mapped()),
        IpAddr::V6(_) => address,
    };
    for (server, address) in [(&db, lab.host().v4), (&remote, elsewhere.v4)] {
        server.serve(Kind::Tcp, at(address, PORT))?;
        server.serve(Kind::Udp, at(address, PORT))?;
    }
    // A CIDR of all IPv6 must not hold the mapped IPv4 addresses.
    let rule = "[[allow]]\nfrom = \"ci\"\nto = \"::/0\"\n";
    let agent = lab.agent(&format!("{}\n{rule}", policy()))?.start()?;
    let (here, there) = (at(mapped(lab.host().v4), PORT), at(mapped(elsewhere.v4), PORT));
    allowed("web to db", web.tcp(here)?)?;
    allowed("web to db", web.udp(here)?)?;
    allowed("web to db", web.udp_unconnected(here)?)?;
    for to in [here, there] {
        refused("tcp from ci", ci.tcp(to)?)?;
        refused("udp from ci", ci.udp(to)?)?;
        refused("unconnected udp from ci", ci.udp_unconnected(to)?)?;
    }
    agent.stop()?;
    Ok(())
}

#[test]
fn a_ping_socket_is_no_way_around() -> Result<()> {
    let lab = Lab::new()?;
    let elsewhere = lab.network()?;
    let ci = lab.probe("/ci")?;
    let everybody =
        lab.host().command("sysctl").args(["-qw", "net.ipv4.ping_group_range=0 2147483647"]).status()?;
    assert!(everybody.success(), "ping sockets cannot be allowed");
    let before = ci.open(Kind::PingSocket, Family::V4)?;
    allowed("without an agent", before.exchange(Some(at(elsewhere.v4, 0)))?)?;
    let agent = lab.agent(&policy())?.start()?;
    let socket = ci.open(Kind::PingSocket, Family::V4)?;
    refused("an echo request", socket.send(Some(at(elsewhere.v4, 0)))?)?;
    refused("an echo request, connected", socket.connect_and_exchange(at(elsewhere.v4, 0))?)?;
    // net/ipv6/icmp.c: icmpv6_push_pending_frames() keeps the error to itself.
    let socket = ci.open(Kind::PingSocket, Family::V6)?;
    blocked("an ICMPv6 echo request", socket.exchange(Some(at(elsewhere.v6, 0)))?)?;
    refused("a ping socket older than the agent", before.send(Some(at(elsewhere.v4, 0)))?)?;
    agent.stop()?;
    Ok(())
}

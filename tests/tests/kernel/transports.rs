//! Other ways to speak TCP and UDP are no ways out. One other machine is a friend, whom app may reach by every
//! protocol and port, and one is not.

use std::{fs, net::IpAddr};

use anyhow::{Result, bail};
use bulkhead_tests::{
    Network, Outcome, Probe,
    probe::{Family, Kind, Socket},
    verdicts::{
        Checks, Expected,
        Expected::{Allowed, Blocked, Refused},
        allowed, at, blocked, refused,
    },
};

use crate::{Case, Skip, site::Site};

pub(crate) const CASES: &[Case] = &[
    ("transports::several_paths_are_tcp", several_paths),
    ("transports::data_that_comes_with_the_connection_needs_a_rule_first", data_with_the_connection),
    ("transports::udp_with_half_a_checksum_is_a_protocol_of_its_own", half_a_checksum),
    ("transports::an_sctp_association_needs_a_rule", sctp),
    ("transports::a_socket_that_listened_connects_as_any_other", a_socket_that_listened),
    ("transports::another_peer_in_the_first_ones_place_needs_a_rule", another_peer_in_the_first_ones_place),
    ("transports::a_connection_made_a_listener_lets_in_whom_the_rules_do", a_connection_made_a_listener),
];

/// The servers' port.
const PORT: u16 = 5432;
/// The port at which the friend may call app.
const OWN_PORT: u16 = 8080;

/// Both other machines serve; what app gets at each is as it should be.
fn check(
    site: &Site,
    kind: Kind,
    (name, of_stranger): (&str, Expected),
    ask: impl Fn(&Probe, IpAddr) -> Result<Outcome>,
) -> Result<()> {
    let app = site.lab().probe("/sniffer")?;
    let (friend, stranger) = (site.lab().stranger(site.partner())?, site.lab().stranger(site.stranger())?);
    let machines: [(&Probe, &Network, Expected); 2] =
        [(&friend, site.partner(), Allowed), (&stranger, site.stranger(), of_stranger)];
    let mut checks = Checks::default();
    for (probe, network, expected) in machines {
        for address in [network.v4, network.v6] {
            probe.serve(kind, at(address, PORT))?;
            checks.add(&format!("{name} to {address}"), expected, ask(&app, address)?);
        }
    }
    checks.finish()
}

fn open(probe: &Probe, kind: Kind, address: IpAddr) -> Result<Socket<'_>> {
    probe.open(kind, Family::of(at(address, PORT)))
}

fn several_paths(site: &Site) -> Result<()> {
    let app = site.lab().probe("/sniffer")?;
    needs(&app, Kind::Mptcp, "the kernel has no MPTCP")?;
    if is_before(5, 11)? {
        // Further subflows would belong to nobody.
        for family in [Family::V4, Family::V6] {
            refused("a socket for MPTCP", app.try_open(Kind::Mptcp, family)?)?;
        }
        return Ok(());
    }
    check(site, Kind::Mptcp, ("MPTCP", Refused), |app, address| {
        open(app, Kind::Mptcp, address)?.connect_and_exchange(at(address, PORT))
    })
}

fn data_with_the_connection(site: &Site) -> Result<()> {
    check(site, Kind::Tcp, ("TCP Fast Open", Refused), |app, address| {
        open(app, Kind::Tcp, address)?.connect_with_data(at(address, PORT))
    })
}

fn half_a_checksum(site: &Site) -> Result<()> {
    needs(&site.lab().probe("/sniffer")?, Kind::UdpLite, "the kernel has no UDP-Lite")?;
    check(site, Kind::UdpLite, ("connected UDP-Lite", Refused), |app, address| {
        open(app, Kind::UdpLite, address)?.connect_and_exchange(at(address, PORT))
    })?;
    check(site, Kind::UdpLite, ("unconnected UDP-Lite", Refused), |app, address| {
        open(app, Kind::UdpLite, address)?.exchange(Some(at(address, PORT)))
    })
}

fn sctp(site: &Site) -> Result<()> {
    let app = site.lab().probe("/sniffer")?;
    needs(&app, Kind::Sctp, "the kernel has no SCTP")?;
    // It asks no hook as it connects: its packets are refused, and the caller waits for an answer.
    check(site, Kind::Sctp, ("SCTP", Blocked), |app, address| {
        open(app, Kind::Sctp, address)?.connect_and_exchange(at(address, PORT))
    })
}

fn a_socket_that_listened(site: &Site) -> Result<()> {
    let lab = site.lab();
    let (friends, strangers) = (site.partner(), site.stranger());
    let (friend, stranger) = (friends.v4, strangers.v4);
    let app = lab.probe("/sniffer")?;
    let (near, far) = (lab.stranger(friends)?, lab.stranger(strangers)?);
    near.serve(Kind::Tcp, at(friend, PORT))?;
    far.serve(Kind::Tcp, at(stranger, PORT))?;
    let own = at(lab.host().v4, OWN_PORT);
    for (name, peer, expected) in [("a stranger", stranger, Refused), ("a friend", friend, Allowed)] {
        let socket = app.open(Kind::Tcp, Family::V4)?;
        socket.bind(own)?;
        socket.listen()?;
        // The mark of a listener is what the socket should not profit from.
        allowed("a connection to app", near.open(Kind::Tcp, Family::V4)?.connect(own)?)?;
        socket.shut_down()?;
        let outcome = socket.connect_and_exchange(at(peer, PORT))?;
        expected.check(&format!("connect() of a former listener to {name}"), outcome)?;
    }
    Ok(())
}

fn another_peer_in_the_first_ones_place(site: &Site) -> Result<()> {
    let lab = site.lab();
    let (friends, strangers) = (site.partner(), site.stranger());
    let app = lab.probe("/sniffer")?;
    let (near, far) = (lab.stranger(friends)?, lab.stranger(strangers)?);
    for (probe, network) in [(&near, friends), (&far, strangers)] {
        for kind in [Kind::Tcp, Kind::Udp] {
            probe.serve(kind, at(network.v4, PORT))?;
            probe.serve(kind, at(network.v6, PORT))?;
        }
    }
    for (friend, stranger) in [(friends.v4, strangers.v4), (friends.v6, strangers.v6)] {
        for kind in [Kind::Tcp, Kind::Udp] {
            let socket = open(&app, kind, friend)?;
            allowed("the friend", socket.connect_and_exchange(at(friend, PORT))?)?;
            socket.disconnect()?;
            refused(&format!("{kind:?} to {stranger}"), socket.connect(at(stranger, PORT))?)?;
            allowed("the friend again", socket.connect_and_exchange(at(friend, PORT))?)?;
        }
    }
    Ok(())
}

/// What was kept of the connection must not hold for those who call its socket, nor for what is accepted from it.
fn a_connection_made_a_listener(site: &Site) -> Result<()> {
    let lab = site.lab();
    let (friend, host) = (site.partner().v4, lab.host().v4);
    let app = lab.probe("/sniffer")?;
    let (near, far) = (lab.stranger(site.partner())?, lab.stranger(site.stranger())?);
    near.serve(Kind::Tcp, at(friend, PORT))?;
    let socket = app.open(Kind::Tcp, Family::V4)?;
    allowed("the friend", socket.connect_and_exchange(at(friend, PORT))?)?;
    socket.disconnect()?;
    let server = socket.serve(at(host, OWN_PORT))?;
    blocked("a stranger calls", far.tcp(server.address)?)?;
    allowed("the friend calls", near.tcp(server.address)?)?;
    blocked("a stranger calls once more", far.tcp(server.address)?)
}

/// Skips the test on kernels without sockets of this kind.
fn needs(app: &Probe, kind: Kind, without: &'static str) -> Result<()> {
    match app.try_open(kind, Family::V4)? {
        Outcome::Failed(_) => bail!(Skip(without)),
        _ => Ok(()),
    }
}

/// Is the running kernel older than this version?
fn is_before(major: u32, minor: u32) -> Result<bool> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|n| n.parse::<u32>().ok());
    Ok((numbers.next(), numbers.next()) < (Some(major), Some(minor)))
}

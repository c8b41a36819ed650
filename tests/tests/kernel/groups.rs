//! One address for many: ports that two workloads share, several datagrams by one call, groups and whole networks.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Result, ensure};
use bulkhead_tests::{
    Outcome, Probe, Socket,
    pace::fewer,
    probe::{Family, Kind, Setting},
    scene::PORT,
    verdicts::{allowed, at, blocked, refused},
};

use crate::{Case, site::Site};

pub(crate) const CASES: &[Case] = &[
    ("groups::a_port_that_two_workloads_share_leads_to_the_right_one_only", shared_port_tcp),
    ("groups::a_datagram_to_a_shared_port_reaches_the_right_one_only", shared_port_udp),
    ("groups::each_datagram_of_one_call_is_judged", one_call),
    ("groups::a_group_or_network_needs_a_rule", group_or_network),
    ("groups::only_who_has_a_rule_is_heard_in_a_group", heard_in_a_group),
];

/// How often a shared port is tried: the kernel chooses by a hash of the asker's port.
const TRIES: u32 = 100;

/// A socket that shares its port.
fn sharing(probe: &Probe, kind: Kind) -> Result<Socket<'_>> {
    let socket = probe.open(kind, Family::V4)?;
    socket.set(Setting::SharedPort)?;
    socket.bind(at(Ipv4Addr::LOCALHOST, PORT))?;
    Ok(socket)
}

/// web may reach db's port, and not ci at the same one.
fn shared_port_tcp(site: &Site) -> Result<()> {
    let lab = site.lab();
    let (web, db, ci) = (lab.probe("/web")?, lab.probe("/db")?, lab.probe("/ci")?);
    // It never answers, so that a connection to it shows as silence.
    let squatter = sharing(&ci, Kind::Tcp)?;
    squatter.listen()?;
    sharing(&db, Kind::Tcp)?.answer()?;
    for _ in 0..fewer(TRIES) {
        let socket = web.open(Kind::Tcp, Family::V4)?;
        match socket.connect(at(Ipv4Addr::LOCALHOST, PORT))? {
            Outcome::Answered => allowed("an exchange on a connection", socket.exchange(None)?)?,
            // It would have been ci's, or could be: as it is asked for, the kernel has not chosen yet.
            outcome => blocked("a connection", outcome)?,
        }
    }
    drop(squatter);
    allowed("a connection when ci has gone", web.tcp(at(Ipv4Addr::LOCALHOST, PORT))?)
}

fn shared_port_udp(site: &Site) -> Result<()> {
    let lab = site.lab();
    let (web, db, ci) = (lab.probe("/web")?, lab.probe("/db")?, lab.probe("/ci")?);
    let squatter = sharing(&ci, Kind::Udp)?;
    sharing(&db, Kind::Udp)?.answer()?;
    let tries = fewer(TRIES);
    let mut answered = 0;
    for _ in 0..tries {
        let socket = web.open(Kind::Udp, Family::V4)?;
        if socket.send(Some(at(Ipv4Addr::LOCALHOST, PORT)))? == Outcome::Answered {
            answered += u32::from(socket.receive()? == Outcome::Answered);
        }
    }
    ensure!(answered > 0, "db has never been reached in {tries} tries");
    blocked("a datagram at ci", squatter.receive()?)
}

/// The call ends at the first datagram that is refused, and says how many came before it.
fn one_call(site: &Site) -> Result<()> {
    let lab = site.lab();
    let (friend, stranger) = (site.partner(), site.stranger());
    let (app, near, far) = (lab.probe("/app")?, lab.stranger(friend)?, lab.stranger(stranger)?);
    for (friend, stranger) in [(friend.v4, stranger.v4), (friend.v6, stranger.v6)] {
        let to = [at(friend, PORT), at(stranger, PORT)];
        let [good, bad] = to;
        let (heard, unheard) =
            (near.open(Kind::Udp, Family::of(good))?, far.open(Kind::Udp, Family::of(bad))?);
        heard.bind(good)?;
        unheard.bind(bad)?;
        let socket = app.open(Kind::Udp, Family::of(good))?;
        for (to, taken) in [(vec![good, bad, good], 1), (vec![bad, good], 0), (vec![good, good], 2)] {
            let sent = socket.send_many(&to)?;
            ensure!(sent == taken, "{sent} and not {taken} of {to:?} were taken");
        }
        for n in 1..=3 {
            allowed(&format!("datagram {n} at the friend"), heard.receive()?)?;
        }
        blocked("a datagram at the stranger", unheard.receive()?)?;
    }
    Ok(())
}

const GROUP_V4: Ipv4Addr = Ipv4Addr::new(239, 77, 0, 1);
const GROUP_V6: &str = "ff15::77";
/// The LAN's.
const EVERYBODY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 255);

fn group_or_network(site: &Site) -> Result<()> {
    let lab = site.lab();
    let (ci, six, nobody) = (lab.probe("/ci")?, lab.probe("/six")?, lab.probe("/other")?);
    let v6: IpAddr = GROUP_V6.parse()?;
    lab.host().ip("route replace 239.0.0.0/8 dev lan0\nroute replace 255.255.255.255 dev lan0")?;
    for to in [GROUP_V4.into(), v6, EVERYBODY.into(), Ipv4Addr::BROADCAST.into()] {
        let to = at(to, PORT);
        let send = |probe: &Probe| -> Result<Outcome> {
            let socket = probe.open(Kind::Udp, Family::of(to))?;
            if to.is_ipv4() {
                socket.set(Setting::Broadcast)?;
            }
            socket.send(Some(to))
        };
        refused(&format!("ci to {to}"), send(&ci)?)?;
        allowed(&format!("nobody to {to}"), send(&nobody)?)?;
        if to.is_ipv6() {
            allowed(&format!("six, which may reach all of IPv6, to {to}"), send(&six)?)?;
        }
    }
    Ok(())
}

/// Whoever sends to a group that app is in: the partner may, others not.
fn heard_in_a_group(site: &Site) -> Result<()> {
    let lab = site.lab();
    let IpAddr::V4(own) = lab.host().v4 else { anyhow::bail!("the host has an IPv4 address") };
    let app = lab.probe("/app")?;
    let (near, far) = (lab.stranger(site.partner())?, lab.stranger(site.stranger())?);
    let member = app.open(Kind::Udp, Family::V4)?;
    member.bind(at(Ipv4Addr::UNSPECIFIED, PORT))?;
    member.set(Setting::Group(GROUP_V4.into(), own))?;
    for to in [at(GROUP_V4, PORT), at(EVERYBODY, PORT)] {
        for (name, sender, heard) in [("the stranger", &far, false), ("the partner", &near, true)] {
            let socket = sender.open(Kind::Udp, Family::V4)?;
            socket.set(Setting::Broadcast)?;
            allowed("a machine that is not ours", socket.send(Some(to))?)?;
            let check = if heard { allowed } else { blocked };
            check(&format!("a datagram of {name} to {to} at app"), member.receive()?)?;
        }
    }
    Ok(())
}

//! Source addresses that are not the sender's own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use bulkhead_tests::{
    Lab,
    probe::{Family, Kind, Setting},
    scene::PORT,
    verdicts::{allowed, at, blocked, refused},
};
use serde_json::json;

use crate::{
    Case,
    packets::{Part, SENDER, datagram, ipv4_packet},
    site::Site,
};

pub(crate) const CASES: &[Case] = &[
    ("sources::a_foreign_source_address_opens_nothing", foreign_source),
    ("sources::another_machines_address_opens_nothing", another_machines_address),
    ("sources::nobody_is_another_machine_on_loopback", nobody_is_another_machine),
    ("sources::who_was_asked_on_loopback_answers_nobody_elsewhere", answers_nobody_elsewhere),
    ("sources::who_was_asked_in_a_group_on_this_host_answers_nobody_elsewhere", answers_nobody_of_a_group),
    ("sources::nobody_on_this_host_sends_as_from_a_container", as_from_a_container),
];

/// A workload that sends from somebody else's address is still itself.
fn foreign_source(site: &Site) -> Result<()> {
    let lab = site.lab();
    let (ci, db, far) = (lab.probe("/ci")?, lab.probe("/db")?, lab.stranger(site.stranger())?);
    db.serve(Kind::Udp, at(Ipv4Addr::UNSPECIFIED, PORT))?;
    db.serve(Kind::Tcp, at(Ipv4Addr::UNSPECIFIED, PORT))?;
    for kind in [Kind::Udp, Kind::Tcp] {
        far.serve(kind, at(site.stranger().v4, PORT))?;
        for source in
            [site.partner().v4, Ipv4Addr::new(192, 0, 2, 7).into(), Ipv4Addr::new(127, 3, 2, 1).into()]
        {
            for to in [lab.host().v4, site.stranger().v4, Ipv4Addr::LOCALHOST.into()] {
                let socket = ci.open(kind, Family::V4)?;
                socket.set(Setting::Transparent)?;
                socket.bind(source)?;
                refused(&format!("{kind:?} from {source} to {to}"), socket.connect(at(to, PORT))?)?;
            }
        }
    }
    Ok(())
}

/// A workload pretends to be the machine that another workload lets in.
fn another_machines_address(site: &Site) -> Result<()> {
    let lab = site.lab();
    let (app, ci) = (lab.probe("/app")?, lab.probe("/ci")?);
    for (foreign, own) in [(site.partner().v4, lab.host().v4), (site.partner().v6, lab.host().v6)] {
        for setting in [Setting::ForeignAddress, Setting::Transparent] {
            let family = Family::of(at(own, PORT));
            let server = app.open(Kind::Udp, family)?;
            server.bind(at(own, PORT))?;
            let socket = ci.open(Kind::Udp, family)?;
            socket.set(setting)?;
            socket.bind(foreign)?;
            refused(
                &format!("a datagram as from {foreign} ({setting:?})"),
                socket.send(Some(at(own, PORT)))?,
            )?;
        }
    }
    Ok(())
}

/// A process in no workload pretends to be the machine that a workload lets in.
fn nobody_is_another_machine(site: &Site) -> Result<()> {
    let lab = site.lab();
    let (app, nobody) = (lab.probe("/app")?, lab.probe("/nobody")?);
    let (v4, v6) = ((site.partner().v4, lab.host().v4), (site.partner().v6, lab.host().v6));
    // IPv4 lets nobody send from an address that is foreign only by IP_FREEBIND.
    let ways = [(v4, Setting::Transparent), (v6, Setting::Transparent), (v6, Setting::ForeignAddress)];
    for ((foreign, own), setting) in ways {
        let family = Family::of(at(own, PORT));
        let server = app.open(Kind::Udp, family)?;
        server.bind(at(own, PORT))?;
        let socket = nobody.open(Kind::Udp, family)?;
        socket.set(setting)?;
        socket.bind(foreign)?;
        allowed("the sending itself", socket.send(Some(at(own, PORT)))?)?;
        blocked(&format!("a datagram as from {foreign} ({setting:?})"), server.receive()?)?;
    }
    Ok(())
}

/// ci sends itself a datagram as from a machine that it may not reach, to answer that machine.
fn answers_nobody_elsewhere(site: &Site) -> Result<()> {
    let lab = site.lab();
    let (ci, far) = (lab.probe("/ci")?, lab.stranger(site.stranger())?);
    let (v4, v6) = ((site.stranger().v4, lab.host().v4), (site.stranger().v6, lab.host().v6));
    for ((foreign, own), setting) in [(v4, Setting::Transparent), (v6, Setting::ForeignAddress)] {
        let (target, family) = (at(foreign, PORT), Family::of(at(foreign, PORT)));
        let theirs = far.open(Kind::Udp, family)?;
        theirs.bind(target)?;
        let socket = ci.open(Kind::Udp, family)?;
        let place = socket.bind(at(own, 0))?;
        let answers_nobody = |what: &str| {
            let sent = socket.send(Some(target))?;
            blocked(&format!("{target}: {what}, there"), theirs.receive()?)?;
            refused(&format!("{target}: {what}"), sent)
        };
        answers_nobody("a datagram")?;
        let poser = ci.open(Kind::Udp, family)?;
        poser.set(setting)?;
        poser.bind(target)?;
        allowed("a datagram of ci's to itself", poser.send(Some(place))?)?;
        allowed("the same, as it comes", socket.receive()?)?;
        answers_nobody(&format!("an answer to a socket that poses as it ({setting:?})"))?;
        drop(poser);
        answers_nobody(&format!("an answer to one that has ({setting:?})"))?;
    }
    Ok(())
}

/// herald, which may send to a group and be asked by anybody, asks itself by the group as from a machine that it may not reach.
fn answers_nobody_of_a_group(site: &Site) -> Result<()> {
    /// What herald may send to the group, and hear from anybody.
    const ASKED: u16 = 5353;
    let lab = site.lab();
    let (herald, far) = (lab.probe("/herald")?, lab.stranger(site.stranger())?);
    let (group, target) = ("ff15::78".parse()?, at(site.stranger().v6, PORT));
    let theirs = far.open(Kind::Udp, Family::V6)?;
    theirs.bind(target)?;
    let socket = herald.open(Kind::Udp, Family::V6)?;
    socket.bind(at(Ipv6Addr::UNSPECIFIED, ASKED))?;
    socket.set(Setting::Group(group, Ipv4Addr::UNSPECIFIED))?;
    let poser = herald.open(Kind::Udp, Family::V6)?;
    poser.set(Setting::ForeignAddress)?;
    poser.bind(target)?;
    allowed("a datagram of herald's to a group", poser.send(Some(at(group, ASKED)))?)?;
    allowed("the same, as it comes", socket.receive()?)?;
    let sent = socket.send(Some(target))?;
    blocked(&format!("an answer to what came as from {target}, there"), theirs.receive()?)?;
    refused(&format!("an answer to what came as from {target}"), sent)?;
    let nobody = lab.probe("/other")?;
    let asker = nobody.open(Kind::Udp, Family::V6)?;
    let place = asker.bind(lab.host().v6)?;
    allowed("a question to the group", asker.send(Some(at(group, ASKED)))?)?;
    allowed("the same, at herald", socket.receive()?)?;
    allowed("herald's answer", socket.send(Some(place))?)?;
    allowed("the same, at who asked", asker.receive()?)
}

/// Processes on the host send as from db's container to app's, which lets db in. web may send anything to anybody.
fn as_from_a_container(_: &Site) -> Result<()> {
    let lab = Lab::new()?;
    let (theirs, victims) = (lab.network()?, lab.network()?);
    let (app, db) = (lab.probe_in("/app", &theirs)?, lab.probe_in("/db", &victims)?);
    let (web, nobody) = (lab.probe("/web")?, lab.probe("/nobody")?);
    let policy = r#"
        [workload]
        app.select = { cgroup = "/app" }
        db.select = { cgroup = "/db" }
        web = { select = { cgroup = "/web" }, egress = "allow" }
        [[allow]]
        from = "db"
        to = "app"
    "#;
    let agent = lab.agent(policy)?.start()?;
    for (foreign, there) in [(victims.v4, theirs.v4), (victims.v6, theirs.v6)] {
        let (target, family) = (at(there, PORT), Family::of(at(there, PORT)));
        let server = app.open(Kind::Udp, family)?;
        server.bind(target)?;
        allowed("db's own", db.open(Kind::Udp, family)?.send(Some(target))?)?;
        allowed("the same, as it comes", server.receive()?)?;
        // IPv4 lets nobody send from an address that is foreign only by IP_FREEBIND, and who is in no workload and has the
        // privilege is not kept from anything.
        let mut ways = vec![(&web, Setting::Transparent)];
        if foreign.is_ipv6() {
            ways.extend([(&web, Setting::ForeignAddress), (&nobody, Setting::ForeignAddress)]);
        }
        for (sender, setting) in ways {
            let socket = sender.open(Kind::Udp, family)?;
            socket.set(setting)?;
            socket.bind(foreign)?;
            let what = format!("as from {foreign} ({setting:?})");
            refused(&what, socket.send(Some(target))?)?;
            blocked(&what, server.receive()?)?;
        }
    }
    if let (IpAddr::V4(foreign), IpAddr::V4(there)) = (victims.v4, theirs.v4) {
        let server = app.open(Kind::Udp, Family::V4)?;
        server.bind(at(there, PORT))?;
        let packet = ipv4_packet((foreign, there), Part::Whole, &[], &datagram(SENDER));
        let raw = web.open(Kind::RawIp, Family::V4)?;
        refused("a raw packet as from db", raw.send_bytes(at(there, 0), packet)?)?;
        blocked("the same, as it comes", server.receive()?)?;
    }
    // A socket of which it is kept that all it sends passes.
    let (target, source) = (at(theirs.v6, PORT), victims.v6);
    let server = app.open(Kind::Udp, Family::V6)?;
    server.bind(target)?;
    let socket = nobody.open(Kind::Udp, Family::V6)?;
    for _ in 0..3 {
        allowed("nobody's own", socket.send(Some(at(theirs.v6, PORT + 1)))?)?;
    }
    socket.set(Setting::ForeignAddress)?;
    refused("nobody's, as from db", socket.send_as(source, target)?)?;
    blocked("the same, as it comes", server.receive()?)?;
    agent.denials().expect(&json!({
        "verdict": "denied", "reason": "forged-source", "direction": "egress", "protocol": "udp",
        "workload": {"name": "web"}, "peer": {"port": PORT},
    }))?;
    agent.stop()?;
    Ok(())
}

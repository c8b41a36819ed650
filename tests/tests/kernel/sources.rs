//! Source addresses that are not the sender's own.

use std::net::Ipv4Addr;

use anyhow::Result;
use bulkhead_tests::{
    probe::{Family, Kind, Setting},
    scene::PORT,
    verdicts::{allowed, at, blocked, refused},
};

use crate::{Case, site::Site};

pub(crate) const CASES: &[Case] = &[
    ("sources::a_foreign_source_address_opens_nothing", foreign_source),
    ("sources::another_machines_address_opens_nothing", another_machines_address),
    ("sources::nobody_is_another_machine_on_loopback", nobody_is_another_machine),
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

//! An address and port that another takes over while its peer still holds that packets to it pass, and from it.

use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    sync::mpsc,
    thread,
};

use anyhow::{Context as _, Result, ensure};
use bulkhead_tests::{
    Outcome, Probe, Socket,
    pace::fewer,
    probe::{Family, Kind},
    scene::PORT,
    verdicts::{allowed, at, blocked, refused},
};
use serde_json::json;

use crate::{
    Case,
    packets::{Part, datagram, ipv4_packet, opening_segment},
    site::Site,
};

pub(crate) const CASES: &[Case] = &[
    ("heirs::whoever_takes_a_closed_sockets_port_inherits_nothing", after_a_close),
    ("heirs::whoever_takes_a_port_that_was_given_up_inherits_nothing", after_a_disconnect),
    ("heirs::a_listener_asks_anew_who_calls_from_a_port_that_it_let_in", after_a_connection),
    ("heirs::an_heir_hears_nothing_of_a_peer_that_never_stops_sending", while_the_peer_sends),
];

const LOCALHOST: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// How often a port changes hands.
const ROUNDS: u32 = 150;
/// Datagrams each way, so that the last of them pass as the ones before.
const BEFORE: u32 = 3;
/// Where web asks from, if it says so. Another one than other tests': what they sent may still be on its way.
const ASKS_FROM: u16 = 40_007;

/// Where its connection comes from.
const CALLS_FROM: u16 = 40_011;

/// How a socket loses its port.
#[derive(Clone, Copy, Debug)]
enum End {
    /// close(2).
    Close,
    /// connect(2) to `AF_UNSPEC`, of a socket whose port the kernel has chosen. No program is asked about that.
    Disconnect,
}

impl End {
    /// web's socket, connected to db.
    fn asker(self, web: &Probe, db: SocketAddr) -> Result<Socket<'_>> {
        let asker = web.open(Kind::Udp, Family::V4)?;
        if let Self::Close = self {
            asker.bind(at(LOCALHOST, ASKS_FROM))?;
        }
        allowed("web's connect", asker.connect(db)?)?;
        Ok(asker)
    }
}

fn after_a_close(site: &Site) -> Result<()> {
    inherits_nothing(site, End::Close)
}

fn after_a_disconnect(site: &Site) -> Result<()> {
    inherits_nothing(site, End::Disconnect)
}

/// web talks with db and gives up its port, which another takes: ci, or nobody, whose packets only db's ingress can refuse.
fn inherits_nothing(site: &Site, end: End) -> Result<()> {
    let lab = site.lab();
    let (web, db) = (lab.probe("/web")?, lab.probe("/db")?);
    let server = db.open(Kind::Udp, Family::V4)?;
    let address = server.bind(at(LOCALHOST, PORT))?;
    for (name, heir) in [("ci", lab.probe("/ci")?), ("nobody", lab.probe("/other")?)] {
        let raw = (name == "nobody").then(|| heir.open(Kind::RawIp, Family::V4)).transpose()?;
        for round in 0..fewer(ROUNDS) {
            let attempt = |what: &str| format!("round {round}, {end:?}: {what}");
            let asker = end.asker(&web, address)?;
            passes(&attempt("web's question"), &asker, &server)?;
            let place = asker.address()?;
            allowed(&attempt("db's connect to web"), server.connect(place)?)?;
            for _ in 0..BEFORE {
                passes(&attempt("db's answer"), &server, &asker)?;
                passes(&attempt("web's next question"), &asker, &server)?;
            }
            match end {
                End::Close => drop(asker),
                End::Disconnect => asker.disconnect()?,
            }
            let taker = heir.open(Kind::Udp, Family::V4)?;
            taker.bind(place)?;
            refused(&attempt(&format!("db's next answer, to {name}")), server.send(None)?)?;
            let what = attempt(&format!("a datagram of {name}'s from web's port"));
            refused(&what, taker.send(Some(address))?)?;
            // A raw socket asks no hook as it sends, and nobody may have one.
            if let Some(raw) = &raw {
                let packet = ipv4_packet((LOCALHOST, LOCALHOST), Part::Whole, &[], &datagram(place.port()));
                allowed(&what, raw.send_bytes(at(LOCALHOST, 0), packet)?)?;
            }
            server.disconnect()?;
        }
        // What came of the rounds' last datagrams: db has taken all that web has sent.
        blocked(&format!("a datagram of {name} at db"), server.receive()?)?;
    }
    Ok(())
}

/// db sends on and on while web's port becomes ci's, and ci sends as soon as it has it.
fn while_the_peer_sends(site: &Site) -> Result<()> {
    /// Datagrams of a round: they take a little longer than the port takes to change hands.
    const STREAM: u32 = 500;
    let lab = site.lab();
    let (web, ci, db) = (lab.probe("/web")?, lab.probe("/ci")?, lab.probe("/db")?);
    let address = at(LOCALHOST, PORT);
    // A probe does one thing at a time, and belongs to one thread.
    let (to_db, places) = mpsc::sync_channel(0);
    let (to_us, replies) = mpsc::channel();
    let stream = move || -> Result<()> {
        let server = db.open(Kind::Udp, Family::V4)?;
        server.bind(address)?;
        to_us.send(0)?;
        for place in places {
            allowed("web's question at db", server.receive()?)?;
            allowed("db's connect to web", server.connect(place)?)?;
            to_us.send(0)?;
            let passed = server.repeat(&[], vec![0; 16], STREAM)?;
            server.disconnect()?;
            // What ci sends is from the port that db was connected to, so it would be here. The kernel tells first if
            // nobody had the port for a moment.
            for _ in 0..2 {
                let heard = server.receive_now()?;
                ensure!(heard != Outcome::Answered, "a datagram of ci's at db");
            }
            to_us.send(passed)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let stream = scope.spawn(stream);
        let rounds = || -> Result<u32> {
            replies.recv()?;
            let mut passed = 0;
            for round in 0..fewer(ROUNDS) {
                let end = if round % 2 == 0 { End::Disconnect } else { End::Close };
                let asker = end.asker(&web, address)?;
                allowed("web's question", asker.send(None)?)?;
                let place = asker.address()?;
                to_db.send(place)?;
                replies.recv()?;
                match end {
                    End::Close => drop(asker),
                    End::Disconnect => asker.disconnect()?,
                }
                let heir = ci.open(Kind::Udp, Family::V4)?;
                heir.bind(place)?;
                let sent = heir.repeat(&[address], vec![1; 16], BEFORE)?;
                ensure!(sent == 0, "round {round}, {end:?}: {sent} datagrams of ci's were taken");
                passed += replies.recv()?;
                let heard = heir.receive_now()?;
                blocked(&format!("round {round}, {end:?}: a datagram of db's at ci"), heard)?;
            }
            Ok(passed)
        };
        let passed = rounds();
        drop(to_db);
        stream.join().ok().context("db's thread panicked")??;
        let (passed, all) = (passed?, fewer(ROUNDS) * STREAM);
        println!("{passed} of {all} datagrams passed, before the port changed hands");
        ensure!(0 < passed && passed < all, "the port never changed hands while db sent: {passed} of {all}");
        Ok(())
    })
}

/// A listener lets in what belongs to a connection that it let in, without asking anew, for a moment. Who opens another from
/// the same address and port is asked. By hand, since connect() would be refused before there is a packet.
fn after_a_connection(site: &Site) -> Result<()> {
    let lab = site.lab();
    let (web, db, nobody) = (lab.probe("/web")?, lab.probe("/db")?, lab.probe("/nobody")?);
    let (caller, server) = (SocketAddrV4::new(LOCALHOST, CALLS_FROM), SocketAddrV4::new(LOCALHOST, PORT));
    db.serve(Kind::Tcp, SocketAddr::from(server))?;
    let raw = nobody.open(Kind::RawIp, Family::V4)?;
    let connection = web.open(Kind::Tcp, Family::V4)?;
    connection.bind(SocketAddr::from(caller))?;
    allowed("web's connection", connection.connect_and_exchange(server.into())?)?;
    connection.disconnect()?;
    drop(connection);
    allowed("nobody's segment", raw.send_bytes(server.into(), opening_segment((caller, server)))?)?;
    site.agent().denials().expect(&json!({
        "workload": {"name": "db"}, "direction": "ingress", "protocol": "tcp", "peer": {"port": CALLS_FROM},
        "reason": "no-rule",
    }))?;
    Ok(())
}

/// A datagram from one to whom it is connected.
fn passes(attempt: &str, from: &Socket<'_>, to: &Socket<'_>) -> Result<()> {
    allowed(attempt, from.send(None)?)?;
    allowed(&format!("{attempt}, at the other end"), to.receive()?)
}

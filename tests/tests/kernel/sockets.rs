//! Sockets with a past: older than a move, in other hands.

use std::net::Ipv4Addr;

use anyhow::Result;
use bulkhead_tests::{
    Outcome,
    probe::{Family, Kind, Setting},
    scene::PORT,
    verdicts::{allowed, at, refused},
};
use serde_json::json;

use crate::{Case, site::Site};

pub(crate) const CASES: &[Case] = &[
    ("sockets::answers_to_what_was_allowed_come_through", answers_to_what_was_allowed_come_through),
    ("sockets::a_process_that_moves_needs_both_workloads_allowed", a_process_that_moves),
    ("sockets::a_socket_in_other_hands_needs_both_workloads_allowed", a_socket_in_other_hands),
    ("sockets::an_inherited_listener_is_whose_made_it", an_inherited_listener),
    ("sockets::options_are_set_as_ever", options),
];

const DB: Ipv4Addr = Ipv4Addr::LOCALHOST;

fn answers_to_what_was_allowed_come_through(site: &Site) -> Result<()> {
    let lab = site.lab();
    let (web, db) = (lab.probe("/web")?, lab.probe("/db")?);
    db.serve(Kind::Tcp, at(DB, PORT))?;
    db.serve(Kind::Udp, at(DB, PORT))?;
    let (tcp, udp) = (web.open(Kind::Tcp, Family::V4)?, web.open(Kind::Udp, Family::V4)?);
    allowed("a connection", tcp.connect(at(DB, PORT))?)?;
    for round in 0..50 {
        allowed(&format!("exchange {round} on an open connection"), tcp.exchange(None)?)?;
        allowed(&format!("datagram {round} and its answer"), udp.exchange(Some(at(DB, PORT)))?)?;
    }
    site.agent().denials().expect_none(&json!({"process": {"pid": web.pid()}}))?;
    site.agent().denials().expect_none(&json!({"process": {"pid": db.pid()}}))
}

/// A program that sees options gets a page of their value at most, and the kernel takes the whole of it all the same.
fn options(site: &Site) -> Result<()> {
    for cgroup in ["/web", "/other"] {
        site.lab().probe(cgroup)?.open(Kind::Tcp, Family::V4)?.set(Setting::LongValue)?;
    }
    Ok(())
}

fn a_process_that_moves(site: &Site) -> Result<()> {
    let lab = site.lab();
    let db = lab.probe("/db")?;
    db.serve(Kind::Tcp, at(DB, PORT))?;
    db.serve(Kind::Udp, at(DB, PORT))?;

    let from_ci = lab.probe("/ci")?;
    let (tcp, udp) = (from_ci.open(Kind::Tcp, Family::V4)?, from_ci.open(Kind::Udp, Family::V4)?);
    from_ci.move_to(&lab.cgroup("/web")?)?;
    refused("ci's TCP socket after the move to web", tcp.connect(at(DB, PORT))?)?;
    refused("ci's UDP socket after the move to web", udp.send(Some(at(DB, PORT)))?)?;
    allowed("a new TCP socket of web", from_ci.tcp(at(DB, PORT))?)?;
    allowed("a new UDP socket of web", from_ci.udp_unconnected(at(DB, PORT))?)?;

    let from_web = lab.probe("/web")?;
    let (tcp, udp) = (from_web.open(Kind::Tcp, Family::V4)?, from_web.open(Kind::Udp, Family::V4)?);
    from_web.move_to(&lab.cgroup("/ci")?)?;
    refused("web's TCP socket after the move to ci", tcp.connect(at(DB, PORT))?)?;
    refused("web's UDP socket after the move to ci", udp.send(Some(at(DB, PORT)))?)?;
    refused("a new TCP socket of ci", from_web.tcp(at(DB, PORT))?)?;
    Ok(())
}

fn a_socket_in_other_hands(site: &Site) -> Result<()> {
    let lab = site.lab();
    let (web, ci, db) = (lab.probe("/web")?, lab.probe("/ci")?, lab.probe("/db")?);
    let second_web = lab.probe("/web")?;
    db.serve(Kind::Tcp, at(DB, PORT))?;
    db.serve(Kind::Udp, at(DB, PORT))?;

    let passed = web.open(Kind::Tcp, Family::V4)?.pass_to(&ci)?;
    refused("web's TCP socket in ci's hands", passed.connect(at(DB, PORT))?)?;
    let passed = web.open(Kind::Udp, Family::V4)?.pass_to(&ci)?;
    refused("web's UDP socket in ci's hands", passed.send(Some(at(DB, PORT)))?)?;
    let passed = ci.open(Kind::Tcp, Family::V4)?.pass_to(&web)?;
    refused("ci's TCP socket in web's hands", passed.connect(at(DB, PORT))?)?;
    let passed = ci.open(Kind::Udp, Family::V4)?.pass_to(&web)?;
    refused("ci's UDP socket in web's hands", passed.send(Some(at(DB, PORT)))?)?;
    let passed = web.open(Kind::Tcp, Family::V4)?.pass_to(&second_web)?;
    allowed("web's TCP socket in web's hands", passed.connect_and_exchange(at(DB, PORT))?)?;
    Ok(())
}

/// As by socket activation: one makes the listener, another serves.
fn an_inherited_listener(site: &Site) -> Result<()> {
    let lab = site.lab();
    for (maker, server, check) in
        [("/db", "/ci", allowed as fn(&str, Outcome) -> Result<()>), ("/ci", "/db", refused)]
    {
        let (web, maker_probe, server_probe) = (lab.probe("/web")?, lab.probe(maker)?, lab.probe(server)?);
        let listener = maker_probe.open(Kind::Tcp, Family::V4)?;
        listener.bind(at(DB, PORT))?;
        listener.listen()?;
        listener.pass_to(&server_probe)?.answer()?;
        check(&format!("web to {maker}'s listener, which {server} serves"), web.tcp(at(DB, PORT))?)?;
    }
    Ok(())
}

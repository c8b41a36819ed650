//! Sockets with a past: older than the agent, older than a move, in other hands.

use std::net::Ipv4Addr;

use anyhow::Result;
use bulkhead_tests::{
    Lab,
    probe::{Family, Kind},
};

use crate::{
    loopback::{POLICY, PORT},
    verdicts::{allowed, at, blocked, refused},
};

const DB: Ipv4Addr = Ipv4Addr::LOCALHOST;

#[test]
fn a_socket_made_before_the_agent_is_held_to_the_policy() -> Result<()> {
    let lab = Lab::new()?;
    let (web, ci, db) = (lab.probe("/web")?, lab.probe("/ci")?, lab.probe("/db")?);
    db.serve(Kind::Tcp, at(DB, PORT))?;
    db.serve(Kind::Udp, at(DB, PORT))?;
    let sockets = |probe| -> Result<_> {
        let probe: &bulkhead_tests::Probe = probe;
        Ok((
            probe.open(Kind::Tcp, Family::V4)?,
            probe.open(Kind::Udp, Family::V4)?,
            probe.open(Kind::Udp, Family::V4)?,
            probe.open(Kind::Tcp, Family::V4)?,
        ))
    };
    let (web_tcp, web_udp, web_connected, web_flow) = sockets(&web)?;
    let (ci_tcp, ci_udp, ci_connected, ci_flow) = sockets(&ci)?;
    for connected in [&web_connected, &web_flow, &ci_connected, &ci_flow] {
        allowed("before the agent", connected.connect_and_exchange(at(DB, PORT))?)?;
    }
    let agent = lab.agent(POLICY)?.start()?;

    allowed("web's old TCP socket", web_tcp.connect_and_exchange(at(DB, PORT))?)?;
    allowed("web's old UDP socket", web_udp.exchange(Some(at(DB, PORT)))?)?;
    allowed("web's connected UDP socket", web_connected.exchange(None)?)?;
    allowed("web's established connection", web_flow.exchange(None)?)?;
    refused("ci's old TCP socket", ci_tcp.connect(at(DB, PORT))?)?;
    refused("ci's old UDP socket", ci_udp.send(Some(at(DB, PORT)))?)?;
    refused("ci's connected UDP socket", ci_connected.send(None)?)?;
    blocked("ci's established connection", ci_flow.exchange(None)?)?;
    agent.stop()?;
    Ok(())
}

#[test]
fn answers_to_what_was_allowed_come_through() -> Result<()> {
    let lab = Lab::new()?;
    let (web, db) = (lab.probe("/web")?, lab.probe("/db")?);
    db.serve(Kind::Tcp, at(DB, PORT))?;
    db.serve(Kind::Udp, at(DB, PORT))?;
    let agent = lab.agent(POLICY)?.start()?;
    let (tcp, udp) = (web.open(Kind::Tcp, Family::V4)?, web.open(Kind::Udp, Family::V4)?);
    allowed("a connection", tcp.connect(at(DB, PORT))?)?;
    for round in 0..50 {
        allowed(&format!("exchange {round} on an open connection"), tcp.exchange(None)?)?;
        allowed(&format!("datagram {round} and its answer"), udp.exchange(Some(at(DB, PORT)))?)?;
    }
    assert!(agent.denials().all()?.is_empty(), "{:?}", agent.denials().all()?);
    agent.stop()?;
    Ok(())
}

#[test]
fn a_process_that_moves_needs_both_workloads_allowed() -> Result<()> {
    let lab = Lab::new()?;
    let db = lab.probe("/db")?;
    db.serve(Kind::Tcp, at(DB, PORT))?;
    db.serve(Kind::Udp, at(DB, PORT))?;
    let agent = lab.agent(POLICY)?.start()?;

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
    agent.stop()?;
    Ok(())
}

#[test]
fn a_socket_in_other_hands_needs_both_workloads_allowed() -> Result<()> {
    let lab = Lab::new()?;
    let (web, ci, db) = (lab.probe("/web")?, lab.probe("/ci")?, lab.probe("/db")?);
    let second_web = lab.probe("/web")?;
    db.serve(Kind::Tcp, at(DB, PORT))?;
    db.serve(Kind::Udp, at(DB, PORT))?;
    let agent = lab.agent(POLICY)?.start()?;

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
    agent.stop()?;
    Ok(())
}

//! Sockets that are older than the agent.

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
fn a_ping_socket_made_before_the_agent_is_held_to_the_policy() -> Result<()> {
    let lab = Lab::new()?;
    let elsewhere = lab.network()?;
    let ci = lab.probe("/ci")?;
    lab.host().allow_ping_sockets()?;
    let before = ci.open(Kind::PingSocket, Family::V4)?;
    allowed("without an agent", before.exchange(Some(at(elsewhere.v4, 0)))?)?;
    let agent = lab.agent(POLICY)?.start()?;
    refused("a ping socket older than the agent", before.send(Some(at(elsewhere.v4, 0)))?)?;
    agent.stop()?;
    Ok(())
}

#[test]
fn a_raw_socket_made_before_the_agent_is_not_taken_for_the_kernels_own() -> Result<()> {
    /// A redirect without options, to ::1 (RFC 4861 section 4.5): what the kernel itself may always send.
    const REDIRECT: [u8; 40] = {
        let mut message = [0; 40];
        (message[0], message[23]) = (137, 1);
        message
    };
    // All nodes of a link (RFC 4291 section 2.7.1).
    let everybody = at("ff02::1".parse::<std::net::IpAddr>()?, 0);
    let lab = Lab::new()?;
    let _elsewhere = lab.network()?;
    let ci = lab.probe("/ci")?;
    let raw = ci.open(Kind::RawIcmp, Family::V6)?;
    raw.limit_hops(255)?;
    allowed("without an agent", raw.send_bytes(everybody, REDIRECT.to_vec())?)?;
    let agent = lab.agent(POLICY)?.start()?;
    refused("a raw socket older than the agent", raw.send_bytes(everybody, REDIRECT.to_vec())?)?;
    agent.stop()?;
    Ok(())
}

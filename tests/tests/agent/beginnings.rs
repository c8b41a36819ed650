//! What the programs could not note of a socket counts against it.

use std::net::Ipv4Addr;

use anyhow::Result;
use bulkhead_tests::{
    Lab,
    probe::{Family, Kind},
};
use serde_json::json;

use crate::{
    loopback::{POLICY, PORT},
    verdicts::{allowed, at, blocked, refused},
};

const DB: Ipv4Addr = Ipv4Addr::LOCALHOST;

#[test]
fn no_memory_to_note_who_opens_a_connection_refuses_it() -> Result<()> {
    let lab = Lab::new()?;
    let (web, db) = (lab.probe("/web")?, lab.probe("/db")?);
    for kind in [Kind::Tcp, Kind::Udp] {
        db.serve(kind, at(DB, PORT))?;
    }
    for kind in [Kind::Tcp, Kind::Udp] {
        let (full, room) = (web.open(kind, Family::V4)?, web.open(kind, Family::V4)?);
        full.fill_memory()?;
        let agent = lab.agent(POLICY)?.start()?;
        refused(&format!("{kind:?} that nothing can be noted on"), full.connect(at(DB, PORT))?)?;
        agent.denials().expect(&json!({
            "verdict": "denied", "reason": "socket-memory", "direction": "egress",
            "workload": {"name": "web"}, "peer": {"name": "db", "port": PORT}, "process": {"pid": web.pid()},
        }))?;
        allowed(&format!("another {kind:?}"), room.connect_and_exchange(at(DB, PORT))?)?;
        let late = web.open(kind, Family::V4)?;
        late.fill_memory()?;
        allowed(&format!("{kind:?} that is noted already"), late.connect_and_exchange(at(DB, PORT))?)?;
        agent.stop()?;
    }
    Ok(())
}

/// What a partner gets from app, whose listener is older than the agent.
fn ask_an_old_listener(noted: bool, both_ways: bool) -> Result<bulkhead_tests::Outcome> {
    let lab = Lab::new()?;
    let there = lab.network()?;
    let (app, partner) = (lab.probe("/app")?, lab.stranger(&there)?);
    let address = at(lab.host().v4, PORT);
    let listener = app.open(Kind::Tcp, Family::V4)?;
    if !noted {
        listener.fill_memory()?;
    }
    listener.serve(address)?;
    let rule = |from: &str, to: &str| format!("[[allow]]\nfrom = \"{from}\"\nto = \"{to}\"\n");
    let there = there.v4.to_string();
    let mut policy = "[workload.app]\nselect = { cgroup = \"/app\" }\n".to_owned() + &rule(&there, "app");
    if both_ways {
        policy += &rule("app", &there);
    }
    let agent = lab.agent(&policy)?.start()?;
    let outcome = partner.tcp(address)?;
    agent.stop()?;
    Ok(outcome)
}

#[test]
fn a_connection_whose_beginning_nobody_saw_needs_a_rule_both_ways() -> Result<()> {
    allowed("a connection to a listener that is noted", ask_an_old_listener(true, false)?)?;
    blocked("one to a listener that is not", ask_an_old_listener(false, false)?)?;
    allowed("the same with a rule both ways", ask_an_old_listener(false, true)?)
}

//! Workloads that appear, nest, restart and have a network of their own.

use std::{
    net::Ipv4Addr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use bulkhead_tests::{Lab, Outcome, Probe, probe::Kind};
use serde_json::json;

use crate::{
    loopback::{POLICY, PORT},
    verdicts::{allowed, at, blocked, refused},
};

/// A workload that appears is held to the policy within this time.
const SOON: Duration = Duration::from_secs(1);

/// An address is looked for so seldom while no cgroup changes, and then some.
const ADDRESSES: Duration = Duration::from_secs(15);

/// Tries until the attempt comes out as it should for good.
fn soon(what: &str, fits: impl Fn(Outcome) -> bool, attempt: impl Fn() -> Result<Outcome>) -> Result<()> {
    let start = Instant::now();
    loop {
        let outcome = attempt()?;
        if fits(outcome) {
            return Ok(());
        }
        ensure!(start.elapsed() < SOON, "{what} is {outcome:?} {SOON:?} after it appeared");
        thread::sleep(Duration::from_millis(2));
    }
}

fn is_refused(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Refused(_))
}

fn is_answered(outcome: Outcome) -> bool {
    outcome == Outcome::Answered
}

/// db at loopback, served by a probe in its cgroup.
fn db(lab: &Lab) -> Result<Probe> {
    let db = lab.probe("/db")?;
    db.serve(Kind::Tcp, at(Ipv4Addr::LOCALHOST, PORT))?;
    Ok(db)
}

#[test]
fn a_nested_cgroup_belongs_to_its_workload_from_its_first_packet() -> Result<()> {
    let lab = Lab::new()?;
    let _db = db(&lab)?;
    lab.cgroup("/web")?;
    lab.cgroup("/ci")?;
    let agent = lab.agent(POLICY)?.start()?;
    let to = at(Ipv4Addr::LOCALHOST, PORT);
    refused("a child of ci", lab.probe("/ci/job-1")?.tcp(to)?)?;
    refused("a grandchild of ci", lab.probe("/ci/job-2/step/deep")?.tcp(to)?)?;
    allowed("a child of web", lab.probe("/web/worker-1")?.tcp(to)?)?;
    // Its name says web, its place says ci.
    refused("a child of ci named web", lab.probe("/ci/web")?.tcp(to)?)?;
    agent.stop()?;
    Ok(())
}

#[test]
fn a_workload_that_appears_is_enforced_soon() -> Result<()> {
    let lab = Lab::new()?;
    let _db = db(&lab)?;
    let agent = lab.agent(POLICY)?.start()?;
    let to = at(Ipv4Addr::LOCALHOST, PORT);
    let ci = lab.probe("/ci")?;
    soon("ci to db", is_refused, || ci.tcp(to))?;
    let web = lab.probe("/web")?;
    soon("web to db", is_answered, || web.tcp(to))?;
    agent.stop()?;
    Ok(())
}

#[test]
fn a_workload_that_restarts_is_enforced_soon() -> Result<()> {
    let lab = Lab::new()?;
    let _db = db(&lab)?;
    let to = at(Ipv4Addr::LOCALHOST, PORT);
    let ci = lab.probe("/ci")?;
    let agent = lab.agent(POLICY)?.start()?;
    refused("ci", ci.tcp(to)?)?;
    drop(ci);
    for round in 1..=5 {
        let before = lab.cgroup("/ci")?;
        let id = before.id()?;
        before.remove()?;
        let ci = lab.probe("/ci")?;
        ensure!(lab.cgroup("/ci")?.id()? != id, "a cgroup made anew has a new number");
        soon(&format!("ci after restart {round}"), is_refused, || ci.tcp(to))?;
        refused("ci from then on", ci.tcp(to)?)?;
    }
    agent.stop()?;
    Ok(())
}

#[test]
fn a_container_is_known_by_its_address_from_inside_and_outside() -> Result<()> {
    let lab = Lab::new()?;
    let (db_net, ci_net, web_net, elsewhere) =
        (lab.network()?, lab.network()?, lab.network()?, lab.network()?);
    let db = lab.probe_in("/db", &db_net)?;
    let (web, ci) = (lab.probe_in("/web", &web_net)?, lab.probe_in("/ci", &ci_net)?);
    let host_ci = lab.probe("/ci")?;
    let remote = lab.stranger(&elsewhere)?;
    let agent = lab.agent(POLICY)?.start()?;
    for address in [db_net.v4, db_net.v6] {
        let to = at(address, PORT);
        db.serve(Kind::Tcp, to)?;
        db.serve(Kind::Udp, to)?;
        allowed(&format!("web's container to db at {to}"), web.tcp(to)?)?;
        allowed(&format!("web's container to db at {to}, udp"), web.udp(to)?)?;
        refused(&format!("ci's container to db at {to}"), ci.tcp(to)?)?;
        refused(&format!("ci's container to db at {to}, udp"), ci.udp_unconnected(to)?)?;
        refused(&format!("ci on the host's network to db at {to}"), host_ci.tcp(to)?)?;
        blocked(&format!("another machine to db at {to}"), remote.tcp(to)?)?;
    }
    let named = json!({"workload": {"name": "ci"}, "peer": {"name": "db", "environment": "prod"}});
    agent.denials().expect(&named)?;
    agent.stop()?;
    Ok(())
}

/// Addresses come and go by edits of the tables in force: no generation is built, and what was allowed stays so.
#[test]
fn an_address_that_appears_opens_what_its_workload_may_reach_and_nothing_else() -> Result<()> {
    let lab = Lab::new()?;
    let (db_net, web_net, ci_net) = (lab.network()?, lab.network()?, lab.network()?);
    let db = lab.probe_in("/db", &db_net)?;
    let (web, ci) = (lab.probe_in("/web", &web_net)?, lab.probe_in("/ci", &ci_net)?);
    db.serve(Kind::Tcp, at(db_net.v4, PORT))?;
    let agent = lab.agent(POLICY)?.start()?;
    allowed("web to db at its first address", web.tcp(at(db_net.v4, PORT))?)?;
    let before = agent.status()?;

    let second = Ipv4Addr::new(10, 77, 0, 200);
    db_net.ip(&format!("addr add {second}/24 dev eth0\n"))?;
    db.serve(Kind::Tcp, at(second, PORT))?;
    let start = Instant::now();
    while !is_answered(web.tcp(at(second, PORT))?) {
        ensure!(
            start.elapsed() < ADDRESSES,
            "db's second address is not known {ADDRESSES:?} after it appeared"
        );
        allowed("web to db at its first address meanwhile", web.tcp(at(db_net.v4, PORT))?)?;
        thread::sleep(Duration::from_millis(50));
    }
    refused("ci to db at its second address", ci.tcp(at(second, PORT))?)?;
    let after = agent.status()?;
    ensure!(after["generation"] == before["generation"], "a generation was built: {after}");
    ensure!(after["policy_hash"] == before["policy_hash"], "the policy is the same: {after}");
    ensure!(after["tables_hash"] != before["tables_hash"], "the tables are others: {after}");

    db_net.ip(&format!("addr del {second}/24 dev eth0\n"))?;
    let start = Instant::now();
    while agent.status()?["tables_hash"] != before["tables_hash"] {
        ensure!(
            start.elapsed() < ADDRESSES,
            "db's second address is still known {ADDRESSES:?} after it went"
        );
        thread::sleep(Duration::from_millis(50));
    }
    allowed("web to db at its first address in the end", web.tcp(at(db_net.v4, PORT))?)?;
    agent.stop()?;
    Ok(())
}

/// Between two network namespaces a socket cannot be looked up: a workload of the host is only its address to a
/// container. The rule that names it does not open the container, one that names the address does.
#[test]
fn a_workload_on_the_host_is_its_address_to_a_container() -> Result<()> {
    let lab = Lab::new()?;
    let db_net = lab.network()?;
    let (web, db) = (lab.probe("/web")?, lab.probe_in("/db", &db_net)?);
    let host = [lab.host().v4, lab.host().v6];
    for address in [db_net.v4, db_net.v6] {
        db.serve(Kind::Tcp, at(address, PORT))?;
    }

    let agent = lab.agent(POLICY)?.start()?;
    for (own, address) in host.into_iter().zip([db_net.v4, db_net.v6]) {
        blocked(&format!("web to db at {address} by name"), web.tcp(at(address, PORT))?)?;
        agent.denials().expect(&json!({
            "direction": "ingress", "verdict": "denied",
            "workload": {"name": "db"}, "peer": {"address": own, "name": null},
        }))?;
    }
    agent.stop()?;

    let by_address = format!("{POLICY}\n[[allow]]\nfrom = [\"{}\", \"{}\"]\nto = \"db\"\n", host[0], host[1]);
    let agent = lab.agent(&by_address)?.start()?;
    for address in [db_net.v4, db_net.v6] {
        allowed(&format!("web to db at {address} by address"), web.tcp(at(address, PORT))?)?;
    }
    agent.stop()?;
    Ok(())
}

#[test]
fn a_selector_that_matches_nothing_is_a_warning_in_status() -> Result<()> {
    let lab = Lab::new()?;
    let _db = db(&lab)?;
    let agent = lab.agent(POLICY)?.start()?;
    let status = agent.status()?;
    let text = status.to_string();
    ensure!(text.contains("web") && text.contains("ci"), "status names what matches nothing: {text}");
    agent.stop()?;
    Ok(())
}

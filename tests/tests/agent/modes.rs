//! Audit and dry run: nothing is refused, everything that would be is reported.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
    process::Command,
};

use anyhow::{Result, bail, ensure};
use bulkhead_tests::{
    Lab, Probe, artifact,
    probe::{Family, Kind, Setting},
};
use serde_json::{Value, json};

use crate::{
    loopback::{POLICY, PORT},
    verdicts::{allowed, at, refused},
};

/// What ci may: an echo request to nobody, so that it gets a raw socket and its packets are refused.
const PING_NOBODY: &str =
    "[[allow]]\nfrom = \"ci\"\nto = [\"192.0.2.1\", \"2001:db8::1\"]\nports = [\"icmp\"]\n";

/// One attempt of every kind from ci, to db on this host and to another machine.
fn attempts(
    lab: &Lab,
    check: fn(&str, bulkhead_tests::Outcome) -> Result<()>,
    to: &[SocketAddr],
) -> Result<Probe> {
    let ci = lab.probe("/ci")?;
    for &to in to {
        check(&format!("tcp from ci to {to}"), ci.tcp(to)?)?;
        check(&format!("udp from ci to {to}"), ci.udp(to)?)?;
        check(&format!("unconnected udp from ci to {to}"), ci.udp_unconnected(to)?)?;
        check(&format!("ping from ci to {to}"), ci.ping(to.ip())?)?;
    }
    Ok(ci)
}

/// A record without what differs from run to run, and without what a dry run is supposed to change.
fn lasting(record: &Value) -> Result<Value> {
    let mut record = record.clone();
    let fields = record.as_object_mut().expect("records are objects");
    for field in ["time", "verdict", "mode", "count", "suppressed", "generation"] {
        ensure!(fields.remove(field).is_some(), "{field} is missing in {fields:?}");
    }
    record["process"]["pid"] = Value::Null;
    if record["nearest_rule"].is_object() {
        record["nearest_rule"]["file"] = Value::Null;
    }
    Ok(record)
}

#[test]
fn a_dry_run_reports_what_enforcing_refuses_and_refuses_nothing() -> Result<()> {
    let mut reports = Vec::new();
    for dry in [false, true] {
        let lab = Lab::new()?;
        let elsewhere = lab.network()?;
        let (db, remote) = (lab.probe("/db")?, lab.stranger(&elsewhere)?);
        let to = [at(lab.host().v4, PORT), at(elsewhere.v4, PORT), at(elsewhere.v6, PORT)];
        for (server, at) in [(&db, to[0]), (&remote, to[1]), (&remote, to[2])] {
            server.serve(Kind::Tcp, at)?;
            server.serve(Kind::Udp, at)?;
        }
        lab.cgroup("/ci")?;
        let launch = lab.agent(&format!("{POLICY}\n{PING_NOBODY}"))?;
        let agent = if dry { launch.dry_run() } else { launch }.start()?;
        let _ci = attempts(&lab, if dry { allowed } else { refused }, &to)?;
        let verdict = if dry { "would-deny" } else { "denied" };
        agent
            .denials()
            .expect(&json!({"verdict": verdict, "protocol": "icmpv6", "service": "icmpv6/128"}))?;
        let denials = agent.stop()?;
        let answers = denials.matching(&json!({"direction": "egress", "workload": {"name": "db"}}))?;
        ensure!(answers.is_empty(), "answers are no connections of their own: {answers:#?}");
        let denials = denials.matching(&json!({"direction": "egress"}))?;
        ensure!(denials.iter().all(|d| d.record["verdict"] == verdict), "{denials:#?}");
        let mut lines =
            denials.iter().map(|d| Ok(lasting(&d.record)?.to_string())).collect::<Result<Vec<_>>>()?;
        lines.sort();
        lines.dedup();
        reports.push(lines);
    }
    assert_eq!(reports[0], reports[1], "enforcing and the dry run report the same");
    Ok(())
}

#[test]
fn an_audited_environment_is_reported_and_the_other_enforced() -> Result<()> {
    let lab = Lab::new()?;
    let elsewhere = lab.network()?;
    let (web, db, remote) = (lab.probe("/web")?, lab.probe("/db")?, lab.stranger(&elsewhere)?);
    let (here, there) = (at(lab.host().v4, PORT), at(elsewhere.v4, PORT));
    for (server, to) in [(&db, here), (&remote, there)] {
        server.serve(Kind::Tcp, to)?;
        server.serve(Kind::Udp, to)?;
    }
    let policy = POLICY.replace("[environment.dev]", "[environment.dev]\nmode = \"audit\"");
    lab.cgroup("/ci")?;
    let agent = lab.agent(&policy)?.start()?;

    attempts(&lab, allowed, &[there])?;
    let marked = json!({"verdict": "would-deny", "mode": "audit", "workload": {"name": "ci"}});
    agent.denials().expect(&marked)?;
    refused("web, whose environment is enforced", web.tcp(there)?)?;
    agent.denials().expect(&json!({"verdict": "denied", "mode": "enforce", "workload": {"name": "web"}}))?;
    // What ci may, db need not stand: its own environment is enforced.
    let ci = lab.probe("/ci")?;
    ensure!(ci.tcp(here)?.is_blocked(), "ci reaches db, whose environment is enforced");
    agent.stop()?;
    Ok(())
}

#[test]
fn an_environment_that_is_off_is_left_alone() -> Result<()> {
    let lab = Lab::new()?;
    let elsewhere = lab.network()?;
    let remote = lab.stranger(&elsewhere)?;
    let there = at(elsewhere.v4, PORT);
    remote.serve(Kind::Tcp, there)?;
    remote.serve(Kind::Udp, there)?;
    let policy = POLICY.replace("[environment.dev]", "[environment.dev]\nmode = \"off\"");
    lab.cgroup("/ci")?;
    let agent = lab.agent(&policy)?.start()?;
    attempts(&lab, allowed, &[there])?;
    agent.denials().expect_none(&json!({}))?;
    agent.stop()?;
    Ok(())
}

#[test]
fn a_dry_run_marks_a_datagram_in_the_name_of_whoever_is_left_alone() -> Result<()> {
    let lab = Lab::new()?;
    let (ci, nobody) = (lab.probe("/ci")?, lab.probe("/other")?);
    let (container, elsewhere) = (lab.network()?, lab.network()?);
    let _within = lab.probe_in("/ci", &container)?;
    let IpAddr::V4(host) = lab.host().v4 else { bail!("the host has no IPv4 address") };
    let policy = POLICY.replace("[environment.dev]", "[environment.dev]\nmode = \"off\"");
    let agent = lab.agent(&policy)?.dry_run().start()?;
    let cis = ci.open(Kind::Udp, Family::V4)?;
    let place = cis.bind(at(host, 0))?;
    let forger = nobody.open(Kind::Udp, Family::V4)?;
    forger.bind(at(Ipv4Addr::new(127, 0, 0, 2), place.port()))?;
    allowed("a datagram as from ci", forger.send_as(host, SocketAddrV4::new(host, PORT))?)?;
    agent.denials().expect(&json!({"verdict": "would-deny", "reason": "forged-source"}))?;
    let forger = nobody.open(Kind::Udp, Family::V6)?;
    forger.set(Setting::ForeignAddress)?;
    let there = at(elsewhere.v6, PORT);
    allowed("a datagram as from ci's container", forger.send_as(container.v6, there)?)?;
    agent.denials().expect(
        &json!({"verdict": "would-deny", "reason": "forged-source", "peer": {"address": elsewhere.v6}}),
    )?;
    agent.stop()?;
    Ok(())
}

#[test]
fn status_tells_the_hash_that_check_does_also_in_a_dry_run() -> Result<()> {
    let lab = Lab::new()?;
    let agent = lab.agent(POLICY)?.dry_run().start()?;
    let check = Command::new(artifact::agent()?)
        .args(["check", "--output", "json"])
        .arg(agent.policy_file())
        .output()?;
    let said = String::from_utf8(check.stdout)?;
    let last: Value = serde_json::from_str(said.lines().last().unwrap_or_default())?;
    let status = agent.status()?;
    ensure!(last["policy_hash"].is_string(), "{said}");
    ensure!(status["policy_hash"] == last["policy_hash"], "{said}\n{status}");
    agent.stop()?;
    Ok(())
}

//! The report of a refusal equals what happened, and comes at once.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use bulkhead_tests::{Lab, Place, artifact, probe::Kind};
use serde_json::json;

use crate::{
    loopback::{POLICY, PORT},
    verdicts::{allowed, at, blocked, refused},
};

/// A report comes within this time of the refusal.
const PROMPT: Duration = Duration::from_millis(100);

/// ci as a unit of systemd's would be.
fn policy() -> String {
    POLICY.replace(r#"{ cgroup = "/ci" }"#, r#"{ cgroup = "/ci.slice/**" }"#)
}

#[test]
fn a_refused_connection_is_reported_as_it_happened() -> Result<()> {
    let lab = Lab::new()?;
    let (ci, db) = (lab.probe("/ci.slice/job-7.scope")?, lab.probe("/db")?);
    let to = at(lab.host().v4, PORT);
    db.serve(Kind::Tcp, to)?;
    let agent = lab.agent(&policy())?.start()?;

    let before = Instant::now();
    refused("ci to db", ci.tcp(to)?)?;
    let denial = agent.denials().expect(&json!({"workload": {"name": "ci"}}))?;
    let took = denial.seen - before;
    ensure!(took < PROMPT, "the report came {took:?} after the attempt began");

    let policy_text = fs::read_to_string(agent.policy_file())?;
    let line =
        policy_text.lines().position(|line| line == "[[allow]]").context("the policy has no rule")? + 1;
    let record = &denial.record;
    let expected = json!({
        "time": record["time"],
        "verdict": "denied",
        "mode": "enforce",
        "direction": "egress",
        "protocol": "tcp",
        "workload": {
            "name": "ci", "environment": "dev", "cgroup": "/ci.slice/job-7.scope", "unit": "job-7.scope",
        },
        "process": {"pid": ci.pid(), "comm": "bulkhead-probe", "exe": artifact::probe()?, "uid": 0},
        "peer": {"address": to.ip(), "port": PORT, "name": "db", "environment": "prod"},
        "rule": null,
        "reason": "no-rule",
        "nearest_rule": {
            "id": "web-db", "file": "policy.toml", "line": line, "differs": ["from"],
        },
        "count": 1,
        "suppressed": 0,
        "generation": record["generation"],
        "service": format!("tcp/{PORT}"),
    });
    assert_eq!(*record, expected);
    ensure!(record["generation"].as_u64().is_some_and(|n| n > 0), "{record}");
    let time = record["time"].as_str().context("time is text")?;
    ensure!(time.len() == "2026-11-21T20:15:03.123456Z".len() && time.ends_with('Z'), "{time}");
    agent.stop()?;
    Ok(())
}

#[test]
fn what_is_not_known_is_null() -> Result<()> {
    let lab = Lab::new()?;
    let ci = lab.probe("/ci.slice/plain")?;
    let agent = lab.agent(&policy())?.start()?;
    refused("ci to another machine", ci.tcp(at([192, 0, 2, 1], 9))?)?;
    agent.denials().expect(&json!({
        "workload": {"name": "ci"},
        "peer": {"address": "192.0.2.1", "port": 9, "name": null, "environment": null},
        "rule": null,
    }))?;
    agent.stop()?;
    Ok(())
}

#[test]
fn what_came_in_is_reported_by_the_end_that_refused_it() -> Result<()> {
    let lab = Lab::new()?;
    let elsewhere = lab.network()?;
    let (db, remote) = (lab.probe("/db")?, lab.stranger(&elsewhere)?);
    let to = at(lab.host().v4, PORT);
    db.serve(Kind::Tcp, to)?;
    db.serve(Kind::Udp, to)?;
    let web = lab.probe("/web")?;
    let agent = lab.agent(&policy())?.start()?;
    // The last process that called db is not who calls now.
    allowed("web to db", web.tcp(to)?)?;
    blocked("another machine to db, tcp", remote.tcp(to)?)?;
    blocked("another machine to db, udp", remote.udp(to)?)?;
    for protocol in ["tcp", "udp"] {
        let wanted = json!({
            "verdict": "denied", "direction": "ingress", "protocol": protocol, "reason": "no-rule",
            "workload": {"name": "db", "environment": "prod", "cgroup": "/db", "unit": null},
            "peer": {"address": elsewhere.v4, "name": null, "environment": null},
            "service": format!("{protocol}/{PORT}"),
        });
        let process = &agent.denials().expect(&wanted)?.record["process"];
        ensure!(process.is_null() || process["pid"] == db.pid(), "{protocol} is not of {process}");
    }
    agent.stop()?;
    Ok(())
}

#[test]
fn a_process_that_ends_at_once_is_named() -> Result<()> {
    let lab = Lab::new()?;
    let agent = lab.agent(&policy())?.start()?;
    let ci = Place::new(lab.cgroup("/ci.slice/job-7.scope")?, lab.host());
    for port in 1..=20 {
        let mut curl = ci.command("curl").args(["--silent", &format!("http://192.0.2.1:{port}/")]).spawn()?;
        ensure!(!curl.wait()?.success(), "curl reaches 192.0.2.1");
        let process = json!({"pid": curl.id(), "comm": "curl", "exe": "/usr/bin/curl", "uid": 0});
        agent.denials().expect(&json!({"process": process, "peer": {"port": port}}))?;
    }
    agent.stop()?;
    Ok(())
}

#[test]
fn a_storm_is_one_line_a_second_and_every_attempt_is_counted() -> Result<()> {
    const ATTEMPTS: u64 = 300;
    let lab = Lab::new()?;
    let (ci, db) = (lab.probe("/ci.slice/job-7.scope")?, lab.probe("/db")?);
    let to = at(lab.host().v4, PORT);
    db.serve(Kind::Tcp, to)?;
    let agent = lab.agent(&policy())?.start()?;
    let start = Instant::now();
    for _ in 0..ATTEMPTS {
        refused("ci to db", ci.tcp(to)?)?;
    }
    let denials = agent.stop()?.matching(&json!({"workload": {"name": "ci"}}))?;
    let counted = denials.iter().filter_map(|d| d.record["count"].as_u64()).sum::<u64>();
    assert_eq!(
        counted, ATTEMPTS,
        "every attempt is in a line's count, the last ones at the latest at the end"
    );
    let most = start.elapsed().as_secs() + 3;
    ensure!(denials.len() as u64 <= most, "{} lines in {:?}", denials.len(), start.elapsed());
    Ok(())
}

#[test]
fn what_is_allowed_is_not_reported() -> Result<()> {
    let lab = Lab::new()?;
    let (web, db) = (lab.probe("/web")?, lab.probe("/db")?);
    let to = at(lab.host().v4, PORT);
    db.serve(Kind::Tcp, to)?;
    db.serve(Kind::Udp, to)?;
    let agent = lab.agent(&policy())?.start()?;
    allowed("web to db", web.tcp(to)?)?;
    allowed("web to db", web.udp_unconnected(to)?)?;
    agent.denials().expect_none(&json!({}))?;
    agent.stop()?;
    Ok(())
}

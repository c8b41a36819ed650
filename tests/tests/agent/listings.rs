//! What is in force, listed: `bulkhead workloads` and `bulkhead rules`.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, ensure};
use bulkhead_tests::{Agent, Lab, probe::Kind};
use serde_json::Value;

use crate::{
    loopback::{POLICY, PORT},
    verdicts::{allowed, at, refused},
};

/// The rows that a command prints as JSON.
fn rows(agent: &Agent, arguments: &[&str]) -> Result<Vec<Value>> {
    let output = agent.tell(&[arguments, &["--output", "json"]].concat())?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

/// The one whose field is this.
fn row<'r>(rows: &'r [Value], field: &str, value: &str) -> Result<&'r Value> {
    rows.iter().find(|row| row[field] == value).with_context(|| format!("no {value} in {rows:#?}"))
}

#[test]
fn workloads_are_listed_with_who_is_in_them_and_what_they_did() -> Result<()> {
    let lab = Lab::new()?;
    let (web, db, ci) = (lab.probe("/web/inner")?, lab.probe("/db")?, lab.probe("/ci")?);
    let to = at(Ipv4Addr::LOCALHOST, PORT);
    db.serve(Kind::Tcp, to)?;
    let agent = lab.agent(POLICY)?.start()?;
    let idle = rows(&agent, &["workloads"])?;
    let web_before = row(&idle, "name", "web")?;
    ensure!(web_before["traffic"]["last_seen"].is_null(), "{web_before}");
    allowed("web to db", web.tcp(to)?)?;
    refused("ci to db", ci.tcp(to)?)?;
    let told = rows(&agent, &["workloads"])?;
    let (web, ci) = (row(&told, "name", "web")?, row(&told, "name", "ci")?);
    ensure!(web["environment"] == "prod" && web["mode"] == "enforce", "{web}");
    ensure!(web["cgroups"] == serde_json::json!(["/web"]), "{web}");
    ensure!(web["selectors"] == serde_json::json!(["cgroup /web"]), "{web}");
    ensure!(web["members"] == 2 && web["processes"] == 1, "{web}");
    let allowed = &web["traffic"]["allowed"];
    ensure!(allowed["connections"] == 1 && allowed["packets"].as_u64() > Some(3), "{web}");
    ensure!(ci["traffic"]["refused_calls"] == 1 && ci["traffic"]["last_seen"].is_string(), "{ci}");
    let people = agent.tell(&["workloads"])?;
    let people = String::from_utf8(people.stdout)?;
    let line = people.lines().find(|line| line.starts_with("web ")).context(people.clone())?;
    ensure!(line.contains("prod") && line.ends_with("/web"), "{people}");
    agent.stop()?;
    Ok(())
}

//! What is in force, listed: `bulkhead workloads` and `bulkhead rules`.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, bail, ensure};
use bulkhead_tests::{Agent, Lab, probe::Kind};
use serde_json::Value;
use tempfile::TempDir;

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

const TWO_RULES: &str = "\n[[allow]]\nid = \"ci-web\"\nfrom = \"env:dev\"\nto = \"web\"\nports = [\"tcp/80\"]\n\
                         expires = 2099-01-01T00:00:00Z\n\n[[forbid]]\nfrom = \"env:dev\"\nto = \"db\"\n";

#[test]
fn rules_are_listed_with_exact_hits_that_outlive_the_agent() -> Result<()> {
    let lab = Lab::new()?;
    let files = TempDir::new()?;
    let (web, db, ci) = (lab.probe("/web")?, lab.probe("/db")?, lab.probe("/ci")?);
    let to = at(Ipv4Addr::LOCALHOST, PORT);
    db.serve(Kind::Tcp, to)?;
    let policy = format!("{POLICY}{TWO_RULES}");
    let start = || lab.agent(&policy)?.kept()?.with_state(&files.path().join("state")).start();
    let agent = start()?;
    for _ in 0..3 {
        allowed("web to db", web.tcp(to)?)?;
        refused("ci to db", ci.tcp(to)?)?;
    }
    let before = rows(&agent, &["rules"])?;
    let [used, unused, forbid] = &before[..] else { bail!("{before:#?}") };
    // Each connection is opened at two ends.
    ensure!(used["id"] == "web-db" && used["hits"]["connections"] == 6, "{used}");
    ensure!(used["words"] == "web may reach db on tcp/5432 and udp/5432", "{used}");
    ensure!(used["hits"]["last"].is_string() && used["hits"]["since"].is_string(), "{used}");
    ensure!(unused["hits"]["packets"] == 0 && unused["hits"]["last"].is_null(), "{unused}");
    ensure!(unused["hits"]["since"].is_string() && unused["expires"] == "2099-01-01T00:00:00Z", "{unused}");
    ensure!(unused["words"] == "everything in dev may reach web on tcp/80", "{unused}");
    ensure!(forbid["kind"] == "forbid" && forbid["hits"].is_null(), "{forbid}");
    let never = rows(&agent, &["rules", "--unused"])?;
    ensure!(never.len() == 1 && never[0]["id"] == "ci-web", "{never:#?}");
    let people = String::from_utf8(agent.tell(&["rules"])?.stdout)?;
    ensure!(people.contains("never, for ") && people.contains("policy.toml:"), "{people}");
    // Under no agent at all, and then under another one.
    agent.kill()?;
    allowed("web to db, the agent killed", web.tcp(to)?)?;
    let agent = start()?;
    let after = rows(&agent, &["rules"])?;
    ensure!(after[0]["hits"]["connections"] == 8, "{after:#?}");
    ensure!(after[1]["hits"]["since"] == unused["hits"]["since"], "{after:#?}");
    drop(agent);
    lab.bulkhead(&["detach"])?;
    Ok(())
}

#[test]
fn without_a_history_hits_are_not_known_and_that_is_said() -> Result<()> {
    let lab = Lab::new()?;
    let agent = lab.agent(POLICY)?.settings("[history]\nenabled = false\n")?.start()?;
    let told = rows(&agent, &["rules"])?;
    ensure!(told.len() == 1 && told[0]["hits"].is_null(), "{told:#?}");
    let unused = agent.tell(&["rules", "--unused"])?;
    let said = String::from_utf8(unused.stderr)?;
    ensure!(unused.status.code() == Some(1) && said.contains("keeps no history"), "{said}");
    agent.stop()?;
    Ok(())
}

//! A policy beside the one in force: it refuses nothing, and what it decides otherwise is counted.

use std::{fs, os::unix::fs::PermissionsExt as _, process::Command};

use anyhow::{Context as _, Result, ensure};
use bulkhead_tests::{
    Agent, Lab, agent, artifact,
    pace::until,
    probe::{Family, Kind},
};
use serde_json::Value;

use crate::{
    changes::{Shop, finds, succeeds, words},
    loopback::{POLICY, PORT},
    verdicts::{allowed, at, refused},
};

/// Datagrams at a time.
const MANY: u32 = 50;

/// What the agent tells of the comparison so far.
fn differences(agent: &Agent) -> Result<Vec<Value>> {
    let output = agent.tell(&["shadow", "--output", "json"])?;
    let text = String::from_utf8(output.stdout)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(i32::from(!text.is_empty())), "{}: {text}{said}", output.status);
    text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

/// Those of one service at one end.
fn of<'d>(differences: &'d [Value], workload: &str, direction: &str, service: &str) -> Vec<&'d Value> {
    let fits = |one: &&Value| {
        one["workload"]["name"] == workload && one["direction"] == direction && one["service"] == service
    };
    differences.iter().filter(fits).collect()
}

/// What there is of one service at one end, in one line.
fn only(agent: &Agent, workload: &str, direction: &str, service: &str) -> Result<Value> {
    let all = differences(agent)?;
    let found = of(&all, workload, direction, service);
    ensure!(found.len() == 1, "{service}, {direction} of {workload}: {found:#?} of {all:#?}");
    Ok(found[0].clone())
}

fn counts(one: &Value) -> [u64; 3] {
    ["packets", "calls", "connections"].map(|field| one[field].as_u64().unwrap_or(u64::MAX))
}

fn attached(lab: &Lab) -> Result<usize> {
    Ok(agent::attached(lab.root()?.path())?.len())
}

#[test]
fn what_it_would_refuse_passes_and_what_it_would_allow_is_refused_and_both_are_counted() -> Result<()> {
    let shop = Shop::new()?;
    let agent = shop.lab.agent(POLICY)?.start()?;
    let said = finds(&agent.tell(&["shadow"])?)?;
    ensure!(said.contains("no policy is compared with the one in force"), "{said}");
    let said = succeeds(&agent.tell(&["shadow", words(&shop.other()?)])?)?;
    ensure!(said.contains("nothing is refused by it: 3 workloads and 1 rule"), "{said}");
    ensure!(differences(&agent)?.is_empty(), "before anything has happened");
    let shadow = agent.status()?["shadow"].clone();
    ensure!(shadow["policy"][0] == words(&shop.other()?) && shadow["since"].is_string(), "{shadow}");

    // In force, and not by the shadow.
    let client = shop.web.open(Kind::Udp, Family::V4)?;
    allowed("connect", client.connect(shop.to)?)?;
    ensure!(client.repeat(&[], vec![0; 10], MANY)? == MANY, "a shadow refuses");
    shop.is_under_the_first()?;
    shop.is_under_the_first()?;
    let many = u64::from(MANY);
    until("each datagram and its answer are counted at both ends", || {
        let all = differences(&agent)?;
        let of = |workload, way| of(&all, workload, way, "udp/5432").first().map(|one| counts(one));
        Ok([of("web", "egress"), of("db", "ingress")] == [Some([2 * many, 1, 0]), Some([2 * many, 0, 0])])
    })?;
    let web = only(&agent, "web", "egress", "udp/5432")?;
    ensure!(web["change"] == "newly-refused" && web["peer"]["name"] == "db", "{web:#}");
    ensure!(web["in_force"] == "allowed" && web["shadow"] == "denied", "{web:#}");
    ensure!(web["reason"] == "no-rule" && web["rule"].is_null(), "{web:#}");
    let rule = &web["rule_in_force"];
    ensure!(rule["id"] == "web-db" && rule["file"] == "policy.toml" && rule["line"] == 14, "{web:#}");
    ensure!(web["first_seen"].as_str() <= web["last_seen"].as_str(), "{web:#}");
    let [packets, calls, connections] = counts(&only(&agent, "web", "egress", "tcp/5432")?);
    ensure!(packets > 8 && calls == 2 && connections == 2, "{packets}, {calls} and {connections} of two");
    ensure!(counts(&only(&agent, "db", "ingress", "tcp/5432")?)[2] == 2, "connections at the server");

    // By the shadow, and not in force.
    let ci = only(&agent, "ci", "egress", "tcp/5432")?;
    ensure!(ci["change"] == "newly-allowed" && counts(&ci) == [0, 2, 0], "{ci:#}");
    ensure!(ci["in_force"] == "denied" && ci["shadow"] == "allowed" && ci["reason"] == "rule", "{ci:#}");
    ensure!(ci["rule"]["file"] == "other.toml" && ci["rule_in_force"].is_null(), "{ci:#}");
    let all = differences(&agent)?;
    ensure!(all.len() == 5, "{all:#?}");

    let people = finds(&agent.tell(&["shadow"])?)?;
    let (first, second) = people.split_once("newly allowed: 1 kind").context(people.clone())?;
    ensure!(first.contains("newly refused: 4 kinds of traffic") && second.contains("ci → db"), "{people}");
    ensure!(people.contains("no-rule; in force by web-db (policy.toml:14)"), "{people}");
    // What was only compared is neither reported nor counted as refused.
    ensure!(agent.status()?["traffic"]["denied"]["packets"] == 0);
    agent.stop()?;
    Ok(())
}

#[test]
fn who_starts_later_is_compared_and_known_by_addresses_that_come_later() -> Result<()> {
    let shop = Shop::new()?;
    let lab = &shop.lab;
    let agent = lab.agent(POLICY)?.start()?;
    let more = format!(
        "{}\n[workload.late]\nselect = {{ cgroup = \"/late\" }}\n",
        fs::read_to_string(shop.other()?)?
    );
    succeeds(&agent.tell(&["shadow", words(&shop.written("more.toml", &more)?)])?)?;
    // In force it is in no workload.
    let late = lab.probe("/late/inner")?;
    let elsewhere = lab.network()?;
    let stranger = lab.stranger(&elsewhere)?;
    let far = at(elsewhere.v4, 80);
    stranger.serve(Kind::Tcp, far)?;
    allowed("late to a stranger", late.tcp(far)?)?;
    let one = only(&agent, "late", "egress", "tcp/80")?;
    ensure!(one["change"] == "newly-refused" && one["peer"]["is"] == serde_json::json!([]), "{one:#}");

    let (db_net, ci_net) = (lab.network()?, lab.network()?);
    let (db, ci) = (lab.probe_in("/db/container", &db_net)?, lab.probe_in("/ci/container", &ci_net)?);
    let to = at(db_net.v4, PORT);
    db.serve(Kind::Tcp, to)?;
    until("ci's container and db's are known to the shadow by their addresses", || {
        refused("ci to db", ci.tcp(to)?)?;
        let all = differences(&agent)?;
        let found = of(&all, "ci", "egress", "tcp/5432");
        Ok(found.iter().any(|one| one["change"] == "newly-allowed" && one["peer"]["name"] == "db"))
    })?;
    agent.stop()?;
    Ok(())
}

#[test]
fn another_policy_in_force_ends_it_and_says_so() -> Result<()> {
    let shop = Shop::new()?;
    let agent = shop.lab.agent(POLICY)?.start()?;
    let before = attached(&shop.lab)?;
    let other = shop.other()?;
    succeeds(&agent.tell(&["shadow", words(&other)])?)?;
    ensure!(attached(&shop.lab)? > before, "nothing compares");
    let said = succeeds(&agent.tell(&["apply", words(&other), "--confirm-within", "1h"])?)?;
    ensure!(said.contains("other.toml is no longer compared"), "{said}");
    ensure!(attached(&shop.lab)? == before && agent.status()?["shadow"].is_null());
    let said = finds(&agent.tell(&["shadow"])?)?;
    ensure!(said.contains("another policy was put in force"), "{said}");
    // Nobody knows yet what it would be compared with.
    let said = finds(&agent.tell(&["shadow", words(&shop.first()?)])?)?;
    ensure!(said.contains("waits to be confirmed"), "{said}");
    succeeds(&agent.tell(&["confirm"])?)?;
    succeeds(&agent.tell(&["shadow", words(&shop.first()?)])?)?;
    shop.is_under_the_other()?;
    let web = only(&agent, "web", "egress", "tcp/5432")?;
    ensure!(web["change"] == "newly-allowed" && web["rule"]["file"] == "policy.toml", "{web:#}");
    agent.stop()?;
    Ok(())
}

#[test]
fn it_ends_with_the_agent_and_the_next_one_says_so() -> Result<()> {
    let shop = Shop::new()?;
    let agent = shop.agent()?.start()?;
    let programs = attached(&shop.lab)?;
    succeeds(&agent.tell(&["shadow", words(&shop.other()?)])?)?;
    shop.is_under_the_first()?;
    agent.kill()?;
    until("nothing compares any more", || Ok(attached(&shop.lab)? == programs))?;
    shop.is_under_the_first()?;
    let mut next = shop.agent()?.start()?;
    ensure!(next.said().contains("the agent that compared one has ended"), "{}", next.said());
    let said = finds(&next.tell(&["shadow"])?)?;
    ensure!(said.contains("the agent that compared one has ended"), "{said}");
    ensure!(next.status()?["shadow"].is_null());
    // What was counted under the agent before is of nobody's comparison.
    succeeds(&next.tell(&["shadow", words(&shop.other()?)])?)?;
    ensure!(differences(&next)?.is_empty());
    shop.is_under_the_first()?;
    ensure!(counts(&only(&next, "ci", "egress", "tcp/5432")?) == [0, 1, 0]);
    next.leave()?;
    shop.lab.bulkhead(&["detach"])?;
    Ok(())
}

#[test]
fn its_end_tells_what_has_come_of_it_and_leaves_nothing() -> Result<()> {
    let shop = Shop::new()?;
    let agent = shop.lab.agent(POLICY)?.start()?;
    let before = attached(&shop.lab)?;
    let said = finds(&agent.tell(&["shadow", "--end"])?)?;
    ensure!(said.contains("no policy is compared"), "{said}");
    succeeds(&agent.tell(&["shadow", words(&shop.first()?)])?)?;
    shop.is_under_the_first()?;
    // The same policy decides nothing otherwise.
    let said = succeeds(&agent.tell(&["shadow"])?)?;
    ensure!(said.contains("it has decided nothing otherwise"), "{said}");
    // Another one in its place begins anew.
    succeeds(&agent.tell(&["shadow", words(&shop.other()?)])?)?;
    shop.is_under_the_first()?;
    let said = finds(&agent.tell(&["shadow", "--end"])?)?;
    ensure!(said.contains("was compared") && said.contains("newly allowed: 1 kind of traffic"), "{said}");
    ensure!(attached(&shop.lab)? == before && agent.status()?["shadow"].is_null());
    shop.is_under_the_first()?;
    let said = finds(&agent.tell(&["shadow"])?)?;
    ensure!(said.contains("somebody has asked for it"), "{said}");
    agent.stop()?;
    Ok(())
}

#[test]
fn what_is_no_policy_or_comes_from_others_changes_nothing() -> Result<()> {
    let shop = Shop::new()?;
    let agent = shop.lab.agent(POLICY)?.start()?;
    let other = shop.other()?;
    succeeds(&agent.tell(&["shadow", words(&other)])?)?;
    let before = agent.status()?["shadow"].clone();
    let bad = shop.written("bad.toml", &POLICY.replace("to = \"db\"", "to = \"dbb\""))?;
    for command in ["shadow", "apply"] {
        let said = finds(&agent.tell(&[command, words(&bad)])?)?;
        ensure!(said.contains("bad.toml") && said.contains("`db`"), "{command}: {said}");
    }
    for arguments in [&["shadow", "/nonexistent.toml"][..], &["shadow", words(&other), "--end"]] {
        let output = agent.tell(arguments)?;
        ensure!(output.status.code() == Some(2), "{arguments:?}: {output:?}");
    }
    let socket = agent.control_socket();
    let folder = socket.parent().context("no directory")?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    fs::set_permissions(shop.files.path(), fs::Permissions::from_mode(0o755))?;
    for arguments in [&["shadow"][..], &["shadow", words(&other)], &["shadow", "--end"]] {
        let output = Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(artifact::agent()?)
            .args(arguments)
            .arg("--control-socket")
            .arg(socket)
            .output()
            .context("setpriv cannot be started (package util-linux)")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(1), "{arguments:?}: {}", output.status);
        ensure!(said.contains("Only root and members of the group bulkhead"), "{arguments:?}: {said}");
    }
    ensure!(agent.status()?["shadow"] == before, "{}", agent.status()?["shadow"]);
    agent.stop()?;
    Ok(())
}

#[test]
fn a_dry_run_compares_as_well() -> Result<()> {
    let shop = Shop::new()?;
    let agent = shop.lab.agent(POLICY)?.dry_run().start()?;
    succeeds(&agent.tell(&["shadow", words(&shop.other()?)])?)?;
    allowed("web to db", shop.web.tcp(shop.to)?)?;
    allowed("ci to db in a dry run", shop.ci.tcp(shop.to)?)?;
    let web = only(&agent, "web", "egress", "tcp/5432")?;
    ensure!(web["in_force"] == "allowed" && web["shadow"] == "would-deny", "{web:#}");
    ensure!(web["change"] == "newly-refused", "{web:#}");
    let ci = only(&agent, "ci", "egress", "tcp/5432")?;
    ensure!(ci["in_force"] == "would-deny" && ci["shadow"] == "allowed", "{ci:#}");
    ensure!(ci["change"] == "newly-allowed" && counts(&ci)[2] == 1, "{ci:#}");
    agent.stop()?;
    Ok(())
}

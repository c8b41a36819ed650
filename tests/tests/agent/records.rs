//! Refusals and flows as `bulkhead denials` and `bulkhead flows` tell them.

use std::{
    fs,
    net::SocketAddr,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use bulkhead_tests::{
    Agent, Follower, Lab, Probe, artifact,
    pace::{at_once, fewer, until},
    probe::Kind,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    loopback::{POLICY, PORT},
    verdicts::{allowed, at, blocked, refused},
};

#[test]
fn who_follows_sees_a_refusal_at_once_as_it_is_printed() -> Result<()> {
    const ATTEMPTS: u16 = 200;
    let lab = Lab::new()?;
    let (ci, web) = (lab.probe("/ci")?, lab.probe("/web")?);
    let agent = lab.agent(POLICY)?.start()?;
    let follower = Follower::start(&agent, &["denials", "--follow", "--workload", "ci", "--output", "json"])?;
    let people = Follower::start(&agent, &["denials", "--follow", "--workload", "ci"])?;
    // It follows from when it is there.
    let mut port = 1;
    until("it follows", || {
        port += 1;
        blocked("ci", ci.tcp(at([192, 0, 2, 1], port))?)?;
        Ok(follower.tells_within(Duration::from_millis(100)))
    })?;
    while follower.tells_within(Duration::from_millis(300)) {}
    let mut delays = Vec::new();
    for port in 1000..1000 + ATTEMPTS {
        blocked("web", web.tcp(at([192, 0, 2, 2], port))?)?;
        let before = Instant::now();
        blocked("ci", ci.tcp(at([192, 0, 2, 1], port))?)?;
        let (when, record) = follower.next_record()?;
        ensure!(record["peer"]["port"] == port && record["workload"]["name"] == "ci", "{record}");
        let printed = agent.denials().expect(&json!({"peer": {"port": port}, "workload": {"name": "ci"}}))?;
        ensure!(printed.record == record, "printed is {}, and told {record}", printed.record);
        delays.push(when - before);
    }
    delays.sort_unstable();
    let worst = delays[delays.len() * 99 / 100];
    println!("from the call to the line: median {:?}, p99 {worst:?}", delays[delays.len() / 2]);
    ensure!(worst < at_once(Duration::from_millis(50)), "p99 is {worst:?}");
    let (_, line) = people.next()?;
    ensure!(line.contains("denied") && line.contains("ci (dev) → 192.0.2.1 tcp/"), "{line}");
    people.interrupt()?;
    // The agent's end is told.
    agent.stop()?;
    let (status, said) = follower.ended()?;
    ensure!(status.code() == Some(1), "{status} after the agent's end");
    ensure!(said.contains("has ended"), "{said}");
    Ok(())
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() -> Result<()> {
    let lab = Lab::new()?;
    let ci = lab.probe("/ci")?;
    let agent = lab.agent(POLICY)?.start()?;
    let command = format!(
        "set -o pipefail; {:?} denials --follow --control-socket {:?} | head --lines 1",
        artifact::agent()?,
        agent.control_socket()
    );
    let mut head = Command::new("bash").args(["-c", &command]).stdout(Stdio::null()).spawn()?;
    let mut port = 1;
    until("it ends", || {
        port += 1;
        blocked("ci", ci.tcp(at([192, 0, 2, 1], port))?)?;
        Ok(head.try_wait()?.is_some())
    })?;
    ensure!(head.wait()?.success(), "a broken pipe is no failure");
    agent.stop()?;
    Ok(())
}

/// What a command of the agent's prints, line by line.
fn told(agent: &Agent, arguments: &[&str]) -> Result<Vec<Value>> {
    let output = agent.tell(&[arguments, &["--output", "json"]].concat())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{arguments:?}: {}\n{said}", output.status);
    let lines = String::from_utf8(output.stdout)?;
    lines.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

fn flows(agent: &Agent) -> Result<Vec<Value>> {
    told(agent, &["flows", "--limit", "1000000"])
}

/// What the flows of a verdict come to.
fn sum(flows: &[Value], verdict: Option<&str>, field: &str) -> u64 {
    let flows = flows.iter().filter(|flow| verdict.is_none_or(|verdict| flow["verdict"] == verdict));
    flows.filter_map(|flow| flow[field].as_u64()).sum()
}

/// Wants the flows to come to what the counters have come to.
fn adds_up(agent: &Agent) -> Result<Vec<Value>> {
    // Nothing may pass between the two looks: keep-alives of a connection would.
    let (flows, status) = (flows(agent)?, agent.status()?);
    let traffic = &status["traffic"];
    for (verdict, counted) in [("allowed", "allowed"), ("denied", "denied"), ("would-deny", "would_deny")] {
        for field in ["packets", "bytes", "connections"] {
            let (sum, counted) = (sum(&flows, Some(verdict), field), &traffic[counted][field]);
            ensure!(*counted == sum, "{sum} {field} {verdict}, and {counted} counted: {flows:#?}");
        }
    }
    let calls = sum(&flows, None, "calls");
    ensure!(traffic["refused_calls"] == calls, "{calls} calls, and {} counted", traffic["refused_calls"]);
    ensure!(traffic["other"]["packets"] == 0, "{traffic}");
    Ok(flows)
}

/// Calls of web to db, which pass, and of ci to db, which do not.
fn talk(web: &Probe, ci: &Probe, to: SocketAddr, times: usize) -> Result<()> {
    for _ in 0..times {
        allowed("web to db", web.tcp(to)?)?;
        refused("ci to db", ci.tcp(to)?)?;
    }
    Ok(())
}

#[test]
fn flows_add_up_to_what_is_counted_over_policies_and_agents() -> Result<()> {
    let lab = Lab::new()?;
    let (web, db, ci) = (lab.probe("/web")?, lab.probe("/db")?, lab.probe("/ci")?);
    let to: SocketAddr = at(lab.host().v4, PORT);
    db.serve(Kind::Tcp, to)?;
    let state = TempDir::new()?;
    let agent = lab.agent(POLICY)?.kept()?.with_state(state.path()).start()?;
    talk(&web, &ci, to, 3)?;
    let seen = adds_up(&agent)?;
    let of = |verdict: &str, workload: &str| {
        let all =
            seen.iter().filter(|flow| flow["verdict"] == verdict && flow["workload"]["name"] == workload);
        all.cloned().collect::<Vec<_>>()
    };
    let [out] = &of("allowed", "web")[..] else { bail!("{seen:#?}") };
    let wanted = json!({"direction": "egress", "service": "tcp/5432", "peer": {"name": "db", "environment": "prod"},
                        "rule": {"id": "web-db"}, "reason": "rule", "connections": 3});
    ensure!(holds(out, &wanted), "{out:#}");
    let refused: Vec<_> = of("denied", "ci");
    ensure!(
        refused.iter().all(|flow| flow["reason"] == "no-rule") && sum(&refused, None, "calls") == 3,
        "{refused:#?}"
    );
    let from =
        told(&agent, &["flows", "--from", "web", "--to", "db", "--verdict", "allowed", "--since", "1h"])?;
    ensure!(!from.is_empty() && from.iter().all(|flow| flow["verdict"] == "allowed"), "{from:#?}");
    ensure!(told(&agent, &["flows", "--from", "db"])?.is_empty(), "db opens nothing");

    // Generations come and go, and their counters with them.
    let folder = TempDir::new()?;
    for round in 1..=4 {
        let before = (0..round).map(|n| format!("[workload.a{n}]\nselect = {{ cgroup = \"/a{n}\" }}\n"));
        let policy = folder.path().join("policy.toml");
        fs::write(&policy, before.collect::<String>() + POLICY)?;
        let applied = agent.tell(&["apply", &policy.to_string_lossy(), "--force"])?;
        ensure!(applied.status.success(), "apply: {}", String::from_utf8_lossy(&applied.stderr));
        talk(&web, &ci, to, 2)?;
    }
    let before = adds_up(&agent)?;
    ensure!(
        before.iter().all(|flow| !flow["workload"]["name"].is_null()),
        "everybody has a name: {before:#?}"
    );

    // The agent is killed; traffic goes on, and so does the history.
    agent.kill()?;
    talk(&web, &ci, to, 4)?;
    let agent = lab.agent(POLICY)?.kept()?.with_state(state.path()).start()?;
    talk(&web, &ci, to, 1)?;
    let after = adds_up(&agent)?;
    ensure!(after[..before.len()] == before, "what was there is still there");
    ensure!(sum(&after, None, "calls") == 3 + 8 + 5, "{after:#?}");
    agent.leave()?;
    lab.bulkhead(&["detach"])?;
    Ok(())
}

#[test]
fn denials_are_there_after_a_kill_and_go_on_as_they_come() -> Result<()> {
    let lab = Lab::new()?;
    let (ci, web) = (lab.probe("/ci")?, lab.probe("/web")?);
    let state = TempDir::new()?;
    let agent = lab.agent(POLICY)?.with_state(state.path()).start()?;
    for port in 1..=20 {
        blocked("ci", ci.tcp(at([192, 0, 2, 1], port))?)?;
        blocked("web", web.tcp(at([192, 0, 2, 1], port))?)?;
    }
    agent.denials().expect(&json!({"peer": {"port": 20}, "workload": {"name": "web"}}))?;
    let printed: Vec<Value> = agent.denials().all()?.into_iter().map(|denial| denial.record).collect();
    ensure!(told(&agent, &["denials"])? == printed, "the history tells otherwise than standard output");
    agent.kill()?;
    let agent = lab.agent(POLICY)?.with_state(state.path()).start()?;
    ensure!(told(&agent, &["denials"])? == printed, "it is gone with the agent");
    let ports = |arguments: &[&str]| -> Result<Vec<u64>> {
        Ok(told(&agent, arguments)?.iter().filter_map(|denial| denial["peer"]["port"].as_u64()).collect())
    };
    let last = ports(&["denials", "--workload", "ci", "--limit", "3", "--since", "1h"])?;
    ensure!(last == [18, 19, 20], "{last:?}");
    ensure!(ports(&["denials", "--verdict", "would-deny"])?.is_empty(), "nothing only would be refused");
    // Each once: those that were, and those that come.
    let arguments = ["denials", "--follow", "--limit", "2", "--workload", "ci", "--output", "json"];
    let follower = Follower::start(&agent, &arguments)?;
    let next = || Ok::<_, anyhow::Error>(follower.next_record()?.1["peer"]["port"].as_u64());
    ensure!([next()?, next()?] == [Some(19), Some(20)], "the last two first");
    for port in 21..=40 {
        blocked("ci", ci.tcp(at([192, 0, 2, 1], port))?)?;
        ensure!(next()? == Some(port.into()), "then {port}");
    }
    follower.interrupt()?;
    agent.stop()?;
    Ok(())
}

#[test]
fn a_full_disk_holds_up_nobody_and_the_history_goes_on_once_there_is_room() -> Result<()> {
    let lab = Lab::new()?;
    let (web, db, ci) = (lab.probe("/web")?, lab.probe("/db")?, lab.probe("/ci")?);
    let to: SocketAddr = at(lab.host().v4, PORT);
    db.serve(Kind::Tcp, to)?;
    let state = TempDir::new()?;
    let place = state.path().to_string_lossy().into_owned();
    lab.run("mount", &["-t", "tmpfs", "-o", "size=16k", "small", &place])?;
    let agent = lab.agent(POLICY)?.with_state(state.path()).start()?;
    let history = |agent: &Agent| Ok::<_, anyhow::Error>(agent.status()?["events"]["history"].clone());
    until("the disk is full", || {
        Ok(history(&agent)?["failing"].as_str().is_some_and(|why| why.contains("No space left")))
    })?;
    for port in 1..=30 {
        blocked("ci", ci.tcp(at([192, 0, 2, 1], port))?)?;
    }
    talk(&web, &ci, to, 3)?;
    agent.denials().expect(&json!({"peer": {"port": PORT}}))?;
    let refused = agent.tell(&["flows"])?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(refused.status.code() == Some(1) && said.contains("No space left"), "{said}");
    lab.run("mount", &["-o", "remount,size=64m", &place])?;
    until("it is written", || Ok(history(&agent)?["failing"].is_null()))?;
    adds_up(&agent)?;
    all_is_written(&agent)?;
    // Then it is full again, in the middle of work.
    lab.run("dd", &["if=/dev/zero", &format!("of={place}/filler"), "bs=1M", "count=1000"]).ok();
    for port in 1000..1300 {
        blocked("ci", ci.tcp(at([192, 0, 2, 1], port))?)?;
        blocked("web", web.tcp(at([192, 0, 2, 2], port))?)?;
    }
    let _ = agent.tell(&["flows"])?;
    lab.run("rm", &[&format!("{place}/filler")])?;
    until("it goes on", || Ok(history(&agent)?["failing"].is_null()))?;
    adds_up(&agent)?;
    all_is_written(&agent)?;
    agent.stop()?;
    Ok(())
}

/// Of what is refused meanwhile, such as a SYN that is sent again, too.
fn all_is_written(agent: &Agent) -> Result<()> {
    until("every refusal is in the history", || {
        agent.tell(&["flows", "--limit", "1"])?;
        let events = agent.status()?["events"].clone();
        ensure!(events["history"]["lost"] == 0, "{events}");
        Ok(events["history"]["written"] == events["refusals"])
    })
}

#[test]
fn a_history_that_is_damaged_or_cut_short_keeps_no_agent_from_working() -> Result<()> {
    const KILLS: u32 = 10;
    let lab = Lab::new()?;
    let ci = lab.probe("/ci")?;
    let state = TempDir::new()?;
    let file = state.path().join("history.redb");
    let mut last = 0;
    for round in 0..fewer(KILLS) {
        let agent = lab.agent(POLICY)?.with_state(state.path()).start()?;
        let there = told(&agent, &["denials", "--limit", "1000000"])?.len();
        ensure!(there >= last, "{there} denials where there were {last}");
        last = there;
        let follower = Follower::start(&agent, &["flows", "--follow"])?;
        let first = 1000 + 100 * u16::try_from(round)?;
        for port in first..first + 60 {
            blocked("ci", ci.tcp(at([192, 0, 2, 1], port))?)?;
            if port % 20 == 0 {
                // Written while it is killed, as likely as not.
                drop(Follower::start(&agent, &["denials"])?);
            }
        }
        thread::sleep(Duration::from_millis(u64::from(7 * round)));
        agent.kill()?;
        drop(follower);
    }
    ensure!(!state.path().join("history.redb.unreadable").exists(), "a kill has damaged it");
    ensure!(last > 0, "nothing was ever written");
    let text = fs::read(&file)?;
    fs::write(&file, text.iter().map(|byte| byte ^ 0x55).collect::<Vec<_>>())?;
    let agent = lab.agent(POLICY)?.with_state(state.path()).start()?;
    blocked("ci", ci.tcp(at([192, 0, 2, 1], 7))?)?;
    agent.denials().expect(&json!({"peer": {"port": 7}}))?;
    ensure!(told(&agent, &["denials"])?.len() == 1, "a new one is begun");
    ensure!(state.path().join("history.redb.unreadable").exists(), "the old one is put aside");
    agent.stop()?;
    Ok(())
}

#[test]
fn a_policy_is_simulated_with_what_has_passed() -> Result<()> {
    let lab = Lab::new()?;
    let (web, db, ci) = (lab.probe("/web")?, lab.probe("/db")?, lab.probe("/ci")?);
    let to: SocketAddr = at(lab.host().v4, PORT);
    db.serve(Kind::Tcp, to)?;
    let agent = lab.agent(POLICY)?.start()?;
    talk(&web, &ci, to, 3)?;
    let folder = TempDir::new()?;
    let (file, policy) = (folder.path().join("flows.jsonl"), folder.path().join("policy.toml"));
    fs::write(&file, agent.tell(&["flows", "--output", "json"])?.stdout)?;
    let simulate = |text: &str| -> Result<Value> {
        fs::write(&policy, text)?;
        let (policy, file) = (policy.to_string_lossy(), file.to_string_lossy());
        let output = agent.tell(&["simulate", &policy, "--flows", &file, "--output", "json"])?;
        Ok(serde_json::from_slice(&output.stdout)?)
    };
    let same = simulate(POLICY)?;
    ensure!(same["bad_lines"] == 0 && same["total"]["changed"] == 0, "{same:#}");
    ensure!(same["total"]["allowed"].as_u64().is_some_and(|allowed| allowed >= 6), "{same:#}");
    // Without its rule, web no longer reaches db, and db no longer hears it.
    let without = simulate(POLICY.split("[[allow]]").next().context("a policy")?)?;
    let changes = without["changes"].as_array().context("no changes")?;
    ensure!(!changes.is_empty(), "{without:#}");
    let wanted =
        json!({"from": "web", "to": "db", "service": "tcp/5432", "before": "allowed", "after": "denied"});
    ensure!(changes.iter().all(|change| holds(change, &wanted)), "{without:#}");
    agent.stop()?;
    Ok(())
}

/// Is `wanted` a part of it?
fn holds(found: &Value, wanted: &Value) -> bool {
    match wanted {
        Value::Object(fields) => fields.iter().all(|(name, wanted)| holds(&found[name], wanted)),
        wanted => found == wanted,
    }
}

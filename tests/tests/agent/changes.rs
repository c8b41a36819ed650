//! Another policy while the agent runs: planned, applied, confirmed, rolled back, kept.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::Output,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use bulkhead_tests::{
    Agent, Lab, Outcome, Probe, Socket,
    agent::Launch,
    pace::until,
    probe::{Family, Kind},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    loopback::{POLICY, PORT},
    verdicts::{allowed, at, refused},
};

/// How long a policy is on trial here.
const TRIAL: Duration = Duration::from_secs(3);

/// web, ci and db on one machine. By POLICY web reaches db; by the other policy ci does, and web does not.
pub(crate) struct Shop {
    pub(crate) lab: Lab,
    pub(crate) web: Probe,
    pub(crate) ci: Probe,
    db: Probe,
    pub(crate) to: SocketAddr,
    pub(crate) files: TempDir,
}

impl Shop {
    pub(crate) fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let (web, ci, db) = (lab.probe("/web")?, lab.probe("/ci")?, lab.probe("/db")?);
        let to = at(lab.host().v4, PORT);
        db.serve(Kind::Tcp, to)?;
        db.serve(Kind::Udp, to)?;
        Ok(Self { lab, web, ci, db, to, files: TempDir::new()? })
    }

    /// An agent under POLICY, with a state directory that the next one shares.
    pub(crate) fn agent(&self) -> Result<Launch> {
        Ok(self.lab.agent(POLICY)?.kept()?.with_state(&self.files.path().join("state")))
    }

    /// A file with POLICY.
    pub(crate) fn first(&self) -> Result<PathBuf> {
        self.written("policy.toml", POLICY)
    }

    /// A file with the other policy.
    pub(crate) fn other(&self) -> Result<PathBuf> {
        self.written("other.toml", &POLICY.replace("from = \"web\"", "from = \"ci\""))
    }

    pub(crate) fn written(&self, name: &str, policy: &str) -> Result<PathBuf> {
        let path = self.files.path().join(name);
        fs::write(&path, policy)?;
        Ok(path)
    }

    pub(crate) fn is_under_the_first(&self) -> Result<()> {
        allowed("web to db", self.web.tcp(self.to)?)?;
        refused("ci to db", self.ci.tcp(self.to)?)
    }

    pub(crate) fn is_under_the_other(&self) -> Result<()> {
        allowed("ci to db", self.ci.tcp(self.to)?)?;
        refused("web to db", self.web.tcp(self.to)?)
    }

    /// A connection that web has open.
    fn open(&self) -> Result<Socket<'_>> {
        let open = self.web.open(Kind::Tcp, Family::V4)?;
        allowed("web's connection", open.connect_and_exchange(self.to)?)?;
        Ok(open)
    }
}

pub(crate) fn words(path: &std::path::Path) -> &str {
    path.to_str().expect("a temporary file's name is text")
}

/// What it said and how it ended.
fn told(output: &Output) -> (i32, String) {
    let said = [&output.stdout, &output.stderr].map(|said| String::from_utf8_lossy(said).into_owned());
    (output.status.code().unwrap_or(-1), said.concat())
}

pub(crate) fn succeeds(output: &Output) -> Result<String> {
    let (code, said) = told(output);
    ensure!(code == 0, "exit status {code}:\n{said}");
    Ok(said)
}

pub(crate) fn finds(output: &Output) -> Result<String> {
    let (code, said) = told(output);
    ensure!(code == 1, "exit status {code}, not 1:\n{said}");
    Ok(said)
}

fn generation(agent: &Agent) -> Result<u64> {
    agent.status()?["generation"].as_u64().context("no generation")
}

#[test]
fn a_plan_tells_what_a_policy_would_change_and_cut() -> Result<()> {
    let shop = Shop::new()?;
    let agent = shop.lab.agent(POLICY)?.start()?;
    let open = shop.open()?;
    let datagrams = shop.web.open(Kind::Udp, Family::V4)?;
    allowed("web's datagrams", datagrams.exchange(Some(shop.to))?)?;
    let other = shop.other()?;
    let said = finds(&agent.tell(&["plan", words(&other)])?)?;
    for expected in
        ["- web -> db: tcp/5432, udp/5432", "+ ci -> db", "would be cut:", "(tcp/5432)", "(udp/5432)"]
    {
        ensure!(said.contains(expected), "no {expected:?} in:\n{said}");
    }
    let plan: Value =
        serde_json::from_str(&finds(&agent.tell(&["plan", words(&other), "--output", "json"])?)?)?;
    let cut = plan["cut"].as_array().context("no cut")?;
    // Both ends of the connection, and of the exchange.
    let ends = |workload: &str, protocol: &str| {
        let mut found = cut.iter().filter(|cut| cut["workload"] == workload && cut["protocol"] == protocol);
        found.next().cloned().with_context(|| format!("no {protocol} of {workload} in {plan:#}"))
    };
    let web = ends("web", "tcp")?;
    ensure!(web["direction"] == "egress" && web["peer"]["name"] == "db", "{web:#}");
    ensure!(web["processes"][0]["pid"] == shop.web.pid(), "{web:#}");
    ensure!(web["nearest_rule"]["differs"] == json!(["from"]), "{web:#}");
    ensure!(ends("db", "tcp")?["direction"] == "ingress", "{plan:#}");
    ensure!(ends("web", "udp")?["direction"] == "egress" && ends("db", "udp")?["direction"] == "ingress");
    // Nothing has changed.
    allowed("web's connection", open.exchange(None)?)?;
    shop.is_under_the_first()?;
    let same = shop.written("same.toml", POLICY)?;
    let said = succeeds(&agent.tell(&["plan", words(&same)])?)?;
    ensure!(said.contains("no difference in access"), "{said}");
    agent.stop()?;
    Ok(())
}

#[test]
fn an_applied_policy_is_in_force_at_once_and_cuts_what_it_does_not_allow() -> Result<()> {
    let shop = Shop::new()?;
    let agent = shop.lab.agent(POLICY)?.start()?;
    let open = shop.open()?;
    let before = generation(&agent)?;
    let said = succeeds(&agent.tell(&["apply", words(&shop.other()?)])?)?;
    ensure!(said.contains("in force: 3 workloads and 1 rule") && said.contains("cut:"), "{said}");
    ensure!(open.exchange(None)?.is_blocked(), "a connection outlived the rule that allowed it");
    shop.is_under_the_other()?;
    ensure!(generation(&agent)? > before);
    let name = agent.status()?["policy"][0].clone();
    ensure!(name == words(&shop.other()?), "status tells of {name}");
    // Its refusals are explained by the new policy.
    let denials = agent.stop()?;
    denials.expect(&json!({ "workload": { "name": "web" }, "nearest_rule": { "file": "other.toml" } }))?;
    Ok(())
}

#[test]
fn what_nobody_confirms_ends_by_itself() -> Result<()> {
    let shop = Shop::new()?;
    let agent = shop.agent()?.start()?;
    let other = shop.other()?;
    succeeds(&agent.tell(&["apply", words(&other), "--confirm-within", "3s"])?)?;
    let began = Instant::now();
    shop.is_under_the_other()?;
    let ends_in = agent.status()?["trial"]["ends_in"].as_f64().context("no trial")?;
    ensure!(ends_in > 0.0 && ends_in <= 3.0, "{ends_in}");
    until("the policy before comes back", || Ok(shop.web.tcp(shop.to)? == Outcome::Answered))?;
    ensure!(began.elapsed() + Duration::from_millis(200) > TRIAL, "after {:?}", began.elapsed());
    shop.is_under_the_first()?;
    until("the agent knows", || Ok(agent.status()?["trial"].is_null()))?;
    let said = finds(&agent.tell(&["confirm"])?)?;
    ensure!(said.contains("nothing waits to be confirmed"), "{said}");
    // Whoever is late does not go back further than meant.
    let said = finds(&agent.tell(&["rollback"])?)?;
    ensure!(said.contains("is in force again"), "{said}");
    let said = finds(&agent.tell(&["rollback"])?)?;
    ensure!(said.contains("nothing to roll back to"), "{said}");
    agent.leave()?;
    // The next one starts with what was confirmed.
    let next = shop.agent()?.start()?;
    shop.is_under_the_first()?;
    ensure!(next.status()?["warnings"].as_array().is_some_and(|warnings| warnings.len() < 3));
    shop.lab.bulkhead(&["detach"])?;
    Ok(())
}

#[test]
fn with_the_agent_killed_the_kernel_goes_back() -> Result<()> {
    let shop = Shop::new()?;
    let agent = shop.agent()?.start()?;
    succeeds(&agent.tell(&["apply", words(&shop.other()?), "--confirm-within", "3s"])?)?;
    let began = Instant::now();
    agent.kill()?;
    shop.is_under_the_other()?;
    thread::sleep(TRIAL.saturating_sub(began.elapsed()));
    shop.is_under_the_first()?;
    let next = shop.agent()?.start()?;
    shop.is_under_the_first()?;
    let said = finds(&next.tell(&["confirm"])?)?;
    ensure!(said.contains("nothing waits"), "{said}");
    shop.lab.bulkhead(&["detach"])?;
    Ok(())
}

#[test]
fn what_is_confirmed_stays_and_starts_next_time() -> Result<()> {
    let shop = Shop::new()?;
    let agent = shop.agent()?.start()?;
    succeeds(&agent.tell(&["apply", words(&shop.other()?), "--confirm-within", "3s"])?)?;
    succeeds(&agent.tell(&["confirm"])?)?;
    thread::sleep(TRIAL + Duration::from_millis(200));
    shop.is_under_the_other()?;
    agent.kill()?;
    // Started by the same command.
    let next = shop.agent()?.start()?;
    shop.is_under_the_other()?;
    let warnings = next.status()?["warnings"].to_string();
    ensure!(warnings.contains("policy.toml says otherwise"), "{warnings}");
    // The last but one comes back as often as it is asked for.
    succeeds(&next.tell(&["rollback"])?)?;
    shop.is_under_the_first()?;
    let warnings = next.status()?["warnings"].to_string();
    ensure!(!warnings.contains("says otherwise"), "{warnings}");
    succeeds(&next.tell(&["rollback"])?)?;
    shop.is_under_the_other()?;
    next.leave()?;
    // Another policy on the command line is meant.
    let third = shop.lab.agent(&POLICY.replace("5432", "1"))?.kept()?;
    let third = third.with_state(&shop.files.path().join("state")).start()?;
    refused("web to db", shop.web.tcp(shop.to)?)?;
    refused("ci to db", shop.ci.tcp(shop.to)?)?;
    third.leave()?;
    shop.lab.bulkhead(&["detach"])?;
    Ok(())
}

#[test]
fn who_does_not_wait_rolls_back() -> Result<()> {
    let shop = Shop::new()?;
    let agent = shop.lab.agent(POLICY)?.start()?;
    let said = finds(&agent.tell(&["rollback"])?)?;
    ensure!(said.contains("nothing to roll back to"), "{said}");
    succeeds(&agent.tell(&["apply", words(&shop.other()?), "--confirm-within", "1h"])?)?;
    shop.is_under_the_other()?;
    succeeds(&agent.tell(&["rollback"])?)?;
    shop.is_under_the_first()?;
    ensure!(agent.status()?["trial"].is_null());
    // On trial what is made meanwhile is followed, and afterwards.
    succeeds(&agent.tell(&["apply", words(&shop.other()?), "--confirm-within", "1h"])?)?;
    let ci = shop.lab.probe("/ci/job-1")?;
    allowed("ci's job to db", ci.tcp(shop.to)?)?;
    succeeds(&agent.tell(&["rollback"])?)?;
    refused("ci's job to db", ci.tcp(shop.to)?)?;
    agent.stop()?;
    Ok(())
}

#[test]
fn a_bad_policy_changes_nothing() -> Result<()> {
    let shop = Shop::new()?;
    let agent = shop.lab.agent(POLICY)?.start()?;
    let before = generation(&agent)?;
    let bad = shop.written("bad.toml", &POLICY.replace("to = \"db\"", "to = \"dbb\""))?;
    for command in [&["apply"][..], &["plan"], &["apply", "--force"]] {
        let said = finds(&agent.tell(&[command, &[words(&bad)]].concat())?)?;
        ensure!(said.contains("bad.toml") && said.contains("`db`"), "{command:?}: {said}");
    }
    for (arguments, expected) in [
        (&["apply", "/nonexistent.toml"][..], "there is no policy at"),
        (&["apply", words(&shop.other()?), "--confirm-within", "never"], "a time such as 60s"),
        (&["apply", words(&shop.other()?), "--confirm-within", "25h"], "between 1s and 24h"),
    ] {
        let (code, said) = told(&agent.tell(arguments)?);
        ensure!(code == 2 && said.contains(expected), "{arguments:?}: exit status {code}, {said}");
    }
    shop.is_under_the_first()?;
    ensure!(generation(&agent)? == before);
    agent.stop()?;
    Ok(())
}

#[test]
fn a_policy_that_cannot_be_kept_is_not_applied_unless_forced() -> Result<()> {
    let shop = Shop::new()?;
    // A file where the directory should be.
    let state = shop.written("state", "")?;
    let agent = shop.lab.agent(POLICY)?.with_state(&state).start()?;
    let warnings = agent.status()?["warnings"].to_string();
    ensure!(warnings.contains("until the next start only"), "{warnings}");
    for time in [&[][..], &["--confirm-within", "1h"]] {
        let said = finds(&agent.tell(&[&["apply", words(&shop.other()?)], time].concat())?)?;
        ensure!(said.contains("nothing has changed") && said.contains("cannot be kept"), "{said}");
        shop.is_under_the_first()?;
    }
    let said = succeeds(&agent.tell(&["apply", words(&shop.other()?), "--force"])?)?;
    ensure!(said.contains("until the next start only"), "{said}");
    shop.is_under_the_other()?;
    agent.stop()?;
    Ok(())
}

#[test]
fn state_that_makes_no_sense_is_put_aside() -> Result<()> {
    let shop = Shop::new()?;
    let state = shop.files.path().join("state");
    fs::create_dir(&state)?;
    fs::write(state.join("policy.json"), "{\"confirmed\": {\"files\"")?;
    let mut agent = shop.agent()?.start()?;
    shop.is_under_the_first()?;
    ensure!(agent.said().contains("makes no sense"), "{}", agent.said());
    ensure!(fs::read_to_string(state.join("policy.json.unreadable"))?.starts_with("{\"confirmed\""));
    // What is kept from now on is whole.
    succeeds(&agent.tell(&["apply", words(&shop.other()?)])?)?;
    agent.kill()?;
    shop.agent()?.start()?.leave()?;
    shop.is_under_the_other()?;
    shop.lab.bulkhead(&["detach"])?;
    Ok(())
}

#[test]
fn edited_files_are_read_when_asked_or_when_they_change() -> Result<()> {
    let shop = Shop::new()?;
    let other = POLICY.replace("from = \"web\"", "from = \"ci\"");
    let path = shop.written("policy.toml", POLICY)?;
    let agent = shop.lab.agent_under(&path)?.start()?;
    fs::write(&path, "[workload.web]\n")?;
    agent.reload()?;
    fs::write(&path, &other)?;
    agent.reload()?;
    until("the edited policy is in force", || Ok(shop.ci.tcp(shop.to)? == Outcome::Answered))?;
    shop.is_under_the_other()?;
    agent.stop()?;

    let watching = shop.lab.agent_under(&path)?.settings("reload = \"watch\"\n")?.start()?;
    shop.is_under_the_other()?;
    let new = shop.written("policy.toml.new", POLICY)?;
    fs::rename(new, &path)?;
    until("the changed policy is in force", || Ok(shop.web.tcp(shop.to)? == Outcome::Answered))?;
    shop.is_under_the_first()?;
    // What does not compile leaves the last good one in force.
    fs::write(&path, "[[allow]]\n")?;
    until("status tells that they are not", || {
        Ok(watching.status()?["warnings"].to_string().contains("were read anew, and are not in force"))
    })?;
    shop.is_under_the_first()?;
    watching.stop()?;
    Ok(())
}

#[test]
fn who_reloads_while_a_policy_is_on_trial_waits_for_its_end() -> Result<()> {
    let shop = Shop::new()?;
    let agent = shop.lab.agent(POLICY)?.start()?;
    succeeds(&agent.tell(&["apply", words(&shop.other()?), "--confirm-within", "1h"])?)?;
    agent.reload()?;
    thread::sleep(Duration::from_millis(500));
    ensure!(!agent.status()?["trial"].is_null(), "the trial was ended by somebody who knew nothing of it");
    shop.is_under_the_other()?;
    succeeds(&agent.tell(&["confirm"])?)?;
    until("the files are in force", || Ok(shop.web.tcp(shop.to)? == Outcome::Answered))?;
    shop.is_under_the_first()?;
    agent.stop()?;
    Ok(())
}

#[test]
fn who_says_which_policy_confirms_no_other() -> Result<()> {
    let shop = Shop::new()?;
    let agent = shop.agent()?.start()?;
    let try_out = |policy: PathBuf| -> Result<String> {
        let done = agent.tell(&["apply", words(&policy), "--confirm-within", "1h", "--output", "json"])?;
        let applied: Value = serde_json::from_str(&succeeds(&done)?)?;
        Ok(applied["policy_hash"].as_str().context("no hash")?.to_owned())
    };
    let mine = try_out(shop.other()?)?;
    let theirs = try_out(shop.written("theirs.toml", &POLICY.replace("from = \"web\"", "from = \"db\""))?)?;
    let said = finds(&agent.tell(&["confirm", "--policy-hash", &mine])?)?;
    ensure!(said.contains(&theirs), "{said}");
    ensure!(agent.status()?["trial"] != Value::Null, "the other policy is confirmed");
    for wrong in ["", "no hash"] {
        finds(&agent.tell(&["confirm", "--policy-hash", wrong])?)?;
    }
    succeeds(&agent.tell(&["confirm", "--policy-hash", &theirs[..8]])?)?;
    ensure!(agent.status()?["trial"] == Value::Null, "nothing is confirmed");
    agent.leave()?;
    succeeds(&shop.lab.bulkhead(&["detach"])?)?;
    Ok(())
}

#[test]
fn what_is_only_cut_on_trial_is_not_cut_for_good_unless_forced() -> Result<()> {
    let shop = Shop::new()?;
    let resolver = at(shop.lab.host().v4, 53);
    shop.db.serve(Kind::Tcp, resolver)?;
    let with_names = format!("{POLICY}\n[[allow]]\nfrom = \"web\"\nto = \"db\"\nports = [\"tcp/53\"]\n");
    let agent = shop.lab.agent(&with_names)?.start()?;
    let asks = shop.web.open(Kind::Tcp, Family::V4)?;
    allowed("web's connection to a resolver", asks.connect_and_exchange(resolver)?)?;
    let without = shop.first()?;
    let apply = ["apply", words(&without)];
    let cuts = || -> Result<()> {
        let said = finds(&agent.tell(&apply)?)?;
        ensure!(said.contains("DNS") && said.contains("--force"), "{said}");
        Ok(())
    };
    cuts()?;
    succeeds(&agent.tell(&[&apply[..], &["--force", "--confirm-within", "1h"]].concat())?)?;
    cuts()?;
    ensure!(!agent.status()?["trial"].is_null(), "it is on trial no more");
    succeeds(&agent.tell(&["rollback"])?)?;
    allowed("a question after it", asks.exchange(None)?)?;
    agent.stop()?;
    Ok(())
}

#[test]
fn who_holds_a_connection_is_told_however_many_sockets_there_are() -> Result<()> {
    let shop = Shop::new()?;
    let agent = shop.lab.agent(POLICY)?.with_files(256).start()?;
    let mut sockets = Vec::new();
    for _ in 0..400 {
        let socket = shop.web.open(Kind::Udp, Family::V4)?;
        socket.bind(at(shop.lab.host().v4, 0))?;
        sockets.push(socket);
    }
    let _open = shop.open()?;
    let said = agent.tell(&["plan", words(&shop.other()?), "--output", "json"])?;
    let plan: Value = serde_json::from_str(&finds(&said)?)?;
    let webs = plan["cut"].as_array().into_iter().flatten().find(|cut| cut["workload"] == "web");
    let pid = webs.and_then(|cut| cut["processes"][0]["pid"].as_u64());
    ensure!(pid == Some(shop.web.pid().into()), "{plan}");
    agent.stop()?;
    Ok(())
}

#[test]
fn a_dry_run_is_changed_too_and_remembers_nothing() -> Result<()> {
    let shop = Shop::new()?;
    let agent = shop.agent()?.dry_run().start()?;
    let open = shop.open()?;
    let said = succeeds(&agent.tell(&["apply", words(&shop.other()?)])?)?;
    ensure!(said.contains("would be cut, if that were enforced:"), "{said}");
    allowed("web's connection", open.exchange(None)?)?;
    agent.denials().expect(&json!({ "workload": { "name": "web" }, "verdict": "would-deny" }))?;
    agent.stop()?;
    ensure!(!shop.files.path().join("state/policy.json").exists());
    Ok(())
}

//! `bulkhead top`, in a real terminal.

use std::{ffi::OsStr, fs, net::Ipv4Addr, path::Path};

use anyhow::{Result, ensure};
use bulkhead_tests::{Lab, Terminal, artifact, probe::Kind};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::{
    loopback::{POLICY, PORT},
    verdicts::{allowed, at, refused},
};

fn top(socket: &Path) -> Result<Terminal> {
    Terminal::start(
        artifact::agent()?,
        &[OsStr::new("top"), OsStr::new("--control-socket"), socket.as_os_str()],
    )
}

#[test]
fn a_refusal_is_seen_and_the_rule_that_is_drafted_for_it_lets_it_pass() -> Result<()> {
    let lab = Lab::new()?;
    let files = TempDir::new()?;
    let (web, ci, db) = (lab.probe("/web")?, lab.probe("/ci")?, lab.probe("/db")?);
    let to = at(Ipv4Addr::LOCALHOST, PORT);
    db.serve(Kind::Tcp, to)?;
    let agent = lab.agent(POLICY)?.start()?;
    let mut top = top(agent.control_socket())?;
    top.shows(&["bulkhead top", "enforcing, generation"])?;
    allowed("web to db", web.tcp(to)?)?;
    top.shows(&["web", "→ db", "tcp/5432"])?;
    refused("ci to db", ci.tcp(to)?)?;
    top.shows(&["ci", "→ db", "tcp/5432"])?;

    // The only one of its kind.
    top.types("/ci\r")?;
    top.types("\r")?;
    top.shows(&["ci (dev) → db (prod) 127.0.0.1 tcp/5432: no rule allows it"])?;
    top.shows(&["nearest rule web-db (policy.toml:", "differs in from"])?;
    top.types("a")?;
    top.shows(&["ports = [\"tcp/5432\"]"])?;
    for line in ["from = \"ci\"", "to = \"db\"", "ci may reach db on tcp/5432, and nothing else."] {
        top.shows(&[line])?;
    }
    let file = files.path().join("drafted.toml");
    top.types("w")?;
    top.types(&"\x7f".repeat(40))?;
    top.types(&format!("{}\r", file.display()))?;
    top.shows(&["added to", "drafted.toml"])?;
    top.types("p")?;
    top.shows(&["printed when top ends"])?;
    top.types("q")?;
    let status = top.ends()?;
    ensure!(status.success(), "{status}");
    top.shows(&["from = \"ci\""])?;

    // Until it is applied, nothing has changed.
    refused("ci to db", ci.tcp(to)?)?;
    let policy = files.path().join("policy.toml");
    fs::write(&policy, POLICY)?;
    let arguments = [policy.as_path(), &file].map(|path| path.to_string_lossy().into_owned());
    let applied = agent.tell(&["apply", &arguments[0], &arguments[1]])?;
    ensure!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stdout));
    allowed("ci to db", ci.tcp(to)?)?;
    agent.stop()?;
    Ok(())
}

#[test]
fn an_agent_that_goes_is_missed_and_the_next_one_is_found() -> Result<()> {
    let lab = Lab::new()?;
    let files = TempDir::new()?;
    let socket = files.path().join("control.sock");
    let ci = lab.probe("/ci")?;
    let agent = lab.agent(POLICY)?.answering_at(&socket).start()?;
    let top = &mut top(&socket)?;
    top.shows(&["enforcing, generation"])?;
    agent.stop()?;
    top.shows(&["no agent answers on", "asking again"])?;
    let agent = lab.agent(POLICY)?.answering_at(&socket).start()?;
    top.shows(&["packets/s", "refusals/s"])?;
    top.shows(&["q quit"])?;
    // It follows the new one's refusals a moment later.
    bulkhead_tests::pace::until("the new agent's refusals are seen", || {
        refused("ci to nobody", ci.tcp(at(Ipv4Addr::LOCALHOST, 9))?)?;
        Ok(top.text().contains("tcp/9"))
    })?;
    top.signal(Signal::SIGTERM)?;
    let status = top.ends()?;
    ensure!(status.success(), "{status}");
    agent.stop()?;
    Ok(())
}

#[test]
fn without_an_agent_it_says_so_and_gives_the_prompt_back() -> Result<()> {
    let files = TempDir::new()?;
    let mut top = top(&files.path().join("control.sock"))?;
    let status = top.ends()?;
    ensure!(status.code() == Some(1), "{status}");
    top.shows(&["error: no agent answers on"])?;
    Ok(())
}

//! What an agent records of the demo's attempts is what `bulkhead simulate` makes of them: one function decides in the
//! kernel and there.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context as _, Result, ensure};
use bulkhead_tests::{Denials, Lab, Outcome, artifact, probe::Kind};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::verdicts::{allowed, at, blocked, refused};

/// What `cargo xtask demo` shows.
fn demo() -> Result<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies/demo.toml");
    path.canonicalize().context("policies/demo.toml is missing")
}

/// The demo's attempts under its policy: all that the agent says of them.
fn run(dry_run: bool) -> Result<Denials> {
    let lab = Lab::new()?;
    // In this order they get the addresses that the policy names.
    let [web, db, customer, mirror] = [lab.network()?, lab.network()?, lab.network()?, lab.network()?];
    let in_web = lab.probe_in("/prod/web", &web)?;
    let in_db = lab.probe_in("/prod/db", &db)?;
    let [secrets, backup, ci] =
        [lab.probe("/prod/secrets")?, lab.probe("/prod/backup")?, lab.probe("/dev/ci")?];
    let (customers, mirrors) = (lab.stranger(&customer)?, lab.stranger(&mirror)?);
    let vault = at([127, 0, 0, 1], 8200);
    let [shop, database, packages, afar] =
        [at(web.v4, 80), at(db.v4, 5432), at(mirror.v4, 80), at(customer.v4, 80)];
    for (server, address) in
        [(&in_web, shop), (&in_db, database), (&secrets, vault), (&mirrors, packages), (&customers, afar)]
    {
        server.serve(Kind::Tcp, address)?;
        server.serve(Kind::Udp, address)?;
    }
    let launch = lab.agent_under(&demo()?)?;
    let agent = if dry_run { launch.dry_run() } else { launch }.start()?;

    allowed("customer to web", customers.tcp(shop)?)?;
    allowed("web to db", in_web.tcp(database)?)?;
    allowed("backup to secrets", backup.tcp(vault)?)?;
    allowed("ci to mirror", ci.tcp(packages)?)?;
    let [refused, blocked]: [fn(&str, Outcome) -> Result<()>; 2] =
        if dry_run { [allowed, allowed] } else { [refused, blocked] };
    refused("ci to secrets", ci.tcp(vault)?)?;
    refused("ci to secrets, udp", ci.udp(vault)?)?;
    refused("ci to db", ci.tcp(database)?)?;
    refused("web to customer", in_web.tcp(afar)?)?;
    refused("ci to mirror, ping", ci.ping(mirror.v4)?)?;
    refused("ci to mirror, ping over IPv6", ci.ping(mirror.v6)?)?;
    blocked("customer to db", customers.tcp(database)?)?;
    blocked("customer to web, udp", customers.udp(shop)?)?;
    // The last ones are there once the agent has ended.
    agent.stop()
}

/// As the agent printed them.
fn record(denials: &Denials, folder: &TempDir) -> Result<PathBuf> {
    let mut lines = String::new();
    for denial in denials.all()? {
        writeln!(lines, "{}", denial.record)?;
    }
    let path = folder.path().join("flows.jsonl");
    fs::write(&path, lines)?;
    Ok(path)
}

fn simulate(policy: &Path, flows: &Path, more: &[&str]) -> Result<Output> {
    let mut command = Command::new(artifact::agent()?);
    command.arg("simulate").arg(policy).arg("--flows").arg(flows).args(more);
    Ok(command.args(["--output", "json"]).output()?)
}

fn report(output: &Output) -> Result<Value> {
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(said.is_empty(), "bulkhead simulate: {}\n{said}", output.status);
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Wants each recorded verdict reproduced, and at least this many flows.
fn reproduces(output: &Output, least: u64, verdict: &str) -> Result<()> {
    let report = report(output)?;
    ensure!(output.status.code() == Some(0), "{}: {report:#}", output.status);
    ensure!(report["changes"] == json!([]) && report["total"]["changed"] == 0, "{report:#}");
    ensure!(report["bad_lines"] == 0 && report["unattributed"] == 0, "{report:#}");
    let flows = report["total"][verdict].as_u64().context("no total")?;
    ensure!(flows >= least && report["total"]["allowed"] == 0, "at least {least} {verdict}: {report:#}");
    Ok(())
}

#[test]
fn a_recorded_run_is_reproduced_and_a_changed_policy_is_told_from_it() -> Result<()> {
    let folder = TempDir::new()?;
    let denials = run(false)?;
    for (workload, peer) in [("ci", "secrets"), ("ci", "db"), ("web", "customers"), ("db", "customers")] {
        let wanted = json!({"verdict": "denied", "workload": {"name": workload}, "peer": {"name": peer}});
        ensure!(!denials.matching(&wanted)?.is_empty(), "{workload} and {peer} were not recorded:{denials}");
    }
    let flows = record(&denials, &folder)?;
    // Pings are refused as raw sockets, which are no flows.
    reproduces(&simulate(&demo()?, &flows, &[])?, 6, "denied")?;

    // Whoever gets a rule is told of, and nobody else.
    let rule = "\n[[allow]]\nfrom = \"web\"\nto = \"customers\"\nports = [\"tcp/80\"]\n";
    let edited = folder.path().join("edited.toml");
    fs::write(&edited, fs::read_to_string(demo()?)? + rule)?;
    let output = simulate(&edited, &flows, &[])?;
    let report = report(&output)?;
    ensure!(output.status.code() == Some(1), "{}: {report:#}", output.status);
    let changes = report["changes"].as_array().context("no changes")?;
    let [change] = &changes[..] else { anyhow::bail!("one change: {report:#}") };
    let wanted = json!({"from": "web", "to": "customers", "service": "tcp/80", "before": "denied", "after": "allowed",
                        "count": change["count"]});
    assert_eq!(change, &wanted);
    // Against the old policy it is the same.
    let old = demo()?;
    let against = simulate(&edited, &flows, &["--against", old.to_str().context("no text")?])?;
    assert_eq!(self::report(&against)?["changes"], json!([wanted]));
    assert_eq!(against.status.code(), Some(1));
    Ok(())
}

#[test]
fn a_recorded_dry_run_is_reproduced_as_one() -> Result<()> {
    let folder = TempDir::new()?;
    let flows = record(&run(true)?, &folder)?;
    reproduces(&simulate(&demo()?, &flows, &["--dry-run"])?, 8, "would_deny")?;
    // Enforced, each of them would be refused.
    let output = simulate(&demo()?, &flows, &[])?;
    let total = &report(&output)?["total"];
    ensure!(output.status.code() == Some(1) && total["changed"] == total["denied"], "{total:#}");
    Ok(())
}

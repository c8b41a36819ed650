//! Nobody reads what the agent says on standard error.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use bulkhead_tests::{
    Lab,
    pace::{stretched, until},
};
use serde_json::json;

use crate::{
    export::{Metrics, with_metrics},
    verdicts::{at, refused},
};

/// Mistakes in a policy that is read again and again: what the agent says of it is longer than a page.
const MISTAKES: usize = 100;
/// How long it may take until more is said than a pipe has room for and the agent keeps.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn a_log_that_nobody_reads_holds_nobody_up() -> Result<()> {
    let lab = Lab::new()?;
    let ci = lab.probe("/ci")?;
    let mut agent = with_metrics(&lab)?;
    let lost = || Metrics::of(&lab)?.value("bulkhead_log_lines_lost_total");
    agent.read(false);
    fs::write(agent.policy_file(), "[nobody]\n".repeat(MISTAKES))?;
    let end = Instant::now() + stretched(PATIENCE);
    while lost()? == 0 {
        ensure!(Instant::now() < end, "not a line is lost");
        agent.reload()?;
    }
    refused("ci", ci.tcp(at([198, 51, 100, 1], 443))?)?;
    agent.denials().expect(&json!({ "peer": { "port": 443 } }))?;
    let told = agent.status()?["warnings"].to_string();
    ensure!(told.contains("nobody has read its standard error"), "{told}");
    agent.read(true);
    let of_all = lost()?;
    let said = format!("lines={of_all}");
    until("the log says what is lost", || Ok(agent.said().lines().any(|line| line.ends_with(&said))))?;
    // One that is to stop does, whoever reads.
    agent.read(false);
    agent.stop()?;
    Ok(())
}

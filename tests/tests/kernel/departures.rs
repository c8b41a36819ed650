//! A process that leaves its workload does not do so unseen.

use anyhow::{Result, bail, ensure};
use bulkhead_tests::pace::until;
use serde_json::{Value, json};

use crate::{Case, Skip, site::Site};

pub(crate) const CASES: &[Case] = &[
    ("departures::a_process_that_leaves_its_workload_is_reported", leaving_is_reported),
    ("departures::a_process_that_stays_in_its_workload_is_not", staying_is_not),
];

/// Skips the test where the agent says that it cannot tell.
fn needs_watching(site: &Site) -> Result<()> {
    let status = site.agent().status()?;
    let mut warnings = status["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str);
    match warnings.find(|warning| warning.contains("moved out of their workload are not reported")) {
        None => Ok(()),
        Some(why) => {
            eprintln!("{why}");
            bail!(Skip("the kernel traces no functions by BPF programs"))
        }
    }
}

fn departures(site: &Site) -> Result<(u64, Value)> {
    let events = site.agent().status()?["events"].clone();
    Ok((events["departures"].as_u64().unwrap_or(0), events["last_departure"].clone()))
}

fn leaving_is_reported(site: &Site) -> Result<()> {
    needs_watching(site)?;
    let lab = site.lab();
    for (to, workload) in [("/other", Value::Null), ("/web", json!("web"))] {
        let (before, _) = departures(site)?;
        let ci = lab.probe("/ci/nested")?;
        ci.move_to(&lab.cgroup(to)?)?;
        let expected = json!({
            "pid": ci.pid(), "comm": "bulkhead-probe", "from": "ci", "from_cgroup": "/ci/nested",
            "to": workload, "to_cgroup": to, "by_pid": ci.pid(), "by_comm": "bulkhead-probe",
        });
        until(&format!("{expected}"), || Ok(departures(site)? == (before + 1, expected.clone())))?;
    }
    Ok(())
}

fn staying_is_not(site: &Site) -> Result<()> {
    needs_watching(site)?;
    let lab = site.lab();
    let (before, _) = departures(site)?;
    let (ci, nobody) = (lab.probe("/ci")?, lab.probe("/other")?);
    ci.move_to(&lab.cgroup("/ci/deeper")?)?;
    // Who comes leaves nothing.
    nobody.move_to(&lab.cgroup("/web")?)?;
    nobody.move_to(&lab.cgroup("/other")?)?;
    until("the last move", || Ok(departures(site)?.0 > before))?;
    let (after, last) = departures(site)?;
    ensure!(after == before + 1 && last["from"] == "web", "{after} after {before}: {last}");
    Ok(())
}

//! Killed in the midst of an apply.

use std::{
    fs,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};
use bulkhead_tests::{
    Agent, Outcome, artifact,
    probe::{Family, Kind},
};

use crate::changes::Shop;

/// How often an agent is killed.
const KILLS: u64 = 100;
/// An apply is over within this time.
const APPLY: Duration = Duration::from_millis(120);

#[test]
fn killed_at_any_moment_of_an_apply_it_leaves_one_policy_or_the_other() -> Result<()> {
    let shop = Shop::new()?;
    let spy = shop.lab.probe("/spy")?;
    let first = shop.written("policy.toml", &with_spy(&shop.first()?)?)?;
    let other = shop.written("other.toml", &with_spy(&shop.other()?)?)?;
    let start = || -> Result<Agent> {
        let agent = shop.lab.agent_under(&first)?.kept()?.with_state(&shop.files.path().join("state"));
        agent.start()
    };
    let [mut under_first, mut under_other] = [0; 2];
    for n in 0..KILLS {
        let mut agent = start()?;
        ensure!(!agent.said().contains("makes no sense"), "round {n}: {}", agent.said());
        // To the one that is not in force.
        let is_first = shop.web.tcp(shop.to)? == Outcome::Answered;
        let mut apply = Command::new(artifact::agent()?)
            .arg("apply")
            .arg(if is_first { &other } else { &first })
            .arg("--control-socket")
            .arg(agent.control_socket())
            .args(if n % 3 == 0 { &["--confirm-within", "1h"][..] } else { &[] })
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        // Each time another moment, all of them covered evenly.
        thread::sleep(APPLY * u32::try_from(n * 37 % KILLS)? / u32::try_from(KILLS)?);
        agent.kill()?;
        apply.wait()?;
        let passes = [&shop.web, &shop.ci].map(|probe| probe.udp(shop.to));
        let [web, ci] = passes.map(|outcome| outcome.map(|outcome| outcome == Outcome::Answered));
        let (web, ci) = (web?, ci?);
        ensure!(web != ci, "round {n}: web {web}, ci {ci}");
        if web {
            under_first += 1;
        } else {
            under_other += 1;
        }
        let taken = spy.open(Kind::Udp, Family::V4)?.repeat(&[shop.to], vec![0; 10], 50)?;
        ensure!(taken == 0, "round {n}: {taken} datagrams of the spy were taken");
    }
    ensure!(under_first > 0 && under_other > 0, "{under_first} and {under_other}: no apply got through");
    shop.lab.bulkhead(&["detach"])?;
    Ok(())
}

fn with_spy(policy: &std::path::Path) -> Result<String> {
    let spy = "\n[workload.spy]\nenvironment = \"dev\"\nselect = { cgroup = \"/spy\" }\n";
    Ok(fs::read_to_string(policy)? + spy)
}

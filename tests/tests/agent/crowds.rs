//! Many cgroups: more than the kernel's tables have room for, and as many that are gone.

use std::{
    fs,
    net::Ipv4Addr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use bulkhead_tests::{Lab, Probe, probe::Kind};

use crate::verdicts::{allowed, at, refused};

const PORT: u16 = 5432;

const POLICY: &str = r#"
[workload.job]
select = { cgroup = "/jobs/job-*" }
"#;

/// More than a generation has room for beside what it begins with.
const CROWD: u32 = 8_500;

/// How long the agent may take to catch up with all of them.
const CATCHING_UP: Duration = Duration::from_mins(1);

#[test]
fn a_cgroup_that_finds_no_room_is_refused_until_the_agent_makes_some() -> Result<()> {
    let lab = Lab::new()?;
    let server = lab.probe("/older")?;
    let to = at(Ipv4Addr::LOCALHOST, PORT);
    server.serve(Kind::Tcp, to)?;
    let older = lab.probe("/older")?;
    let jobs = lab.cgroup("/jobs")?;
    let agent = lab.agent(POLICY)?.start()?;

    let paused = agent.pause()?;
    for number in 0..CROWD {
        fs::create_dir(jobs.path().join(format!("job-{number}")))?;
    }
    let with_room = lab.probe("/jobs/job-7")?;
    let without = lab.probe(&format!("/jobs/job-{}", CROWD - 1))?;
    let newer = lab.probe("/newer")?;
    refused("a job that found room", with_room.tcp(to)?)?;
    refused("a job that found none", without.tcp(to)?)?;
    refused("who is as new and in no workload: that cannot be told", newer.tcp(to)?)?;
    allowed("who is older and in no workload", older.tcp(to)?)?;
    drop(paused);

    let end = Instant::now() + CATCHING_UP;
    while newer.tcp(to)?.is_blocked() {
        ensure!(Instant::now() < end, "the agent has made no room");
        thread::sleep(Duration::from_millis(100));
    }
    let jobs: [(&str, &Probe); 2] = [("found room", &with_room), ("found none", &without)];
    for (which, job) in jobs {
        refused(&format!("the job that {which}, once there is room"), job.tcp(to)?)?;
    }
    refused("a new job", lab.probe("/jobs/job-new")?.tcp(to)?)?;
    allowed("who is new and in no workload", lab.probe("/newest")?.tcp(to)?)?;
    agent.stop()?;
    Ok(())
}

#[test]
fn the_kernel_forgets_cgroups_that_are_gone() -> Result<()> {
    let lab = Lab::new()?;
    let server = lab.probe("/older")?;
    let to = at(Ipv4Addr::LOCALHOST, PORT);
    server.serve(Kind::Tcp, to)?;
    let jobs = lab.cgroup("/jobs")?;
    let agent = lab.agent(POLICY)?.start()?;
    let _paused = agent.pause()?;
    for number in 0..CROWD {
        let job = jobs.path().join(format!("job-{number}"));
        fs::create_dir(&job)?;
        fs::remove_dir(&job)?;
    }
    refused("a job", lab.probe("/jobs/job-last")?.tcp(to)?)?;
    allowed("who is new and in no workload: there is room", lab.probe("/newer")?.tcp(to)?)?;
    Ok(())
}

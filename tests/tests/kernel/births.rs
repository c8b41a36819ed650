//! A cgroup is identified before anything can run in it, by the kernel alone.

use std::{fs, net::Ipv4Addr, os::unix::fs::chown, thread, time::Duration};

use anyhow::{Result, ensure};
use bulkhead_tests::{
    Probe,
    cgroup::Cgroup,
    pace::fewer,
    probe::{Family, Kind},
    scene::PORT,
    verdicts::{Expected, at},
};

use crate::{Case, site::Site};

pub(crate) const CASES: &[Case] = &[
    ("births::a_new_cgroup_is_somebody_from_the_first", a_new_cgroup_is_somebody_from_the_first),
    ("births::a_new_cgroup_is_somebody_without_the_agent", a_new_cgroup_is_somebody_without_the_agent),
    ("births::a_new_cgroup_of_nobody_is_left_alone", a_new_cgroup_of_nobody_is_left_alone),
    ("births::a_delegated_name_changes_nothing", a_delegated_name_changes_nothing),
    ("births::a_socket_outlives_its_cgroup_as_what_it_was", a_socket_outlives_its_cgroup_as_what_it_was),
];

/// How many cgroups, of all kinds together.
const MANY: u32 = 1_000;

/// A process in no workload, and a server in none that it can reach.
fn caller_and_server(site: &Site) -> Result<(Probe, Cgroup, Probe)> {
    let home = site.lab().cgroup("/other")?;
    let server = site.lab().probe("/other")?;
    server.serve(Kind::Tcp, at(Ipv4Addr::LOCALHOST, PORT))?;
    Ok((site.lab().probe("/other")?, home, server))
}

/// Visits to new cgroups of each kind, of which none may get through.
fn refuse_all(site: &Site) -> Result<()> {
    let (caller, home, _server) = caller_and_server(site)?;
    let to = at(Ipv4Addr::LOCALHOST, PORT);
    // By the beginning of a name, by its beginning and end, and somewhere further down.
    let kinds = [("/jobs", "job-", ""), ("/jobs", "task-", ".scope"), ("/jobs/deep", "x-", "")];
    let count = fewer(MANY).div_ceil(3);
    for (parent, name, ending) in kinds {
        let parent = site.lab().cgroup(parent)?;
        let (through, refused) = caller.visit((&parent, name, ending), count, &home, to)?;
        ensure!(
            (through, refused) == (0, count),
            "{name}*{ending}: {through} of {count} got through, {refused} were refused"
        );
    }
    Ok(())
}

fn a_new_cgroup_is_somebody_from_the_first(site: &Site) -> Result<()> {
    refuse_all(site)
}

fn a_new_cgroup_is_somebody_without_the_agent(site: &Site) -> Result<()> {
    site.lab().cgroup("/jobs/deep")?;
    let _paused = site.agent().pause()?;
    refuse_all(site)
}

fn a_new_cgroup_of_nobody_is_left_alone(site: &Site) -> Result<()> {
    let (caller, home, _server) = caller_and_server(site)?;
    let parent = site.lab().cgroup("/jobs")?;
    let count = fewer(MANY).div_ceil(2);
    for ending in ["", ".service"] {
        let to = at(Ipv4Addr::LOCALHOST, PORT);
        let (through, refused) = caller.visit((&parent, "task-", ending), count, &home, to)?;
        ensure!((through, refused) == (count, 0), "task-*{ending}: {refused} of {count} were refused");
    }
    Ok(())
}

/// Below ci somebody other than root makes a cgroup that would be db if root had made it.
fn a_delegated_name_changes_nothing(site: &Site) -> Result<()> {
    const NOBODY: u32 = 65_534;
    let lab = site.lab();
    let db = lab.probe("/db")?;
    db.serve(Kind::Tcp, at(Ipv4Addr::LOCALHOST, PORT))?;
    for (parent, owner, expected) in
        [("/ci/of-root", None, Expected::Allowed), ("/ci/of-another", Some(NOBODY), Expected::Refused)]
    {
        let parent_cgroup = lab.cgroup(parent)?;
        chown(parent_cgroup.path(), owner, owner)?;
        let paused = site.agent().pause()?;
        let named = lab.probe(&format!("{parent}/a-very-secret-web"))?;
        expected.check(&format!("a connection from {parent}"), named.tcp(at(Ipv4Addr::LOCALHOST, PORT))?)?;
        drop(paused);
        // The agent sees it no otherwise.
        thread::sleep(Duration::from_millis(200));
        expected.check(&format!("again from {parent}"), named.tcp(at(Ipv4Addr::LOCALHOST, PORT))?)?;
    }
    Ok(())
}

fn a_socket_outlives_its_cgroup_as_what_it_was(site: &Site) -> Result<()> {
    let lab = site.lab();
    let elsewhere = lab.stranger(site.stranger())?;
    let server = elsewhere.serve(Kind::Udp, at(site.stranger().v4, PORT))?;
    let cgroup = lab.cgroup("/jobs/job-gone")?;
    let caller = lab.probe("/jobs/job-gone")?;
    let socket = caller.open(Kind::Udp, Family::V4)?;
    caller.move_to(&lab.cgroup("/other")?)?;
    fs::remove_dir(cgroup.path())?;
    thread::sleep(Duration::from_millis(200));
    Expected::Blocked.check("a socket whose cgroup is gone", socket.exchange(Some(server.address))?)
}

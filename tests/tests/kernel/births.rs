//! A cgroup is identified before anything can run in it, by the kernel alone.

use std::{fs, net::Ipv4Addr, os::unix::fs::chown, thread, time::Duration};

use anyhow::{Result, ensure};
use bulkhead_tests::{
    Probe,
    cgroup::Cgroup,
    probe::{Family, Kind},
    scene::PORT,
    verdicts::{Expected, at},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{Case, site::Site};

pub(crate) const CASES: &[Case] = &[
    ("births::a_new_cgroup_is_somebody_from_the_first", a_new_cgroup_is_somebody_from_the_first),
    ("births::a_new_cgroup_is_somebody_without_the_agent", a_new_cgroup_is_somebody_without_the_agent),
    ("births::a_new_cgroup_of_nobody_is_left_alone", a_new_cgroup_of_nobody_is_left_alone),
    ("births::a_delegated_name_changes_nothing", a_delegated_name_changes_nothing),
    ("births::a_socket_outlives_its_cgroup_as_what_it_was", a_socket_outlives_its_cgroup_as_what_it_was),
];

/// How many cgroups.
const MANY: u32 = 1_000;

/// An agent that does not run for a while.
struct Stopped(Pid);

impl Stopped {
    fn new(site: &Site) -> Result<Self> {
        let pid = Pid::from_raw(i32::try_from(site.agent().pid())?);
        kill(pid, Signal::SIGSTOP)?;
        Ok(Self(pid))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // It cannot be gone: its parent has not waited for it.
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

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
    // By the beginning of a name, by its beginning and end, as a unit, and further down where two are made at once.
    let kinds = [("/jobs", "job-", ""), ("/jobs", "task-", ".scope"), ("/jobs/deep", "x-", "")];
    for (parent, name, ending) in kinds {
        let parent = site.lab().cgroup(parent)?;
        let (through, refused) = caller.visit((&parent, name, ending), MANY, &home, to)?;
        ensure!(
            (through, refused) == (0, MANY),
            "{name}*{ending}: {through} of {MANY} got through, {refused} were refused"
        );
    }
    Ok(())
}

fn a_new_cgroup_is_somebody_from_the_first(site: &Site) -> Result<()> {
    refuse_all(site)
}

fn a_new_cgroup_is_somebody_without_the_agent(site: &Site) -> Result<()> {
    site.lab().cgroup("/jobs/deep")?;
    let _stopped = Stopped::new(site)?;
    refuse_all(site)
}

fn a_new_cgroup_of_nobody_is_left_alone(site: &Site) -> Result<()> {
    let (caller, home, _server) = caller_and_server(site)?;
    let parent = site.lab().cgroup("/jobs")?;
    for ending in ["", ".service"] {
        let to = at(Ipv4Addr::LOCALHOST, PORT);
        let (through, refused) = caller.visit((&parent, "task-", ending), MANY, &home, to)?;
        ensure!((through, refused) == (MANY, 0), "task-*{ending}: {refused} of {MANY} were refused");
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
        let stopped = Stopped::new(site)?;
        let named = lab.probe(&format!("{parent}/a-very-secret-web"))?;
        expected.check(&format!("a connection from {parent}"), named.tcp(at(Ipv4Addr::LOCALHOST, PORT))?)?;
        drop(stopped);
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

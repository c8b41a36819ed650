//! The BPF file system goes, in which all is pinned: what is enforced stays so while the agent lives, and is pinned again as soon
//! as there is a place for it.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};
use bulkhead_tests::{
    Agent, Outcome,
    pace::until,
    probe::{Family, Kind},
};

use crate::{
    survival::Host,
    verdicts::{allowed, refused},
};

/// Datagrams at a time.
const MANY: u32 = 50;
const PAUSE: Duration = Duration::from_millis(2);
/// The agent has looked after its pins more than once: every two seconds.
const LOOKED: Duration = Duration::from_secs(7);

impl Host {
    fn mount(&self) -> Result<()> {
        self.lab.in_office(&["mount", "-t", "bpf", "-o", "mode=700", "bpf"]).map(drop)
    }

    fn unmount(&self) -> Result<()> {
        self.lab.in_office(&["umount", "--lazy"]).map(drop)
    }

    fn is_enforced(&self, when: &str) -> Result<()> {
        refused(&format!("ci to db {when}"), self.ci.tcp(self.to)?)?;
        allowed(&format!("web to db {when}"), self.web.tcp(self.to)?)?;
        // Who is made now is what its name says.
        refused(&format!("ci's child to db {when}"), self.lab.probe("/ci/child")?.tcp(self.to)?)
    }

    fn is_not_enforced(&self) -> Result<()> {
        // A file system lets go of what was pinned in its own time.
        until("ci reaches db", || Ok(self.ci.tcp(self.to)? == Outcome::Answered))?;
        ensure!(self.attached()? == 0, "programs are left attached");
        Ok(())
    }
}

fn warns(agent: &Agent, of: &str) -> Result<bool> {
    Ok(agent.status()?["warnings"].to_string().contains(of))
}

#[test]
fn unmounted_under_an_agent_it_takes_nothing_with_it_and_all_is_pinned_in_the_next() -> Result<()> {
    let host = Host::new()?;
    let agent = host.start()?;
    let attacker = host.lab.probe("/ci")?;
    let (to, ended) = (host.to, AtomicBool::new(false));
    let ended = &ended;
    thread::scope(|scope| -> Result<()> {
        let forbidden = scope.spawn(move || -> Result<u32> {
            let attacker = attacker.open(Kind::Udp, Family::V4)?;
            let mut tries = 0;
            while !ended.load(Ordering::Relaxed) {
                let taken = attacker.repeat(&[to], vec![0; 10], MANY)?;
                ensure!(taken == 0, "{taken} forbidden datagrams were taken after {tries}");
                tries += MANY;
                thread::sleep(PAUSE);
            }
            Ok(tries)
        });
        let done = unmount_and_mount(&host, agent);
        ended.store(true, Ordering::Relaxed);
        let tries = forbidden.join().expect("no panic")?;
        done?;
        ensure!(tries > 1_000, "too little traffic: {tries}");
        Ok(())
    })?;
    host.detach()?;
    host.is_not_enforced()
}

fn unmount_and_mount(host: &Host, mut agent: Agent) -> Result<()> {
    ensure!(host.lab.in_office(&["umount"]).is_err(), "who does not insist is told that it is in use");
    host.unmount()?;
    host.is_enforced("without the file system")?;
    until("the agent says so", || warns(&agent, "no BPF file system is mounted at"))?;
    host.mount()?;
    until("all is pinned anew", || Ok(!warns(&agent, "no BPF file system is mounted at")?))?;
    ensure!(agent.said().contains("pinned all anew"), "{}", agent.said());
    host.is_enforced("in the next file system")?;
    agent.kill()?;
    host.is_enforced("with no agent")?;
    let mut next = host.start()?;
    let said = next.said();
    ensure!(!said.lines().any(|line| line.contains("cannot") && line.contains("pin")), "{said}");
    host.is_enforced("under the next agent")?;
    next.leave()
}

#[test]
fn covered_by_another_it_hides_nothing_from_detach() -> Result<()> {
    let host = Host::new()?;
    let mut agent = host.start()?;
    host.mount()?;
    until("all is pinned in what covers it", || Ok(agent.said().contains("pinned all anew")))?;
    host.is_enforced("in the second file system")?;
    host.detach()?;
    host.is_not_enforced()?;
    until("the agent says so", || warns(&agent, "nothing is enforced any more"))?;
    agent.kill()
}

#[test]
fn pins_that_are_removed_after_a_while_are_missed() -> Result<()> {
    let host = Host::new()?;
    let agent = host.start()?;
    thread::sleep(LOOKED);
    host.is_enforced("as ever")?;
    ensure!(!warns(&agent, "nothing is enforced any more")?, "{}", agent.status()?);
    host.detach()?;
    host.is_not_enforced()?;
    until("the agent says so", || warns(&agent, "nothing is enforced any more"))?;
    agent.kill()
}

#[test]
fn an_agent_that_cannot_leave_its_work_behind_says_so() -> Result<()> {
    let host = Host::new()?;
    let agent = host.start()?;
    host.unmount()?;
    host.is_enforced("without the file system")?;
    let said = agent.end()?;
    ensure!(said.contains(r#""enforcing":false"#) && said.contains("ends with the agent"), "{said}");
    host.is_not_enforced()
}

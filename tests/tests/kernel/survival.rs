//! What an agent has pinned is at work without it, and the next agent takes it over.

use anyhow::{Result, ensure};
use bulkhead_tests::{
    Lab, agent,
    probe::{Family, Kind},
    scene::{POLICY, PORT},
    verdicts::{allowed, at, refused},
};

use crate::{Case, site::Site};

pub(crate) const CASES: &[Case] =
    &[("survival::with_no_agent_alive_the_kernel_goes_on_and_the_next_takes_over", killed_and_followed)];

fn killed_and_followed(_: &Site) -> Result<()> {
    let lab = Lab::new()?;
    let (web, ci, db) = (lab.probe("/web")?, lab.probe("/ci")?, lab.probe("/db")?);
    let to = at(lab.host().v4, PORT);
    db.serve(Kind::Tcp, to)?;
    lab.agent(POLICY)?.kept()?.start()?.kill()?;
    refused("ci to db with no agent", ci.tcp(to)?)?;
    allowed("web to db with no agent", web.tcp(to)?)?;
    // Whoever is made meanwhile is what its name says.
    let nested = lab.probe("/ci/nested")?;
    refused("a new cgroup of ci's to db with no agent", nested.tcp(to)?)?;

    let flow = web.open(Kind::Tcp, Family::V4)?;
    allowed("web to db", flow.connect_and_exchange(to)?)?;
    let before = agent::attached(lab.root()?.path())?;
    let second = lab.agent(POLICY)?.kept()?.start()?;
    let after = agent::attached(lab.root()?.path())?;
    ensure!(before.len() == after.len(), "attached were {before:?}, and are {after:?}");
    allowed("web's connection under the second agent", flow.exchange(None)?)?;
    refused("ci to db under the second agent", ci.tcp(to)?)?;
    second.leave()?;
    refused("ci to db after the second agent", ci.tcp(to)?)?;

    let detached = lab.bulkhead(&["detach"])?;
    ensure!(detached.status.success(), "{}", String::from_utf8_lossy(&detached.stderr));
    let left = agent::attached(lab.root()?.path())?;
    ensure!(left.is_empty(), "programs are left attached: {left:?}");
    // At once: whoever detaches takes the command's word for it.
    allowed("ci to db", ci.tcp(to)?)
}

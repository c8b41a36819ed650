//! As many refused sends as one processor makes.

use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use bulkhead_tests::cost::processor_time;

use crate::{
    figure::Figure,
    ground::{Ground, Guard},
    sizes::peer,
};

/// How long.
const LASTS: Duration = Duration::from_secs(10);
/// Different peers and ports.
const PEERS: u32 = 100;
const PORTS: u16 = 10;
/// Between two looks at the clock.
const AT_ONCE: u32 = 20_000;

pub(crate) fn measure() -> Result<()> {
    eprintln!("==> refused sends for {} s", LASTS.as_secs());
    let ground = Ground::new(Guard::bulkhead)?;
    let agent = ground.agent().context("no agent")?;
    let peers: Vec<_> =
        (0..PEERS).flat_map(|p| (0..PORTS).map(move |port| (peer(p), 1_000 + port).into())).collect();
    let socket = ground.datagrams()?;
    let (busy, start) = (processor_time(agent.pid())?, Instant::now());
    let (mut tried, mut taken) = (0_u64, 0_u64);
    while start.elapsed() < LASTS {
        taken += u64::from(socket.repeat(&peers, vec![0; 32], AT_ONCE)?);
        tried += u64::from(AT_ONCE);
    }
    let took = start.elapsed().as_secs_f64();
    let busy = processor_time(agent.pid())?.saturating_sub(busy).as_secs_f64();
    // What has been suppressed meanwhile is told within a second.
    thread::sleep(Duration::from_secs(2));
    let counted =
        agent.status()?["traffic"]["refused_calls"].as_u64().context("no count of refused calls")?;
    let lines = agent.denials().all()?;
    let seen: BTreeSet<String> = lines
        .iter()
        .map(|denial| format!("{}:{}", denial.record["peer"]["address"], denial.record["peer"]["port"]))
        .collect();
    #[expect(clippy::cast_precision_loss, reason = "millions")]
    let (rate, missing) = (tried as f64 / took / 1e6, (counted.abs_diff(tried) + taken) as f64);
    #[expect(clippy::cast_precision_loss, reason = "a thousand")]
    let (seen, all) = (seen.len() as f64, peers.len() as f64);
    Figure::new("refused sends", rate, "million/s", 2).print()?;
    Figure::new("of them taken, or counted wrong", missing, "", 0).at_most(0.0).print()?;
    Figure::new("the agent meanwhile", busy / took * 100.0, "% of a core", 1).at_most(10.0).print()?;
    Figure::new("distinct peers and ports reported", seen, "", 0).at_least(all).print()?;
    drop(socket);
    ground.end()
}

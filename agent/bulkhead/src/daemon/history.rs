//! What was refused and what has passed, kept in the state directory.

use std::{fs, io};

use bulkhead_datapath::{Kinds, Tally};
use bulkhead_report::{Count, Counted, Feed, Flow, History, Policies, Writing};

use crate::settings::Settings;

/// Begins to keep it, if it is to be kept; `flows` gets what is.
pub(super) fn start(
    settings: &Settings,
    tally: Tally,
    policies: Policies,
    flows: &Feed<Flow>,
) -> io::Result<Option<(History, Writing)>> {
    let Some(limits) = settings.history else { return Ok(None) };
    let mut origin = None;
    let count: Count = Box::new(move || count(&tally, &mut origin).map_err(|error| format!("{error:#}")));
    History::start(settings.state_dir.clone(), limits, policies, count, flows.clone()).map(Some)
}

/// `origin`: as far as it is known.
fn count(tally: &Tally, origin: &mut Option<String>) -> anyhow::Result<Counted> {
    let origin = match origin {
        Some(known) => known.clone(),
        none => none.insert(name(tally)?).clone(),
    };
    let Kinds { counted, ended } = tally.kinds()?;
    Ok(Counted { origin, counted, ended })
}

/// Names the counters. Numbers of maps begin anew with each boot.
fn name(tally: &Tally) -> anyhow::Result<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(format!("{} {}", boot.trim(), tally.map_id()?))
}

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
    let count: Count = Box::new(move || count(&tally).map_err(|error| format!("{error:#}")));
    History::start(settings.state_dir.clone(), limits, policies, count, flows.clone()).map(Some)
}

fn count(tally: &Tally) -> anyhow::Result<Counted> {
    // Numbers of maps begin anew with each boot.
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let origin = format!("{} {}", boot.trim(), tally.map_id()?);
    let Kinds { counted, ended } = tally.kinds()?;
    Ok(Counted { origin, counted, ended })
}

//! What is counted now.

use std::cmp::Reverse;

use bulkhead_datapath::Tally;
use bulkhead_report::{Flow, Policies};
use jiff::Timestamp;

use super::Enforcement;
use crate::{
    control::{CurrentTraffic, Refusal, Reply, WantedTraffic},
    daemon::priority,
};

impl Enforcement {
    /// Tells of all kinds of traffic, on another thread: to go through them may take a tenth of a second. Who asked may be
    /// gone.
    pub(in crate::daemon) fn tell_traffic(&self, wanted: WantedTraffic, to: Reply<CurrentTraffic>) {
        let (tally, policies) = (self.datapath.tally(), self.policies.clone());
        tokio::task::spawn_blocking(move || {
            priority::ordinary();
            let _ = to.send(current(&tally, &policies, wanted));
        });
    }
}

fn current(tally: &Tally, policies: &Policies, wanted: WantedTraffic) -> Result<CurrentTraffic, Refusal> {
    let mut counted = tally.counted().map_err(|error| Refusal {
        error: format!("what was counted cannot be read: {:#}", anyhow::Error::new(error)),
        ..Refusal::default()
    })?;
    let time = Timestamp::now();
    counted.sort_unstable_by_key(|(_, counter)| Reverse(counter.last_seen));
    let left_out = counted.len().saturating_sub(wanted.limit);
    counted.truncate(wanted.limit);
    let flows =
        counted.iter().filter_map(|(key, counter)| Flow::so_far(key, counter, policies, time)).collect();
    Ok(CurrentTraffic { time, flows, left_out })
}

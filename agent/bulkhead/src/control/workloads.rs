//! What the agent tells of each workload.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Count, Workload};

/// One workload, who is in it, and what its traffic has come to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct DetailedWorkload {
    #[serde(flatten)]
    pub(crate) workload: Workload,
    /// What names its processes, as the policy writes it.
    pub(crate) selectors: Vec<String>,
    /// All cgroups that belong to it now: those that its selectors match, and those below them.
    pub(crate) members: usize,
    /// Processes in them.
    pub(crate) processes: usize,
    /// Judged at its end since the agent started; null if it cannot be read.
    pub(crate) traffic: Option<WorkloadTraffic>,
}

/// What the traffic of one workload has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct WorkloadTraffic {
    pub(crate) allowed: Count,
    pub(crate) denied: Count,
    pub(crate) would_deny: Count,
    /// Calls (connect, sendto, socket) that were refused, or would be, before there was a packet.
    pub(crate) refused_calls: u64,
    /// When the last packet or call was judged, at most a few seconds early; null: none was.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(crate) last_seen: Option<Timestamp>,
}

impl WorkloadTraffic {
    /// Packets and calls that were refused, or would be.
    pub(crate) fn refusals(&self) -> u64 {
        self.denied.packets + self.would_deny.packets + self.refused_calls
    }

    /// All that was judged, whatever came of it.
    pub(crate) fn judged(&self) -> Count {
        let mut all = self.allowed;
        for more in [self.denied, self.would_deny] {
            all.packets += more.packets;
            all.bytes += more.bytes;
            all.connections += more.connections;
        }
        all
    }
}

//! What the agent tells of traffic as it is counted now, for who asks again and again.

use bulkhead_report::Flow;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What is counted now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct CurrentTraffic {
    /// When it was read.
    #[schema(value_type = String, format = DateTime)]
    pub(crate) time: Timestamp,
    /// Each kind of traffic with all that it has come to, as `bulkhead flows` has them: those first whose last packet was the
    /// latest.
    #[schema(value_type = Vec<Object>)]
    pub(crate) flows: Vec<Flow>,
    /// So many more are counted.
    pub(crate) left_out: usize,
}

/// How much somebody wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WantedTraffic {
    /// At most so many kinds.
    #[serde(default = "many")]
    pub(crate) limit: usize,
}

fn many() -> usize {
    4096
}

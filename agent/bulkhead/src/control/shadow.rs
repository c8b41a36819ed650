//! What is asked of an agent that is to compare a policy with the one in force, and what it answers.

use bulkhead_report::Difference;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::File;

/// A policy that is to be compared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Candidate {
    pub(crate) policy: Vec<File>,
}

/// The policy that is compared with the one in force: it decides on the same packets and calls, and refuses none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Shadow {
    /// Names of its files.
    pub(crate) policy: Vec<String>,
    pub(crate) policy_hash: String,
    /// Number of its tables.
    pub(crate) generation: u32,
    /// Content hash of the policy in force.
    pub(crate) compared_with: String,
    /// What was before is not in its counts.
    #[schema(value_type = String, format = DateTime)]
    pub(crate) since: Timestamp,
}

/// What has come of a comparison so far, or in the end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Comparison {
    /// Null: no policy is compared.
    pub(crate) shadow: Option<Shadow>,
    /// Why none is compared any more; null: one is, or none was.
    pub(crate) ended: Option<String>,
    /// What it decides otherwise, each kind of traffic with its exact counts, as `bulkhead shadow` has them.
    #[schema(value_type = Vec<Object>)]
    pub(crate) differences: Vec<Difference>,
    /// Packets and calls that found no counter of their own meanwhile: more may fare otherwise among them.
    pub(crate) untold: u64,
}

//! What is asked of an agent that is to draft a rule, and what it answers.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What was refused, as a report has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Refused {
    /// `workload.name`.
    pub(crate) workload: String,
    /// `egress` or `ingress`.
    pub(crate) direction: String,
    pub(crate) service: String,
    /// `peer.address`.
    pub(crate) peer_address: String,
    /// `peer.name`.
    #[serde(default)]
    pub(crate) peer_name: Option<String>,
}

/// A rule that would allow it, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Drafted {
    /// One `[[allow]]` in TOML, to be added to any file of the policy.
    pub(crate) text: String,
    /// What it allows, in words.
    pub(crate) words: String,
}

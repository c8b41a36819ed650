//! What the agent tells of each rule.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The rules of the policy in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Rules {
    /// In the policy's order, what is forbidden last.
    pub(crate) rules: Vec<ListedRule>,
    /// Why hits are not known; null: they are.
    pub(crate) unknown: Option<String>,
}

/// One rule, and what it was good for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct ListedRule {
    /// `allow` or `forbid`.
    pub(crate) kind: String,
    /// Null: a forbid has none.
    pub(crate) id: Option<String>,
    pub(crate) file: String,
    pub(crate) line: u32,
    /// What it says, in words.
    pub(crate) words: String,
    /// Who may, or must not, open connections, as the policy writes it.
    pub(crate) from: Vec<String>,
    /// To whom.
    pub(crate) to: Vec<String>,
    /// To which ports; none: to every protocol and port.
    pub(crate) ports: Vec<String>,
    /// Of a forbid: ids of the rules that may.
    pub(crate) except: Vec<String>,
    /// Why it is there, as the policy tells.
    pub(crate) reason: Option<String>,
    /// When it ends, or has ended; null: never.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(crate) expires: Option<Timestamp>,
    /// What it has let pass; null: that is not known, or it is a forbid.
    pub(crate) hits: Option<RuleHits>,
}

/// What a rule has let pass, exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct RuleHits {
    /// Since when it is watched; null: not yet.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(crate) since: Option<Timestamp>,
    /// Connections and exchanges of datagrams that were opened.
    pub(crate) connections: u64,
    /// At each end that is a workload of this host.
    pub(crate) packets: u64,
    /// IP headers included.
    pub(crate) bytes: u64,
    /// When the last packet passed, at most a few seconds early; null: never.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(crate) last: Option<Timestamp>,
}

impl ListedRule {
    /// Is it known that it has let nothing pass?
    pub(crate) fn is_unused(&self) -> bool {
        self.hits.is_some_and(|hits| hits.packets == 0)
    }
}

//! What an agent tells of itself.

use std::{net::IpAddr, path::PathBuf};

use bulkhead_report::{Account, Departed};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Shadow;

/// What a running agent enforces.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Status {
    pub(crate) version: String,
    pub(crate) pid: u32,
    /// Seconds since the agent enforces.
    pub(crate) uptime: u64,
    #[schema(value_type = String)]
    pub(crate) cgroup_root: PathBuf,
    /// Is nothing refused, only reported?
    pub(crate) dry_run: bool,
    /// Number of the tables in force; it grows with each that is built anew, and not with edits.
    pub(crate) generation: u32,
    pub(crate) policy: Vec<String>,
    /// What `bulkhead check` tells of the same policy.
    pub(crate) policy_hash: String,
    /// Of the policy and all that it compiles to on this host now.
    pub(crate) tables_hash: String,
    /// What is in force for a while only; none: it stays.
    pub(crate) trial: Option<Trial>,
    /// What is compared with it; none: nothing is.
    pub(crate) shadow: Option<Shadow>,
    pub(crate) rules: usize,
    pub(crate) environments: Vec<Environment>,
    pub(crate) workloads: Vec<Workload>,
    /// What the operator should look after, as long as it lasts.
    pub(crate) warnings: Vec<String>,
    pub(crate) events: Events,
    /// What the programs have counted; none if it could not be read.
    pub(crate) traffic: Option<Traffic>,
}

/// A policy that waits to be confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Trial {
    /// Seconds until the policy before it is in force again.
    pub(crate) ends_in: f64,
}

/// Traffic of workloads that was judged since the start: every packet exactly once at each end that is a workload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Traffic {
    pub(crate) allowed: Count,
    pub(crate) denied: Count,
    pub(crate) would_deny: Count,
    /// Calls (connect, sendto, socket) that were refused, or would be, before there was a packet.
    pub(crate) refused_calls: u64,
    /// Beside all these: what found no counter of its own, and is not told apart by verdict.
    pub(crate) other: Count,
}

/// What was counted of one kind of traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Count {
    pub(crate) packets: u64,
    /// IP headers included.
    pub(crate) bytes: u64,
    /// Connections and exchanges of datagrams that were opened.
    pub(crate) connections: u64,
}

/// One environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Environment {
    pub(crate) name: String,
    /// `enforce`, `audit` or `off`.
    pub(crate) mode: String,
    /// Workloads declared in it.
    pub(crate) workloads: usize,
}

/// One workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Workload {
    pub(crate) name: String,
    pub(crate) environment: Option<String>,
    pub(crate) mode: String,
    /// The cgroups that its selectors match now; all below them belong to it as well.
    pub(crate) cgroups: Vec<String>,
    /// Addresses that it has to itself.
    #[schema(value_type = Vec<String>)]
    pub(crate) addresses: Vec<IpAddr>,
}

/// Refusals and what else the kernel has told, counted since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Events {
    /// Refused, or reported as would be refused; those that nothing tells of included.
    pub(crate) refusals: u64,
    /// Refusals that are in no report: more kinds of them began than are reported.
    pub(crate) dropped: u64,
    /// Refusals whose report could not be printed on standard output.
    pub(crate) unprinted: u64,
    /// Where reports go. An agent that waits for its upgrade tells nothing of it.
    #[serde(default)]
    pub(crate) sinks: Vec<Sink>,
    /// What is kept of them, and of flows; none: nothing is.
    pub(crate) history: Option<History>,
    /// Processes that were moved out of their workload.
    pub(crate) departures: u64,
    /// The last of them.
    #[schema(value_type = Option<Object>)]
    pub(crate) last_departure: Option<Departed>,
}

/// What has become of the refusals that were to be reported to one sink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Sink {
    pub(crate) name: String,
    /// `stdout`, `file`, `journald`, `syslog` or `otlp`.
    pub(crate) r#type: String,
    /// Refusals whose report it got, as far as it can be told.
    pub(crate) delivered: u64,
    /// Refusals whose report it will never get.
    pub(crate) lost: u64,
    /// Why it takes none now.
    pub(crate) failing: Option<String>,
}

/// What has become of the refusals that the history was to keep.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct History {
    /// Refusals whose report it holds, or held before it went to make room, or since it was too old.
    pub(crate) written: u64,
    /// Refusals whose report it will never hold. Flows wait as long as it takes.
    pub(crate) lost: u64,
    /// Reports and flows that have gone to make room for newer ones, of whoever held most.
    pub(crate) evicted: u64,
    /// Why nothing is written now.
    pub(crate) failing: Option<String>,
}

impl Sink {
    pub(crate) fn of(account: &Account) -> Self {
        Self {
            name: account.name().to_owned(),
            r#type: account.kind().to_owned(),
            delivered: account.delivered(),
            lost: account.lost(),
            failing: account.failing(),
        }
    }
}

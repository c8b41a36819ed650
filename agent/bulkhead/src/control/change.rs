//! What is asked of an agent that is to change its policy, and what it answers.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use bulkhead_policy::{Difference, Source};
use bulkhead_report::plain;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// One file of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    /// As reports name it.
    pub(crate) name: String,
    #[schema(value_type = String)]
    pub(crate) text: Arc<str>,
}

impl From<Source> for File {
    fn from(source: Source) -> Self {
        Self { name: source.name, text: source.text }
    }
}

impl From<File> for Source {
    fn from(file: File) -> Self {
        Self::new(file.name, file.text)
    }
}

/// A policy, and how it is to be put in force.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Proposal {
    pub(crate) policy: Vec<File>,
    /// Seconds until the policy before it is in force again, unless this one is confirmed; none: it stays.
    #[serde(default)]
    pub(crate) confirm_within: Option<f64>,
    /// Whatever it cuts, and whether or not it can be kept.
    #[serde(default)]
    pub(crate) force: bool,
}

/// What a policy would change.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Plan {
    /// The generation in force, with which it is compared.
    pub(crate) generation: u32,
    pub(crate) policy_hash: String,
    /// What `bulkhead check` would warn of.
    #[schema(value_type = Vec<Object>)]
    pub(crate) warnings: Vec<Value>,
    #[schema(value_type = Object)]
    pub(crate) changes: Difference,
    /// Open connections that pass now and would be refused; of very many the first, and first those of which there is a guard.
    pub(crate) cut: Vec<Cut>,
    /// How many more there are.
    #[serde(default)]
    pub(crate) more_cut: usize,
}

/// What is in force from now on.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Applied {
    pub(crate) generation: u32,
    pub(crate) policy_hash: String,
    /// Seconds until the policy before it is in force again, unless this one is confirmed; null: it stays.
    pub(crate) confirm_within: Option<f64>,
    /// Connections that are cut; of very many the first.
    pub(crate) cut: Vec<Cut>,
    /// How many more there are.
    #[serde(default)]
    pub(crate) more_cut: usize,
    /// What the operator should know of it.
    pub(crate) notes: Vec<String>,
}

/// What is to be confirmed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Confirmation {
    /// Content hash of the policy, or its beginning; none: whatever waits to be confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) policy_hash: Option<String>,
}

impl Confirmation {
    /// Is it this policy?
    pub(crate) fn means(&self, hash: &str) -> bool {
        self.policy_hash.as_ref().is_none_or(|wanted| !wanted.is_empty() && hash.starts_with(wanted))
    }
}

/// Why nothing has changed.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub(crate) struct Refusal {
    pub(crate) error: String,
    /// The connections that stand against it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) cut: Vec<Cut>,
    /// What is wrong with the policy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Object>)]
    pub(crate) findings: Vec<Value>,
}

/// An open connection that a policy would cut, as the end sees it whose allowlist refuses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Cut {
    /// `denied`, or `would-deny` where the workload's environment is only audited.
    pub(crate) verdict: String,
    /// The workload that it is.
    pub(crate) workload: String,
    /// `egress` or `ingress`, seen from the workload; null: it is older than the programs, and allowed neither way.
    pub(crate) direction: Option<String>,
    pub(crate) protocol: String,
    /// As `ports` in a rule would name it; null where the direction is.
    pub(crate) service: Option<String>,
    pub(crate) local: End,
    pub(crate) peer: End,
    /// Who holds its socket.
    pub(crate) processes: Vec<Process>,
    /// What must not be cut by surprise: `session` (the caller's own login), `ssh`, `kubernetes-api` or `dns`.
    pub(crate) guard: Option<String>,
    /// The rule that would come closest to allowing it.
    pub(crate) nearest_rule: Option<NearestRule>,
}

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct End {
    #[schema(value_type = String)]
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    /// The workload or peer of the policy that it is.
    pub(crate) name: Option<String>,
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) comm: String,
}

/// A rule, where it is written, and the keys of it that would have to be different.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct NearestRule {
    pub(crate) id: String,
    pub(crate) file: String,
    pub(crate) line: u32,
    pub(crate) differs: Vec<String>,
}

impl Cut {
    /// For people: `sshd[812] of ssh: 10.0.0.1:22 <- 10.0.0.7:40000 (tcp/22), ssh`.
    pub(crate) fn in_words(&self) -> String {
        let Self { workload, local, peer, protocol, .. } = self;
        let who = match &self.processes[..] {
            [] => workload.clone(),
            [Process { pid, comm }] => format!("{}[{pid}] of {workload}", plain(comm)),
            [Process { pid, comm }, others @ ..] => {
                format!("{}[{pid}] and {} more of {workload}", plain(comm), others.len())
            }
        };
        let arrow = match self.direction.as_deref() {
            Some("egress") => "->",
            Some("ingress") => "<-",
            _ => "--",
        };
        let service = self.service.as_ref().unwrap_or(protocol);
        let name = peer.name.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
        let [local, peer] = [local, peer].map(|end| SocketAddr::new(end.address, end.port));
        format!("{who}: {local} {arrow} {peer}{name} ({service})")
    }
}

//! What is known of one refusal: the JSON object of the reports. Facts that are absent are null, never guessed.

use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use crate::{Told, clock};

/// One refusal, or several of one kind.
#[derive(Clone, Debug, Serialize)]
pub struct Denial {
    /// When, in UTC with microseconds; of several, the last.
    #[serde(serialize_with = "microseconds")]
    pub time: Timestamp,
    /// `denied` or `would-deny`.
    pub verdict: &'static str,
    /// `enforce` or `audit`.
    pub mode: &'static str,
    /// `egress` or `ingress`, seen from the workload.
    pub direction: &'static str,
    /// `tcp`, `udp`, …, or the protocol's number; of a socket that no rule can allow its kind, such as `packet`.
    pub protocol: String,
    /// Whose allowlist refused.
    pub workload: Workload,
    /// Who tried; null where only the packet is known.
    pub process: Option<Process>,
    /// The other end.
    pub peer: Peer,
    /// The rule that has expired.
    pub rule: Option<Rule>,
    /// Why: the name of a [`bulkhead_common::Reason`].
    pub reason: &'static str,
    /// The rule that would come closest to allowing it.
    pub nearest_rule: Option<NearestRule>,
    /// How many refusals this object stands for.
    pub count: u64,
    /// How many of them were not reported by themselves.
    pub suppressed: u64,
    /// The generation of the policy that refused.
    pub generation: u32,
    /// Protocol and service port as a rule's `ports` would name them, or the kind of a socket that no rule can allow.
    /// Where the peer opened the connection it is
    /// the workload's port, and `peer.port` is the peer's own.
    pub service: String,
}

/// The local end.
#[derive(Clone, Debug, Serialize)]
pub struct Workload {
    /// Its name in the policy; null if it could not be told.
    pub name: Option<String>,
    /// Its environment.
    pub environment: Option<String>,
    /// Path of its cgroup below the cgroup root.
    pub cgroup: Option<String>,
    /// The systemd unit that the cgroup belongs to.
    pub unit: Option<String>,
}

/// The process that made the call.
#[derive(Clone, Debug, Serialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Command name of the thread. It is the process's own choice.
    pub comm: String,
    /// Path of the program that it runs.
    pub exe: Option<String>,
    /// Its user.
    pub uid: u32,
}

/// The other end.
#[derive(Clone, Debug, Serialize)]
pub struct Peer {
    /// Its address; null where a socket was refused before it had a peer.
    pub address: Option<IpAddr>,
    /// Its port; null for protocols without.
    pub port: Option<u16>,
    /// The workload or peer of the policy that it is.
    pub name: Option<String>,
    /// The environment that it is in.
    pub environment: Option<String>,
}

/// A rule and where it is written.
#[derive(Clone, Debug, Serialize)]
pub struct Rule {
    /// Its id.
    pub id: String,
    /// The policy file.
    pub file: String,
    /// The line.
    pub line: u32,
}

/// A rule that does not allow it, and why it does not.
#[derive(Clone, Debug, Serialize)]
pub struct NearestRule {
    /// Which.
    #[serde(flatten)]
    pub rule: Rule,
    /// The keys of the rule that would have to be different.
    pub differs: Vec<&'static str>,
}

impl Denial {
    /// What is known of one refusal, for all that it stands for.
    pub fn standing_for(&self, told: Told) -> Self {
        let Told { count, last } = told;
        let time = clock::time_of_day(last);
        Self { time, count, suppressed: count.saturating_sub(1), ..self.clone() }
    }

    /// The object on one line, without its line end.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|error| unreachable!("only strings and numbers: {error}"))
    }
}

fn microseconds<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{time:.6}"))
}

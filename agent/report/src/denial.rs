//! What is known of one refusal: the JSON object of the reports. Facts that are absent are null, never guessed.

use std::net::IpAddr;

use bulkhead_common::Reason;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use crate::{Told, clock};

/// One of a few words that are known beforehand.
pub(crate) type Word = &'static str;

/// One refusal, or several of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denial {
    /// When, in UTC with microseconds; of several, the last.
    #[serde(serialize_with = "microseconds")]
    pub time: Timestamp,
    /// `denied` or `would-deny`.
    #[serde(deserialize_with = "word")]
    pub verdict: Word,
    /// `enforce` or `audit`.
    #[serde(deserialize_with = "word")]
    pub mode: Word,
    /// `egress` or `ingress`, seen from the workload.
    #[serde(deserialize_with = "word")]
    pub direction: Word,
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
    #[serde(deserialize_with = "word")]
    pub reason: Word,
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rule {
    /// Its id.
    pub id: String,
    /// The policy file.
    pub file: String,
    /// The line.
    pub line: u32,
}

/// A rule that does not allow it, and why it does not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NearestRule {
    /// Which.
    #[serde(flatten)]
    pub rule: Rule,
    /// The keys of the rule that would have to be different.
    #[serde(deserialize_with = "words")]
    pub differs: Vec<Word>,
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
        crate::json(self)
    }

    /// From [`Self::to_json`].
    pub fn from_json(line: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(line)
    }
}

/// Reads a word that some field can hold.
pub(crate) fn word<'de, D: Deserializer<'de>>(from: D) -> Result<Word, D::Error> {
    known(&String::deserialize(from)?)
}

fn words<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Word>, D::Error> {
    Vec::<String>::deserialize(from)?.iter().map(|text| known(text)).collect()
}

fn known<E: Error>(text: &str) -> Result<Word, E> {
    const WORDS: [Word; 13] = [
        "allowed",
        "denied",
        "would-deny",
        "enforce",
        "audit",
        "egress",
        "ingress",
        "from",
        "to",
        "ports",
        "expires",
        "newly-refused",
        "newly-allowed",
    ];
    let reasons = Reason::ALL.iter().map(|reason| reason.name());
    let found = WORDS.into_iter().chain(reasons).find(|word| *word == text);
    found.ok_or_else(|| E::custom(format_args!("a word of another version: {text:?}")))
}

pub(crate) fn microseconds<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{time:.6}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::testing::denial;

    #[test]
    fn a_denial_is_read_as_it_was_written() {
        let expired = Some(Rule { id: "old".into(), file: "shop.toml".into(), line: 3 });
        for denial in [denial(), Denial { rule: expired, process: None, nearest_rule: None, ..denial() }] {
            assert_eq!(Denial::from_json(&denial.to_json()).unwrap(), denial);
        }
    }

    #[test]
    fn a_word_of_another_version_is_not_taken_for_one_of_this() {
        let line = denial().to_json().replace("no-rule", "full-moon");
        let error = Denial::from_json(&line).unwrap_err().to_string();
        assert!(error.starts_with("a word of another version: \"full-moon\""), "{error}");
    }
}

//! What has passed or been refused of one kind of traffic in a stretch of time.

use std::net::IpAddr;

use bulkhead_common::{Counter, CounterKey, Direction, PeerId, Protocol, Reason, Verdict};
use bulkhead_policy::{protocol_name, service};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    Policies, Rule, clock,
    denial::{Word, microseconds, word},
    enrich::{names, rule, workload},
};

/// One kind of traffic in a stretch of time: the JSON object of `bulkhead flows`. Facts that are absent are null, never
/// guessed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// The end of the stretch, in UTC with microseconds.
    #[serde(serialize_with = "microseconds")]
    pub time: Timestamp,
    /// Its beginning.
    #[serde(serialize_with = "microseconds")]
    pub since: Timestamp,
    /// What is counted together.
    #[serde(flatten)]
    pub kind: FlowKind,
    /// Connections that were opened, 1 if others went on, or calls or packets that were refused.
    pub count: u64,
    /// Calls that were refused, or would be, before there was a packet.
    pub calls: u64,
    /// Packets that were judged.
    pub packets: u64,
    /// Their bytes, IP headers included.
    pub bytes: u64,
    /// Connections and exchanges of datagrams that they opened.
    pub connections: u64,
    /// When the first ever of this kind was.
    #[serde(serialize_with = "microseconds")]
    pub first_seen: Timestamp,
    /// When the last in this stretch was, at most a few seconds early.
    #[serde(serialize_with = "microseconds")]
    pub last_seen: Timestamp,
}

/// Who, with whom, on what, and what comes of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FlowKind {
    /// `allowed`, `denied` or `would-deny`.
    #[serde(deserialize_with = "word")]
    pub verdict: Word,
    /// `egress` or `ingress`, seen from the workload.
    #[serde(deserialize_with = "word")]
    pub direction: Word,
    /// `tcp`, `udp`, …, or the protocol's number.
    pub protocol: String,
    /// Protocol and service port as a rule's `ports` would name them.
    pub service: String,
    /// Whose allowlist judged.
    pub workload: FlowEnd,
    /// The other end: a class of peers that the policy does not tell apart.
    pub peer: FlowPeer,
    /// The rule that allowed it, or has expired.
    pub rule: Option<Rule>,
    /// Why.
    #[serde(deserialize_with = "word")]
    pub reason: Word,
    /// The generation of the policy that judged.
    pub generation: u32,
}

/// A workload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FlowEnd {
    /// Its name in the policy; null if it could not be told.
    pub name: Option<String>,
    /// Its environment.
    pub environment: Option<String>,
}

/// Who is at the other end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FlowPeer {
    /// Always null: addresses are not counted apart.
    pub address: Option<IpAddr>,
    /// Always null, as well.
    pub port: Option<u16>,
    /// The workload or peer of the policy that it is.
    pub name: Option<String>,
    /// The environment that it is in.
    pub environment: Option<String>,
    /// All that names it, as rules write it; empty: it is everybody else; null: nobody knows any more.
    pub is: Option<Vec<String>>,
    /// An address that the policy takes for the same.
    pub like: Option<IpAddr>,
}

impl FlowKind {
    /// A kind of traffic in the words of the policy that judged it. None: the programs of another version have counted it.
    pub(crate) fn of(key: &CounterKey, policies: &Policies) -> Option<Self> {
        let reason = *Reason::ALL.get(usize::from(key.reason))?;
        let protocol = Protocol(key.protocol);
        let policy = policies.of(key.generation);
        let named = policy.as_ref().and_then(|policy| Some((policy, workload(policy, key.subject)?)));
        let (name, environment) = named.map(|(policy, workload)| names(policy, workload)).unzip();
        Some(Self {
            verdict: verdict_name(key.verdict),
            direction: if key.direction == Direction::Egress as u8 { "egress" } else { "ingress" },
            protocol: protocol_name(protocol),
            service: service(protocol, key.port),
            workload: FlowEnd { name, environment: environment.flatten() },
            peer: FlowPeer::of(key, policies, policy.is_some()),
            rule: policy.and_then(|policy| rule(&policy, key.rule)),
            reason: reason.name(),
            generation: key.generation,
        })
    }
}

/// A [`Verdict`]'s name.
pub(crate) fn verdict_name(verdict: u8) -> Word {
    match verdict {
        verdict if verdict == Verdict::Allowed as u8 => "allowed",
        verdict if verdict == Verdict::WouldDeny as u8 => "would-deny",
        _ => "denied",
    }
}

impl FlowPeer {
    fn of(key: &CounterKey, policies: &Policies, is_known: bool) -> Self {
        match policies.class(key.generation, PeerId(key.peer)) {
            Some((class, named)) => Self {
                name: named.name,
                environment: named.environment,
                is: Some(named.is),
                like: class.like,
                ..Self::default()
            },
            None => Self { is: (is_known && key.peer == PeerId::NONE.0).then(Vec::new), ..Self::default() },
        }
    }

    /// In a word or few.
    pub fn in_words(&self) -> String {
        match (&self.name, self.is.as_deref()) {
            (Some(name), _) => name.clone(),
            (None, Some([])) => "everybody else".to_owned(),
            (None, Some(is)) => is.join("+"),
            (None, None) => "unknown".to_owned(),
        }
    }

    /// Is it this one, as a rule could name it?
    pub fn is(&self, name: &str) -> bool {
        let environment = self.environment.as_deref().is_some_and(|e| name.strip_prefix("env:") == Some(e));
        let named = self.is.as_ref().is_some_and(|is| is.iter().any(|end| end == name));
        environment || named || self.name.as_deref() == Some(name)
    }
}

/// What one kind had come to, as counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Grown {
    pub(super) packets: u64,
    pub(super) bytes: u64,
    pub(super) connections: u64,
}

impl Grown {
    /// What has come since `before`.
    pub(super) fn between(before: &Counter, now: &Counter) -> Self {
        Self {
            packets: now.packets.saturating_sub(before.packets),
            bytes: now.bytes.saturating_sub(before.bytes),
            connections: now.connections.saturating_sub(before.connections),
        }
    }

    /// As a record, of calls if that is what was counted.
    pub(super) fn record(self, kind: FlowKind, calls: bool, times: Times) -> Flow {
        let Self { packets, bytes, connections } = self;
        let refused = kind.verdict != "allowed";
        let Times { since, time, first_seen, last_seen } = times;
        Flow {
            time,
            since,
            count: if refused || calls { packets } else { connections.max(1) },
            kind,
            calls: if calls { packets } else { 0 },
            packets: if calls { 0 } else { packets },
            bytes,
            connections,
            first_seen,
            last_seen,
        }
    }
}

/// When a record is about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) since: Timestamp,
    pub(super) time: Timestamp,
    pub(super) first_seen: Timestamp,
    pub(super) last_seen: Timestamp,
}

impl Flow {
    /// All that a kind has come to. None: the programs of another version have counted it.
    pub fn so_far(key: &CounterKey, counter: &Counter, policies: &Policies, time: Timestamp) -> Option<Self> {
        let [first_seen, last_seen] = [counter.first_seen, counter.last_seen].map(clock::time_of_day);
        let times = Times { since: first_seen, time, first_seen, last_seen };
        let grown = Grown::between(&Counter::default(), counter);
        Some(grown.record(FlowKind::of(key, policies)?, key.packets == 0, times))
    }

    /// The object on one line, without its line end.
    pub fn to_json(&self) -> String {
        crate::json(self)
    }

    /// From [`Self::to_json`].
    pub fn from_json(line: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(line)
    }

    /// Who opens the connection, in a word or few.
    pub fn from(&self) -> String {
        if self.kind.direction == "egress" { self.workload() } else { self.kind.peer.in_words() }
    }

    /// To whom.
    pub fn to(&self) -> String {
        if self.kind.direction == "egress" { self.kind.peer.in_words() } else { self.workload() }
    }

    fn workload(&self) -> String {
        self.kind.workload.name.clone().unwrap_or_else(|| "unidentified".to_owned())
    }

    /// Is it opened by whom a rule would name so?
    pub fn is_from(&self, name: &str) -> bool {
        if self.kind.direction == "egress" { self.kind.workload.is(name) } else { self.kind.peer.is(name) }
    }

    /// Does it go to whom a rule would name so?
    pub fn is_to(&self, name: &str) -> bool {
        if self.kind.direction == "egress" { self.kind.peer.is(name) } else { self.kind.workload.is(name) }
    }
}

impl FlowEnd {
    fn is(&self, name: &str) -> bool {
        let environment = self.environment.as_deref().is_some_and(|e| name.strip_prefix("env:") == Some(e));
        environment || self.name.as_deref() == Some(name)
    }
}

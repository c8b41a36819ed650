//! Flow and denial records as the agent writes them: one JSON object a line.

use std::{borrow::Cow, net::IpAddr};

use bulkhead_common::{Direction, Protocol, Verdict};
use serde::Deserialize;

use crate::language::Ports;

/// What of a record a policy can be asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FlowRecord<'l> {
    pub(crate) verdict: Verdict,
    pub(crate) direction: Direction,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
    /// The workload whose end it is about; none if that could not be told.
    pub(crate) workload: Option<Cow<'l, str>>,
    pub(crate) peer_name: Option<Cow<'l, str>>,
    pub(crate) peer_address: IpAddr,
    /// As it is written (RFC 3339).
    pub(crate) time: Cow<'l, str>,
    /// How many connections or packets it stands for.
    pub(crate) count: u64,
}

/// What keeps a line from being a record.
#[derive(Debug)]
pub enum RecordError {
    /// It is not JSON, or lacks a field.
    Json(serde_json::Error),
    /// A field that is there, and the value that it cannot have.
    Value(&'static str, String),
}

impl std::fmt::Display for RecordError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Json(e) => write!(f, "not a flow record: {e}"),
            Self::Value(field, value) => write!(f, "not a flow record: `{field}` cannot be {value:?}"),
        }
    }
}

impl std::error::Error for RecordError {}

#[derive(Deserialize)]
struct Line<'l> {
    #[serde(borrow)]
    time: Cow<'l, str>,
    #[serde(borrow)]
    verdict: Cow<'l, str>,
    #[serde(borrow)]
    direction: Cow<'l, str>,
    #[serde(borrow)]
    protocol: Cow<'l, str>,
    /// Absent in records of other programs: then the peer's port counts, which is the service port of egress.
    #[serde(borrow, default)]
    service: Option<Cow<'l, str>>,
    #[serde(borrow)]
    workload: Workload<'l>,
    #[serde(borrow)]
    peer: Peer<'l>,
    #[serde(default = "one")]
    count: u64,
}

#[derive(Deserialize)]
struct Workload<'l> {
    #[serde(borrow)]
    name: Option<Cow<'l, str>>,
}

#[derive(Deserialize)]
struct Peer<'l> {
    address: IpAddr,
    #[serde(default)]
    port: Option<u16>,
    #[serde(borrow, default)]
    name: Option<Cow<'l, str>>,
}

const fn one() -> u64 {
    1
}

impl<'l> FlowRecord<'l> {
    pub(crate) fn parse(line: &'l str) -> Result<Self, RecordError> {
        let line: Line<'l> = serde_json::from_str(line).map_err(RecordError::Json)?;
        let wrong = |field, value: &str| RecordError::Value(field, value.to_owned());
        let verdict = match &*line.verdict {
            "allowed" => Verdict::Allowed,
            "denied" => Verdict::Denied,
            "would-deny" => Verdict::WouldDeny,
            other => return Err(wrong("verdict", other)),
        };
        let direction = match &*line.direction {
            "egress" => Direction::Egress,
            "ingress" => Direction::Ingress,
            other => return Err(wrong("direction", other)),
        };
        let protocol = protocol(&line.protocol).ok_or_else(|| wrong("protocol", &line.protocol))?;
        let port = match &line.service {
            Some(service) => port(service).ok_or_else(|| wrong("service", service))?,
            None => line.peer.port.unwrap_or(0),
        };
        Ok(Self {
            verdict,
            direction,
            protocol,
            port,
            workload: line.workload.name,
            peer_name: line.peer.name,
            peer_address: line.peer.address,
            time: line.time,
            count: line.count,
        })
    }
}

/// By its name, or its number.
fn protocol(text: &str) -> Option<Protocol> {
    match text {
        "tcp" => Some(Protocol::TCP),
        "udp" => Some(Protocol::UDP),
        "icmp" => Some(Protocol::ICMP),
        "icmpv6" => Some(Protocol::ICMPV6),
        other => other.parse().ok().map(Protocol).or_else(|| {
            let all: Ports = format!("{other}/*").parse().or_else(|_| other.parse()).ok()?;
            all.spans().first().map(|span| span.protocol)
        }),
    }
}

/// The port of `tcp/443`, the type and code of `icmp/3.4` or `icmp/8`, 0 of a protocol without ports.
fn port(service: &str) -> Option<u16> {
    let Some((protocol, number)) = service.split_once('/') else { return Some(0) };
    if protocol.starts_with("icmp") {
        let (kind, code) = number.split_once('.').unwrap_or((number, "0"));
        return Some(u16::from_be_bytes([kind.parse().ok()?, code.parse().ok()?]));
    }
    number.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_the_agent_writes_it() {
        let line = r#"{"time":"2026-11-21T20:15:03.123456Z","verdict":"denied","mode":"enforce","direction":"egress",
            "protocol":"tcp","workload":{"name":"ci","environment":"dev","cgroup":"/ci.slice","unit":null},
            "process":null,"peer":{"address":"10.0.3.7","port":5432,"name":"db","environment":"prod"},
            "rule":null,"reason":"no-rule","nearest_rule":null,"count":3,"suppressed":2,"generation":12}"#;
        let record = FlowRecord::parse(line).unwrap();
        assert_eq!((record.protocol, record.port, record.count), (Protocol::TCP, 5432, 3));
        assert_eq!((record.workload.as_deref(), record.peer_name.as_deref()), (Some("ci"), Some("db")));
        assert_eq!(record.verdict, Verdict::Denied);
    }

    #[test]
    fn services_are_read_as_they_are_written() {
        assert_eq!(port("tcp/443"), Some(443));
        assert_eq!(port("icmp/8"), Some(0x800));
        assert_eq!(port("icmpv6/1.4"), Some(0x104));
        assert_eq!(port("gre"), Some(0));
        assert_eq!(port("tcp/x"), None);
        assert_eq!(protocol("sctp"), Some(Protocol::SCTP));
        assert_eq!(protocol("gre"), Some(Protocol(47)));
        assert_eq!(protocol("97"), Some(Protocol(97)));
        assert_eq!(protocol("quic"), None);
    }

    #[test]
    fn what_is_no_record_is_an_error() {
        for line in ["", "{}", "[1]", "\u{0}", r#"{"time":1}"#] {
            assert!(FlowRecord::parse(line).is_err(), "{line}");
        }
    }
}

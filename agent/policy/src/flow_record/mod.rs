//! Flow and denial records as the agent writes them: one JSON object a line.

mod agent_form;
mod error;
mod fields;
mod time;

use std::{borrow::Cow, net::IpAddr};

use bulkhead_common::{Address, Direction, Protocol, Reason, Verdict};

use self::fields::Fields;
use crate::language::Ports;

pub(crate) use agent_form::{Ends, Passages};
pub use error::RecordError;

/// What of a record a policy can be asked about. Texts are UTF-8; nobody needs to know again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FlowRecord<'l> {
    pub(crate) verdict: Verdict,
    pub(crate) direction: Direction,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
    /// The workload whose end it is about; none if that could not be told, or nothing is known of the other end.
    pub(crate) workload: Option<Cow<'l, [u8]>>,
    pub(crate) peer_name: Option<Cow<'l, [u8]>>,
    /// None: it is known by its socket.
    pub(crate) peer_address: Option<Address>,
    /// What the record tells besides of who that is.
    pub(crate) peer_is: Is,
    /// Set if no policy had a say in what came of it.
    pub(crate) unjudged: Option<Reason>,
    /// How many connections or packets it stands for.
    pub(crate) count: u64,
    time: Cow<'l, [u8]>,
}

/// What a flow tells of the other end besides its name: a policy named it so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Is {
    /// It is one of those that have an address like the one that is told.
    pub(crate) of_address: bool,
    pub(crate) dns: bool,
    pub(crate) host: bool,
}

impl Is {
    /// Notes one of the ends of rules that name it.
    #[inline(always)]
    fn note(&mut self, end: &[u8]) {
        match end {
            b"dns" => self.dns = true,
            b"host" => self.host = true,
            _ => {}
        }
    }
}

/// The reason of this name, if no policy has a say where it is given.
fn unjudged(reason: &[u8]) -> Option<Reason> {
    const UNJUDGED: [Reason; 4] =
        [Reason::Essential, Reason::Malformed, Reason::SocketMemory, Reason::ForgedSource];
    UNJUDGED.into_iter().find(|known| known.name().as_bytes() == reason)
}

impl<'l> FlowRecord<'l> {
    /// None: it tells of a refused socket, which had no peer yet and is no flow.
    #[inline(always)]
    pub(crate) fn parse<N: Copy>(
        line: &'l [u8],
        passages: &mut Passages<N>,
    ) -> Result<Option<(Self, Ends)>, RecordError> {
        let Some((record, ends)) = passages.read(line) else {
            return Ok(Self::parse_any(line)?.map(|record| (record, Ends::default())));
        };
        debug_assert_eq!(
            Self::parse_any(line).as_ref(),
            Ok(&Some(record.clone())),
            "read otherwise than written"
        );
        Ok(Some((record, ends)))
    }

    /// Of JSON in any form.
    #[inline(never)]
    fn parse_any(line: &'l [u8]) -> Result<Option<Self>, RecordError> {
        Self::of(fields::read(line)?)
    }

    fn of(fields: Fields<'l>) -> Result<Option<Self>, RecordError> {
        let peer = &fields.peer;
        let parse = |text: &str| {
            let ip: Result<IpAddr, _> = text.parse();
            ip.map(Address::from).map_err(|_| RecordError::value("peer.address", text, "an IP address"))
        };
        let address = peer.address.as_deref().or(peer.like.as_deref());
        if address.is_none() && peer.is.is_none() {
            return Ok(None);
        }
        let peer_address = address.map(parse).transpose()?;
        // A workload is known by its socket, and everybody else by nothing.
        let is_told = address.is_some() || peer.name.is_some();
        let mut peer_is = Is { of_address: peer.like.is_some(), ..Is::default() };
        peer.is.iter().flatten().for_each(|end| peer_is.note(end.as_bytes()));
        let verdict = match &*fields.verdict {
            "allowed" => Verdict::Allowed,
            "denied" => Verdict::Denied,
            "would-deny" => Verdict::WouldDeny,
            other => return Err(RecordError::value("verdict", other, "`allowed`, `denied` or `would-deny`")),
        };
        let direction = match &*fields.direction {
            "egress" => Direction::Egress,
            "ingress" => Direction::Ingress,
            other => return Err(RecordError::value("direction", other, "`egress` or `ingress`")),
        };
        let Some(protocol) = protocol(&fields.protocol) else {
            let expected = "a name such as `tcp`, or a protocol's number";
            return Err(RecordError::value("protocol", &fields.protocol, expected));
        };
        let port = match &fields.service {
            Some(service) => port(service).ok_or_else(|| {
                RecordError::value("service", service, "a protocol and port such as `tcp/443` or `icmp/8`")
            })?,
            None if direction == Direction::Ingress && protocol.has_ports() => {
                return Err(RecordError::Missing {
                    field: "service",
                    why: "the peer's port is not the one that it came to",
                });
            }
            None => fields.peer.port.unwrap_or(0),
        };
        let time = bytes(fields.time);
        time::check(&time)?;
        Ok(Some(Self {
            verdict,
            direction,
            protocol,
            port,
            workload: fields.workload.name.filter(|_| is_told).map(bytes),
            peer_name: fields.peer.name.map(bytes),
            peer_address,
            peer_is,
            unjudged: fields.reason.as_ref().and_then(|reason| unjudged(reason.as_bytes())),
            count: fields.count,
            time,
        }))
    }

    /// When it was, in nanoseconds since the Unix epoch.
    pub(crate) fn unix_nanoseconds(&self) -> Result<u64, RecordError> {
        Ok(u64::try_from(time::parse(&self.time)?.as_nanosecond()).unwrap_or(0))
    }
}

fn bytes(text: Cow<'_, str>) -> Cow<'_, [u8]> {
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
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
mod tests;

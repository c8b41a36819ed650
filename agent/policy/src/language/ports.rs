use std::{fmt, str::FromStr};

use bulkhead_common::Protocol;

/// What one entry of `ports` opens: protocols, and for those that have them, a range of ports.
///
/// The port of ICMP is type << 8 | code (see [`bulkhead_common::Flow::port`]).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ports {
    spans: Vec<PortSpan>,
    text: String,
}

/// A range of ports of one protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortSpan {
    /// The protocol.
    pub protocol: Protocol,
    /// The lowest port.
    pub first: u16,
    /// The highest port.
    pub last: u16,
}

impl PortSpan {
    /// Every port of a protocol.
    pub(crate) const fn all(protocol: Protocol) -> Self {
        Self { protocol, first: 0, last: u16::MAX }
    }

    /// Is this port in the range?
    pub fn holds(self, protocol: Protocol, port: u16) -> bool {
        self.protocol == protocol && (self.first..=self.last).contains(&port)
    }

    /// Have both a port in common?
    pub fn meets(self, other: Self) -> bool {
        self.protocol == other.protocol && self.first <= other.last && other.first <= self.last
    }
}

/// As `ports` in a rule writes it.
impl fmt::Display for PortSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol, first, last } = *self;
        let named = WITH_PORTS.iter().chain(&WITHOUT_PORTS).find(|(_, p)| *p == protocol);
        match (named, protocol) {
            (Some((name, p)), _) if !p.has_ports() => f.write_str(name),
            (Some((name, _)), _) if (first, last) == (0, u16::MAX) => write!(f, "{name}/*"),
            (Some((name, _)), _) if first == last => write!(f, "{name}/{first}"),
            (Some((name, _)), _) => write!(f, "{name}/{first}-{last}"),
            (None, Protocol::ICMP | Protocol::ICMPV6) => {
                f.write_str(if protocol == Protocol::ICMP { "icmp" } else { "icmpv6" })?;
                let ([first_type, first_code], [last_type, last_code]) =
                    (first.to_be_bytes(), last.to_be_bytes());
                match (first == last, first_type == last_type) {
                    _ if (first, last) == (0, u16::MAX) => Ok(()),
                    (true, _) => write!(f, "/{first_type}.{first_code}"),
                    (_, true) if (first_code, last_code) == (0, u8::MAX) => write!(f, "/{first_type}"),
                    _ => write!(f, "/{first_type}.{first_code}-{last_type}.{last_code}"),
                }
            }
            (None, Protocol(number)) => write!(f, "ip/{number}"),
        }
    }
}

/// What is wrong with the text of an entry of `ports`, in two sentences: the fault, and the remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortsError {
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub help: String,
}

/// Protocols with ports.
const WITH_PORTS: [(&str, Protocol); 4] = [
    ("tcp", Protocol::TCP),
    ("udp", Protocol::UDP),
    ("sctp", Protocol::SCTP),
    ("udplite", Protocol::UDPLITE),
];

/// Protocols without ports (IANA "Protocol Numbers").
const WITHOUT_PORTS: [(&str, Protocol); 7] = [
    ("igmp", Protocol(2)),
    ("gre", Protocol(47)),
    ("esp", Protocol(50)),
    ("ah", Protocol(51)),
    ("ospf", Protocol(89)),
    ("vrrp", Protocol(112)),
    ("l2tp", Protocol(115)),
];

/// Names of ICMP messages with their types in both families (IANA "ICMP Parameters", "ICMPv6 Parameters").
const ICMP_TYPES: [(&str, Option<u8>, Option<u8>); 8] = [
    ("echo-reply", Some(0), Some(129)),
    ("destination-unreachable", Some(3), Some(1)),
    ("echo-request", Some(8), Some(128)),
    ("packet-too-big", None, Some(2)),
    ("parameter-problem", Some(12), Some(4)),
    ("time-exceeded", Some(11), Some(3)),
    ("timestamp-request", Some(13), None),
    ("timestamp-reply", Some(14), None),
];

impl Ports {
    /// The ranges, one or more.
    pub fn spans(&self) -> &[PortSpan] {
        &self.spans
    }

    /// Is this port opened?
    pub fn holds(&self, protocol: Protocol, port: u16) -> bool {
        self.spans.iter().any(|s| s.holds(protocol, port))
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Ports {
    type Err = PortsError;

    fn from_str(text: &str) -> Result<Self, PortsError> {
        let (protocol, rest) = match text.split_once('/') {
            Some((protocol, rest)) => (protocol, Some(rest)),
            None => (text, None),
        };
        let spans = match protocol {
            "icmp" => icmp(text, rest, true)?,
            "icmpv6" => icmp(text, rest, false)?,
            "ip" => {
                vec![PortSpan::all(Protocol(number(text, rest.unwrap_or_default(), "protocol", 0, u8::MAX)?))]
            }
            _ => {
                if let Some((_, p)) = WITH_PORTS.iter().find(|(name, _)| *name == protocol) {
                    vec![range(text, protocol, *p, rest)?]
                } else if let Some((_, p)) = WITHOUT_PORTS.iter().find(|(name, _)| *name == protocol) {
                    if rest.is_some() {
                        return Err(fault(
                            format!("`{protocol}` has no ports"),
                            format!("write \"{protocol}\""),
                        ));
                    }
                    vec![PortSpan::all(*p)]
                } else {
                    return Err(unknown_protocol(text, protocol));
                }
            }
        };
        Ok(Self { spans, text: text.to_owned() })
    }
}

fn fault(message: String, help: impl Into<String>) -> PortsError {
    PortsError { message, help: help.into() }
}

fn unknown_protocol(text: &str, protocol: &str) -> PortsError {
    if text.bytes().all(|b| b.is_ascii_digit() || b == b'-') && !text.is_empty() {
        return fault(
            format!("`{text}` names no protocol"),
            format!("write \"tcp/{text}\" or \"udp/{text}\""),
        );
    }
    let names =
        || WITH_PORTS.iter().chain(&WITHOUT_PORTS).map(|(name, _)| *name).chain(["icmp", "icmpv6", "ip"]);
    let help = crate::text::nearest(protocol, names()).unwrap_or_else(|| {
        format!(
            "protocols are {}; any other by its number, as in \"ip/97\"",
            names().collect::<Vec<_>>().join(", ")
        )
    });
    fault(format!("unknown protocol `{protocol}`"), help)
}

fn range(text: &str, name: &str, protocol: Protocol, rest: Option<&str>) -> Result<PortSpan, PortsError> {
    let Some(rest) = rest else {
        return Err(fault(
            format!("`{text}` names no port"),
            format!("write \"{name}/443\" for one port, \"{name}/*\" for all of them"),
        ));
    };
    if rest == "*" {
        return Ok(PortSpan::all(protocol));
    }
    let (first, last) = rest.split_once('-').unwrap_or((rest, rest));
    let first = number(text, first, "port", 1, u16::MAX)?;
    let last = number(text, last, "port", 1, u16::MAX)?;
    if first > last {
        return Err(fault(
            format!("the range `{rest}` ends before it begins"),
            format!("write \"{name}/{last}-{first}\""),
        ));
    }
    Ok(PortSpan { protocol, first, last })
}

fn icmp(text: &str, rest: Option<&str>, both: bool) -> Result<Vec<PortSpan>, PortsError> {
    let of_type =
        |protocol, t: u8| PortSpan { protocol, first: u16::from(t) << 8, last: u16::from(t) << 8 | 0xff };
    let Some(rest) = rest.filter(|r| *r != "*") else {
        let v4 = both.then(|| PortSpan::all(Protocol::ICMP));
        return Ok(v4.into_iter().chain([PortSpan::all(Protocol::ICMPV6)]).collect());
    };
    if let Some((_, v4, v6)) = ICMP_TYPES.iter().find(|(name, ..)| *name == rest) {
        let v4 = v4.filter(|_| both).map(|t| of_type(Protocol::ICMP, t));
        let spans: Vec<_> = v4.into_iter().chain(v6.map(|t| of_type(Protocol::ICMPV6, t))).collect();
        if spans.is_empty() {
            return Err(fault(format!("ICMPv6 has no `{rest}`"), format!("write \"icmp/{rest}\"")));
        }
        return Ok(spans);
    }
    let protocol = if both { Protocol::ICMP } else { Protocol::ICMPV6 };
    let (kind, code) = match rest.split_once('.') {
        Some((kind, code)) => (kind, Some(code)),
        None => (rest, None),
    };
    if !kind.starts_with(|c: char| c.is_ascii_digit()) {
        let names = ICMP_TYPES.iter().map(|(name, ..)| *name);
        let help = crate::text::nearest(rest, names.clone())
            .unwrap_or_else(|| format!("types are numbers, or {}", names.collect::<Vec<_>>().join(", ")));
        return Err(fault(format!("unknown ICMP type `{rest}`"), help));
    }
    let kind: u8 = number(text, kind, "ICMP type", 0, u8::MAX)?;
    let Some(code) = code else { return Ok(vec![of_type(protocol, kind)]) };
    let port = u16::from(kind) << 8 | u16::from(number::<u8>(text, code, "ICMP code", 0, u8::MAX)?);
    Ok(vec![PortSpan { protocol, first: port, last: port }])
}

fn number<N>(text: &str, digits: &str, what: &str, least: N, most: N) -> Result<N, PortsError>
where
    N: FromStr + PartialOrd + fmt::Display + Copy,
{
    let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if !is_number {
        return Err(fault(
            format!("`{digits}` in `{text}` is no {what}"),
            "write \"tcp/443\", \"udp/8000-8100\", \"sctp/*\", \"icmp\" or \"icmp/echo-request\"",
        ));
    }
    match digits.parse::<N>() {
        Ok(n) if n >= least && n <= most => Ok(n),
        _ => Err(fault(
            format!("{what} {digits} is out of range"),
            format!("a {what} is a number from {least} to {most}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(s: &str) -> Vec<(u8, u16, u16)> {
        let ports: Ports = s.parse().unwrap_or_else(|e| panic!("{s}: {e:?}"));
        assert_eq!(ports.to_string(), s);
        ports.spans().iter().map(|p| (p.protocol.0, p.first, p.last)).collect()
    }

    #[test]
    fn ports_ranges_and_whole_protocols() {
        assert_eq!(spans("tcp/5432"), [(6, 5432, 5432)]);
        assert_eq!(spans("udp/8000-8100"), [(17, 8000, 8100)]);
        assert_eq!(spans("sctp/*"), [(132, 0, 65535)]);
        assert!("tcp/*".parse::<Ports>().unwrap().holds(Protocol::TCP, 0), "as the reference says");
        assert_eq!(spans("gre"), [(47, 0, 65535)]);
        assert_eq!(spans("ip/97"), [(97, 0, 65535)]);
    }

    #[test]
    fn icmp_names_mean_both_families_and_numbers_their_own() {
        assert_eq!(spans("icmp"), [(1, 0, 65535), (58, 0, 65535)]);
        assert_eq!(spans("icmpv6"), [(58, 0, 65535)]);
        assert_eq!(spans("icmp/echo-request"), [(1, 0x800, 0x8ff), (58, 0x8000, 0x80ff)]);
        assert_eq!(spans("icmp/8"), [(1, 0x800, 0x8ff)]);
        assert_eq!(spans("icmpv6/128"), [(58, 0x8000, 0x80ff)]);
        assert_eq!(spans("icmp/3.4"), [(1, 0x304, 0x304)]);
    }

    #[test]
    fn mistakes_say_what_to_write() {
        let error = |s: &str| s.parse::<Ports>().expect_err(s);
        for (s, message, help) in [
            ("tcp/70000", "port 70000 is out of range", "1 to 65535"),
            ("tcp/0", "port 0 is out of range", "1 to 65535"),
            ("443", "names no protocol", "\"tcp/443\""),
            ("tcp", "names no port", "\"tcp/*\""),
            ("tpc/443", "unknown protocol `tpc`", "`tcp`"),
            ("tcp/9-8", "ends before it begins", "\"tcp/8-9\""),
            ("gre/1", "has no ports", "\"gre\""),
            ("icmp/256", "out of range", "0 to 255"),
            ("icmp/echo-requst", "unknown ICMP type", "`echo-request`"),
            ("tcp/http", "`http` in `tcp/http` is no port", "tcp/443"),
            ("", "unknown protocol", "tcp"),
        ] {
            let e = error(s);
            assert!(e.message.contains(message) && e.help.contains(help), "{s}: {e:?}");
        }
    }
}

//! Protocols and services as rules name them.

use bulkhead_common::Protocol;

/// `tcp`, `udp`, …, or the number of a protocol that rules have no name for.
pub(crate) fn name(protocol: Protocol) -> String {
    match protocol {
        Protocol::TCP => "tcp".to_owned(),
        Protocol::UDP => "udp".to_owned(),
        Protocol::ICMP => "icmp".to_owned(),
        Protocol::ICMPV6 => "icmpv6".to_owned(),
        Protocol::SCTP => "sctp".to_owned(),
        Protocol::UDPLITE => "udplite".to_owned(),
        Protocol(number) => number.to_string(),
    }
}

/// `tcp/5432`, `icmp/8`, or the protocol alone where it has no ports.
pub(crate) fn service(protocol: Protocol, port: u16) -> String {
    if protocol.has_ports() {
        format!("{}/{port}", name(protocol))
    } else if protocol.is_icmp() {
        // Type and code (see Flow::port); rules name the type.
        format!("icmp/{}", port >> 8)
    } else {
        name(protocol)
    }
}

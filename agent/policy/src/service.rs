//! Protocols and services as rules name them: what a report says can be written into a rule.

use bulkhead_common::Protocol;

use crate::language::PortSpan;

/// `tcp`, `icmpv6`, `gre`, or the number of a protocol that rules have no name for.
pub fn protocol_name(protocol: Protocol) -> String {
    match PortSpan::all(protocol).to_string() {
        number if number.starts_with("ip/") => protocol.0.to_string(),
        name => name.trim_end_matches("/*").to_owned(),
    }
}

/// Where one connection goes: `tcp/5432`, `icmp/8`, `icmpv6/1.4`, `gre`, `ip/97`. The code of an ICMP message is left
/// out where it is 0.
pub fn service(protocol: Protocol, port: u16) -> String {
    match port.to_be_bytes() {
        [kind, 0] if protocol.is_icmp() => format!("{}/{kind}", protocol_name(protocol)),
        _ => PortSpan { protocol, first: port, last: port }.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Ports;

    #[test]
    fn services_are_named_as_rules_name_them() {
        for (protocol, port, name, written) in [
            (Protocol::TCP, 5432, "tcp", "tcp/5432"),
            (Protocol::UDP, 53, "udp", "udp/53"),
            (Protocol::SCTP, 9, "sctp", "sctp/9"),
            (Protocol::ICMP, 0x800, "icmp", "icmp/8"),
            (Protocol::ICMP, 0x304, "icmp", "icmp/3.4"),
            (Protocol::ICMPV6, 0x8000, "icmpv6", "icmpv6/128"),
            (Protocol::ICMPV6, 0x104, "icmpv6", "icmpv6/1.4"),
            (Protocol(47), 0, "gre", "gre"),
            (Protocol(97), 0, "97", "ip/97"),
        ] {
            assert_eq!((protocol_name(protocol).as_str(), service(protocol, port).as_str()), (name, written));
            let rule: Ports = written.parse().unwrap_or_else(|e| panic!("{written}: {e:?}"));
            assert!(rule.holds(protocol, port), "a rule for {written} opens it");
        }
    }
}

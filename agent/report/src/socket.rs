//! Sockets that were refused as they were asked for, in the words of the reports.

use bulkhead_common::{Event, Hook, Protocol, Reason, Unseen};
use bulkhead_policy::{PortSpan, protocol_name};

/// What a process asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamedSocket {
    /// An IP protocol, or the kind of a socket whose packets no program sees.
    pub(crate) protocol: String,
    /// What a rule would have to open: all of the protocol, since no port is known yet.
    pub(crate) service: String,
}

impl NamedSocket {
    /// None if the record is of a call or packet that had a peer.
    pub(crate) fn of(event: &Event) -> Option<Self> {
        if event.hook != Hook::Create as u32 {
            return None;
        }
        if event.port != 0 || event.reason == Reason::UnseenSocket as u8 {
            let name =
                Unseen(event.port).name().map_or_else(|| format!("family-{}", event.port), str::to_owned);
            return Some(Self { protocol: name.clone(), service: name });
        }
        let protocol = Protocol(event.protocol);
        let all = PortSpan { protocol, first: 0, last: u16::MAX };
        Some(Self { protocol: protocol_name(protocol), service: all.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;

    use super::*;

    fn event(reason: Reason, protocol: u8, port: u16) -> Event {
        Event { hook: Hook::Create as u32, reason: reason as u8, protocol, port, ..Event::zeroed() }
    }

    #[test]
    fn sockets_are_named_by_their_protocol_or_kind() {
        for (event, protocol, service) in [
            (event(Reason::RawSocket, 1, 0), "icmp", "icmp"),
            (event(Reason::RawSocket, 6, 0), "tcp", "tcp/*"),
            (event(Reason::RawSocket, 255, 0), "255", "ip/255"),
            (event(Reason::SocketMemory, 17, 0), "udp", "udp/*"),
            (event(Reason::UnseenSocket, 0, 17), "packet", "packet"),
            (event(Reason::Unidentified, 0, 40), "vsock", "vsock"),
            (event(Reason::UnseenSocket, 0, 99), "family-99", "family-99"),
        ] {
            let named = NamedSocket::of(&event).unwrap();
            assert_eq!((named.protocol.as_str(), named.service.as_str()), (protocol, service));
        }
        assert_eq!(NamedSocket::of(&Event::zeroed()), None);
    }
}

//! A connection as one of its ends sees it, which is how the kernel judges it.

use bulkhead_common::{Address, Decision, Direction, Flow, Peer, Protocol, decide};

use crate::{compile::Compiled, language::WorkloadId};

/// What the end of a workload knows of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OneEnd {
    /// The workload.
    pub own: WorkloadId,
    /// Which way the connection is opened, seen from there.
    pub direction: Direction,
    /// The workload at the other end, where it is known by its socket.
    pub peer: Option<WorkloadId>,
    /// The other end's address.
    pub peer_address: Address,
    /// IP protocol.
    pub protocol: Protocol,
    /// The service port ([`Flow::port`]).
    pub port: u16,
}

impl Compiled {
    /// What the allowlist of this end says at `now_ns` (nanoseconds since the Unix epoch).
    pub fn decide(&self, end: &OneEnd, now_ns: u64) -> Decision {
        let by_address = self.peer(end.peer_address);
        let peer = match end.peer {
            Some(workload) => {
                let end = self.endpoints[workload.0];
                Peer { subject: end.subject, class: end.peer, address: by_address.class }
            }
            None => Peer { subject: by_address.subject, class: by_address.class, address: by_address.class },
        };
        let flow = Flow { direction: end.direction, protocol: end.protocol, port: end.port, peer };
        decide(&self.at(now_ns), &self.endpoints[end.own.0], &flow)
    }
}

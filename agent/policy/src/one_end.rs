//! A connection as one of its ends sees it, which is how the kernel judges it.

use bulkhead_common::{
    Address, Decision, Direction, Endpoint, Flow, Message, Peer, Protocol, Reason, RuleId, Verdict, decide,
};

use crate::{
    compile::{Ahead, Compiled},
    language::WorkloadId,
};

/// What the end of a workload knows of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OneEnd {
    /// The workload.
    pub own: WorkloadId,
    /// Which way the connection is opened, seen from there.
    pub direction: Direction,
    /// The workload at the other end, where it is known by its socket.
    pub peer: Option<WorkloadId>,
    /// The other end's address, which tells who it is if its socket does not.
    pub peer_address: Address,
    /// IP protocol.
    pub protocol: Protocol,
    /// The service port ([`Flow::port`]).
    pub port: u16,
}

impl Compiled {
    /// What the allowlist of this end says at `now_ns` (nanoseconds since the Unix epoch).
    pub fn decide(&self, end: &OneEnd, now_ns: u64) -> Decision {
        self.judge(end.own, &end.flow(self.other_end(end)), now_ns)
    }

    /// What a workload's allowlist says of a flow at `now_ns`. Of what IP does not work without, a process needs a rule for
    /// what it sends alone.
    pub(crate) fn judge(&self, own: WorkloadId, flow: &Flow, now_ns: u64) -> Decision {
        let local = &self.endpoints[own.0];
        essential(local, flow).unwrap_or_else(|| decide(&self.at(now_ns), local, flow))
    }

    /// The verdict on each of `ends` at its time, of whom there are at most `MANY`. Each step is taken for all of them
    /// before the next one: in a large policy they wait for memory at the same time then.
    pub(crate) fn verdicts<const MANY: usize>(&self, ends: &[(OneEnd, u64)]) -> [Verdict; MANY] {
        debug_assert!(ends.len() <= MANY, "all of them are judged");
        let mut peers = [Peer::default(); MANY];
        let mut ahead = [Ahead::NOTHING; MANY];
        let mut verdicts = [Verdict::Denied; MANY];
        for ((end, _), (peer, ahead)) in ends.iter().zip(peers.iter_mut().zip(&mut ahead)) {
            *peer = self.other_end(end);
            *ahead = Ahead::of(self, self.endpoints[end.own.0].subject, end.direction);
        }
        for (peer, ahead) in peers.iter().zip(&mut ahead).take(ends.len()) {
            ahead.towards(self, *peer);
        }
        for (((end, now_ns), verdict), (peer, ahead)) in
            ends.iter().zip(&mut verdicts).zip(peers.into_iter().zip(ahead))
        {
            let local = &self.endpoints[end.own.0];
            let flow = end.flow(peer);
            let decided = || decide(&ahead.at(self, *now_ns), local, &flow);
            *verdict = essential(local, &flow).unwrap_or_else(decided).verdict;
        }
        verdicts
    }

    #[inline(always)]
    fn other_end(&self, end: &OneEnd) -> Peer {
        if let Some(workload) = end.peer {
            let end = self.endpoints[workload.0];
            return Peer { subject: end.subject, class: end.peer };
        }
        let entry = self.peer(end.peer_address);
        Peer { subject: entry.subject, class: entry.class }
    }
}

/// The decision on what needs no rule on its way in.
#[inline(always)]
fn essential(local: &Endpoint, flow: &Flow) -> Option<Decision> {
    let is_essential = flow.protocol.is_icmp()
        && flow.direction == Direction::Ingress
        && Message::arriving(flow.protocol, flow.port).is_essential();
    is_essential.then(|| Decision::new(local, Reason::Essential, RuleId::NONE))
}

impl OneEnd {
    fn flow(&self, peer: Peer) -> Flow {
        Flow { direction: self.direction, protocol: self.protocol, port: self.port, peer }
    }
}

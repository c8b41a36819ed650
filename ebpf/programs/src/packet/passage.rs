//! One packet, and the decision on it: the same for the generation in force and for one that is only compared with it.

use core::ptr;

use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock},
    helpers::generated::bpf_get_socket_cookie,
};
use bulkhead_common::{
    Address, Decision, Direction, Endpoint, Flow, Message, Origin, Outcome, Peer, PeerFlow, PeerFlowKey,
    Protocol, Reason, RuleId, SocketState,
};

use super::steps::{answered, find_exchange, forges, identify, mark_listener, poses, remember, settle};
use crate::{
    cached::{self, Moment},
    generation::Generation,
    identity::Local,
    maps::OLDER,
    parse::{Packet, parse},
    socket,
    verifier::{Fact, forget_local, forget_outcome, forget64},
};

/// One packet on its way, and what is found out about it. `NOTES`: is the decision in force? Then it leaves its marks in
/// sockets and exchanges; one that is only compared with it does not.
pub(super) struct Passage<const NOTES: bool> {
    pub(super) skb: *mut __sk_buff,
    /// The storage of the packet's socket, or null.
    pub(super) state: *mut SocketState,
    /// When what is found out may be kept.
    pub(super) moment: Moment,
    /// The packet's full socket if it is a TCP connection's or listener's, and not a raw one that speaks TCP; else null.
    pub(super) stream: *mut bpf_sock,
    pub(super) generation: Generation,
    pub(super) local: Local,
    pub(super) way: Direction,
    /// Does it stay in its network namespace?
    pub(super) on_loopback: Fact,
    pub(super) packet: Packet,
    /// The other end's address and port, as the socket sees them.
    pub(super) remote: Address,
    pub(super) remote_port: u16,
    /// Cgroup of the workload at the other end, or 0.
    pub(super) peer_cgroup: u64,
    /// Has a socket been found at the other end, whosoever it is?
    pub(super) found: Fact,
    /// The exchange of datagrams that the packet belongs to, or null.
    pub(super) known: *mut PeerFlow,
    /// The flow that the packet belongs to.
    pub(super) flow: Flow,
    pub(super) outcome: Outcome,
    /// Has a refusal been reported already?
    pub(super) reported: Fact,
}

impl<const NOTES: bool> Passage<NOTES> {
    /// A packet of which nothing is known yet; what cannot be parsed is malformed.
    #[inline(always)]
    pub(super) fn new(
        skb: *mut __sk_buff,
        generation: Generation,
        local: Local,
        way: Direction,
        on_loopback: Fact,
    ) -> Self {
        Self {
            skb,
            state: ptr::null_mut(),
            moment: Moment::never(),
            stream: ptr::null_mut(),
            generation,
            local: forget_local(local),
            way,
            on_loopback,
            packet: Packet::default(),
            remote: Address::default(),
            remote_port: 0,
            peer_cgroup: 0,
            found: Fact::of(false),
            known: ptr::null_mut(),
            flow: Flow { direction: way, protocol: Protocol(0), port: 0, peer: Peer::default() },
            outcome: forget_outcome(Outcome::new(
                Decision::new(&local.endpoint, Reason::Malformed, RuleId::NONE),
                false,
            )),
            reported: Fact::of(false),
        }
    }

    /// Parses the packet and decides on it; tells the time if it asked for it (see [`crate::count::decided`]). None: what
    /// cannot be parsed is nobody's who needs a rule.
    #[inline(always)]
    pub(super) fn decide(&mut self) -> Option<u64> {
        parse(self.skb, &mut self.packet);
        self.name_the_other_end();
        if self.packet.is_well_formed.holds() {
            let now = forget64(self.judge());
            self.outcome.0 = forget64(self.outcome.0);
            return Some(now);
        }
        self.is_isolated().then_some(0)
    }

    /// Does the local end need a rule for anything?
    #[inline(always)]
    pub(super) fn is_isolated(&self) -> bool {
        self.local.endpoint.flags & (Endpoint::ISOLATE_EGRESS | Endpoint::ISOLATE_INGRESS) != 0
    }

    /// Could the sender have named somebody else as the source?
    #[inline(always)]
    fn may_forge(&self) -> bool {
        matches!(self.way, Direction::Egress) && self.stream.is_null()
    }

    /// Does it name another workload as the source?
    #[inline(always)]
    fn is_forged(&mut self) -> bool {
        if !self.on_loopback.holds() {
            return self.names_source() && poses(self);
        }
        if NOTES && self.state().is_none_or(|state| state.passed[Direction::Egress as usize] == 0) {
            // Its first datagram on this host: who had its address and port before may be known by them still.
            cached::datagrams_changed();
        }
        forges(self)
    }

    /// Has it asked to name a source that its network namespace may not have? Who is in no workload and has the privilege to
    /// may send as whom it likes anyway.
    #[inline(always)]
    fn names_source(&self) -> bool {
        let privilege = if self.is_isolated() { SocketState::BY_PRIVILEGE } else { 0 };
        self.state().is_some_and(|state| state.names_source & (SocketState::BY_ANYBODY | privilege) != 0)
    }

    /// The other end as the packet has it.
    #[inline(always)]
    fn name_the_other_end(&mut self) {
        self.flow.protocol = self.packet.protocol;
        (self.remote, self.remote_port) = match self.way {
            Direction::Egress => (self.packet.target, self.packet.target_port),
            Direction::Ingress => (self.packet.source, self.packet.source_port),
        };
    }

    /// Finds the decision; tells the time if it asked for it, else 0.
    #[inline(always)]
    fn judge(&mut self) -> u64 {
        if self.may_forge() && self.is_forged() {
            return 0;
        }
        if !self.is_isolated() {
            self.outcome =
                Outcome::new(Decision::new(&self.local.endpoint, Reason::NotIsolated, RuleId::NONE), false);
            return 0;
        }
        if self.stream.is_null() {
            return self.datagram();
        }
        self.tcp();
        0
    }

    /// This end's port.
    #[inline(always)]
    fn local_port(&self) -> u16 {
        match self.way {
            Direction::Egress => self.packet.source_port,
            Direction::Ingress => self.packet.target_port,
        }
    }

    /// A segment belongs to a connection, and the connection to who opened it.
    #[inline(always)]
    fn tcp(&mut self) {
        // SAFETY: `stream` is a full socket: checked by the caller.
        let listens = unsafe { (*self.stream).state } == socket::TCP_LISTEN;
        if !listens {
            // The packet's addresses may be translated already; the socket's are what its owner asked for.
            // SAFETY: as above.
            (self.remote, self.remote_port) = unsafe { socket::connected_peer(self.stream) };
        }
        identify(self);
        if NOTES && listens && self.packet.opens.holds() && matches!(self.way, Direction::Ingress) {
            mark_listener(self);
        }
        let origin =
            if listens { Origin::Listener as u16 } else { self.state().map_or(0, |state| state.origin) };
        if origin == Origin::Initiator as u16 {
            self.ask(Direction::Egress, self.remote_port);
            return;
        }
        self.ask(Direction::Ingress, self.local_port());
        if origin == Origin::Listener as u16 {
            return;
        }
        // Of unknown origin. Before the programs were there, either orientation may be the true one. Since then no
        // connection begins unseen: whose mark is missing has hidden it, and needs a rule for both.
        if self.outcome.refuses() == self.is_older() {
            self.ask(Direction::Egress, self.remote_port);
        }
    }

    /// A datagram answers one that went the other way, or stands for itself. As [`Self::judge`].
    #[inline(always)]
    fn datagram(&mut self) -> u64 {
        identify(self);
        let port = match self.way {
            Direction::Egress => self.remote_port,
            Direction::Ingress => self.local_port(),
        };
        find_exchange(self);
        let answered = answered(self, port);
        if answered != 0 {
            settle(self);
            if !self.outcome.stops() {
                // What is only marked has been reported as the exchange was opened.
                self.reported = Fact::of(self.outcome.refuses());
                return answered;
            }
            if !NOTES {
                // To be counted with what it answers: see `super::shadow`.
                (self.reported, self.remote_port) = (Fact::of(true), self.flow.port);
            }
        }
        if self.is_essential() {
            self.outcome =
                Outcome::new(Decision::new(&self.local.endpoint, Reason::Essential, RuleId::NONE), false);
            return 0;
        }
        self.ask(self.way, port);
        if NOTES && !self.outcome.stops() { remember(self, port) } else { 0 }
    }

    /// Asks for the verdict on the flow as opened in `direction` towards service port `port`.
    #[inline(always)]
    fn ask(&mut self, direction: Direction, port: u16) {
        self.flow.direction = direction;
        self.flow.port = port;
        settle(self);
    }

    /// Is this a connection that was there before the programs?
    #[inline(always)]
    fn is_older(&self) -> bool {
        // SAFETY: the program's context.
        OLDER.get_ptr(unsafe { bpf_get_socket_cookie(self.skb.cast()) }).is_some()
    }

    /// The storage of the packet's socket.
    #[inline(always)]
    pub(super) fn state<'a>(&self) -> Option<&'a mut SocketState> {
        // SAFETY: a storage, or null.
        unsafe { self.state.as_mut() }
    }

    /// Key of the exchange of datagrams that the packet belongs to.
    #[inline(always)]
    pub(super) fn exchange(&self) -> PeerFlowKey {
        PeerFlowKey {
            // SAFETY: the program's context.
            cookie: unsafe { bpf_get_socket_cookie(self.skb.cast()) },
            address: self.remote,
            port: if self.flow.protocol.has_ports() { self.remote_port } else { 0 },
            protocol: self.flow.protocol.0,
            reserved: [0; 5],
        }
    }

    /// Is it what IP does not work without? The kernel's own sockets bear no tag, and processes' do.
    #[inline(always)]
    fn is_essential(&self) -> bool {
        let message = Message {
            protocol: self.packet.protocol,
            kind: self.packet.target_port,
            way: self.way,
            remote: self.remote,
            hop_limit: self.packet.hop_limit,
            is_kernels: self.state().is_none(),
        };
        message.is_essential()
    }
}

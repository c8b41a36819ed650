//! cgroup_skb/egress and ingress: the authority. Every IP packet of a socket passes here, also those of sockets
//! that are older than the agent or were handed to another process.
//!
//! The steps are subprograms that share one [`Passage`]: a chain of calls has 512 bytes of stack in all, and what
//! is not inlined is verified with the registers of its caller alone.

mod steps;

use core::ptr;

use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock},
    helpers::generated::{bpf_get_socket_cookie, bpf_sk_fullsock},
    macros::cgroup_skb,
    programs::SkBuffContext,
};
use bulkhead_common::{
    Address, CounterKey, Decision, Direction, Endpoint, Flow, Hook, Origin, Outcome, Peer, PeerFlowKey,
    Protocol, Reason, RuleId, SocketState,
};

use self::steps::{answered, forges, identify, mark_listener, remember, settle};
use crate::{
    PASS, REFUSE,
    cached::{self, Kept, Moment, UNCOUNTED},
    count,
    generation::Generation,
    identity::{self, Local},
    maps::OLDER,
    parse::{Packet, parse},
    report::{self, Refused},
    socket,
    verifier::{Fact, forget_local, forget32, forget64},
};

/// Index of the loopback device in every network namespace (`LOOPBACK_IFINDEX`, include/net/flow.h).
const LOOPBACK: u32 = 1;

/// Packets that a workload's sockets send.
#[cgroup_skb(egress)]
pub fn egress(ctx: SkBuffContext) -> i32 {
    // SAFETY: the program's context. Read here: behind a branch on the way LLVM would compute the field's address,
    // which the verifier does not accept of a context.
    let device = unsafe { (*ctx.skb.skb).ifindex };
    judge(&ctx, Direction::Egress, device)
}

/// Packets that arrive for a workload's sockets.
#[cgroup_skb(ingress)]
pub fn ingress(ctx: SkBuffContext) -> i32 {
    // SAFETY: as above.
    let device = unsafe { (*ctx.skb.skb).ingress_ifindex };
    judge(&ctx, Direction::Ingress, device)
}

/// One packet on its way, and what is found out about it.
struct Passage {
    skb: *mut __sk_buff,
    /// The storage of the packet's socket, or null.
    state: *mut SocketState,
    /// When what is found out may be kept.
    moment: Moment,
    /// The packet's full socket if it is a TCP connection's or listener's, and not a raw one that speaks TCP; else null.
    stream: *mut bpf_sock,
    generation: Generation,
    local: Local,
    way: Direction,
    /// Does it stay in its network namespace?
    on_loopback: Fact,
    packet: Packet,
    /// The other end's address and port, as the socket sees them.
    remote: Address,
    remote_port: u16,
    /// Cgroup of the workload at the other end, or 0.
    peer_cgroup: u64,
    /// Has a socket been found at the other end, whosoever it is?
    found: Fact,
    /// The flow that the packet belongs to.
    flow: Flow,
    outcome: Outcome,
    /// Has a refusal been reported already?
    reported: Fact,
}

#[inline(always)]
fn judge(ctx: &SkBuffContext, way: Direction, device: u32) -> i32 {
    let skb = ctx.skb.skb;
    let moment = Moment::now();
    let on_loopback = Fact::of(device == LOOPBACK);
    // SAFETY: the program's context.
    let (sk, bytes) = unsafe { ((*skb).__bindgen_anon_2.sk, (*skb).len) };
    // SAFETY: a socket that is not null; what is no full socket has no storage.
    let state = if sk.is_null() { ptr::null_mut() } else { unsafe { socket::storage(sk.cast()) } };
    // SAFETY: a storage, or null.
    if let Some(state) = unsafe { state.as_ref() }
        // SAFETY: the packet's socket, whose storage this is.
        && let Some(bucket) = unsafe { cached::passes(skb, sk, state, way, on_loopback, moment) }
    {
        if bucket != UNCOUNTED {
            count::again(bucket, bytes);
        }
        return PASS;
    }
    let Some(generation) = Generation::active() else { return PASS };
    // SAFETY: the storage of the packet's socket, or null.
    let local = unsafe { identity::of_packet(generation, skb, state) };
    // SAFETY: the helper takes a socket or a request socket that is not null.
    let full = if sk.is_null() { sk } else { unsafe { bpf_sk_fullsock(sk) } };
    // SAFETY: a full socket.
    let stream = if !full.is_null() && unsafe { socket::is_tcp(full) } { full } else { ptr::null_mut() };
    // Whoever sends a datagram can name its source: on this host that would be to pose as another workload.
    let may_forge = matches!(way, Direction::Egress) && on_loopback.holds() && stream.is_null();
    let isolated = local.endpoint.flags & (Endpoint::ISOLATE_EGRESS | Endpoint::ISOLATE_INGRESS) != 0;
    if !isolated && !may_forge {
        // SAFETY: a storage, or null.
        if let Some(state) = unsafe { state.as_mut() } {
            cached::keep_unmatched(state, !stream.is_null(), moment);
        }
        return PASS;
    }
    let mut passage = Passage {
        skb,
        state,
        // Before anything is asked about the other end.
        moment: if stream.is_null() { moment.for_datagrams(on_loopback) } else { moment },
        stream,
        generation,
        local: forget_local(local),
        way,
        on_loopback,
        packet: Packet::default(),
        remote: Address::default(),
        remote_port: 0,
        peer_cgroup: 0,
        found: Fact::of(false),
        flow: Flow { direction: way, protocol: Protocol(0), port: 0, peer: Peer::default() },
        outcome: Outcome::new(Decision::new(&local.endpoint, Reason::Malformed, RuleId::NONE), false),
        reported: Fact::of(false),
    };
    parse(skb, &mut passage.packet);
    passage.name_the_other_end();
    if passage.packet.is_well_formed.holds() {
        passage.judge();
        passage.outcome.0 = forget64(passage.outcome.0);
    } else if !passage.is_isolated() {
        return PASS;
    }
    say!(
        ctx,
        "packet: subject {} direction {} port {} peer {} verdict {} reason {}",
        passage.local.endpoint.subject.0,
        passage.flow.direction as u8,
        passage.flow.port,
        passage.flow.peer.class.0,
        passage.outcome.verdict(),
        passage.outcome.reason()
    );
    let bucket =
        if passage.is_isolated() || passage.outcome.refuses() { count(&passage, bytes) } else { UNCOUNTED };
    if !passage.outcome.refuses() {
        let kept = Kept { bucket: forget32(bucket), way, on_loopback };
        cached::keep(skb, passage.moment, passage.outcome, kept);
        return PASS;
    }
    if passage.reported.holds() {
        return PASS;
    }
    refuse(&passage);
    if passage.outcome.stops() { REFUSE } else { PASS }
}

/// Counts the packet; tells where.
#[inline(always)]
fn count(passage: &Passage, bytes: u32) -> u32 {
    let (subject, generation) = (passage.local.endpoint.subject.0, passage.generation.number());
    let key = CounterKey::new(generation, subject, &passage.flow, passage.outcome, Hook::Packet);
    count::decided(key, bytes, passage.packet.opens.holds())
}

impl Passage {
    /// Does the local end need a rule for anything?
    #[inline(always)]
    fn is_isolated(&self) -> bool {
        self.local.endpoint.flags & (Endpoint::ISOLATE_EGRESS | Endpoint::ISOLATE_INGRESS) != 0
    }

    /// Could the sender have named somebody else as the source?
    #[inline(always)]
    fn may_forge(&self) -> bool {
        matches!(self.way, Direction::Egress) && self.on_loopback.holds() && self.stream.is_null()
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

    /// Finds the decision.
    #[inline(always)]
    fn judge(&mut self) {
        if self.may_forge() {
            if self.state().is_none_or(|state| state.passed[Direction::Egress as usize] == 0) {
                // Its first datagram on this host: who had its address and port before may be known by them still.
                cached::datagrams_changed();
            }
            if forges(self) {
                return;
            }
        }
        if !self.is_isolated() {
            self.outcome =
                Outcome::new(Decision::new(&self.local.endpoint, Reason::NotIsolated, RuleId::NONE), false);
            return;
        }
        if self.stream.is_null() {
            self.datagram();
        } else {
            self.tcp();
        }
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
        if listens && self.packet.opens.holds() && matches!(self.way, Direction::Ingress) {
            mark_listener(self);
        }
        let origin =
            if listens { Origin::Listener as u32 } else { self.state().map_or(0, |state| state.origin) };
        if origin == Origin::Initiator as u32 {
            self.ask(Direction::Egress, self.remote_port);
            return;
        }
        self.ask(Direction::Ingress, self.local_port());
        if origin == Origin::Listener as u32 {
            return;
        }
        // Of unknown origin. Before the programs were there, either orientation may be the true one. Since then no
        // connection begins unseen: whose mark is missing has hidden it, and needs a rule for both.
        if self.outcome.refuses() == self.is_older() {
            self.ask(Direction::Egress, self.remote_port);
        }
    }

    /// A datagram answers one that went the other way, or stands for itself.
    #[inline(always)]
    fn datagram(&mut self) {
        identify(self);
        let port = match self.way {
            Direction::Egress => self.remote_port,
            Direction::Ingress => self.local_port(),
        };
        if answered(self, port) {
            settle(self);
            if !self.outcome.stops() {
                // What is only marked has been reported as the exchange was opened.
                self.reported = Fact::of(self.outcome.refuses());
                return;
            }
        }
        if self.is_essential() {
            self.outcome =
                Outcome::new(Decision::new(&self.local.endpoint, Reason::Essential, RuleId::NONE), false);
            return;
        }
        self.ask(self.way, port);
        if !self.outcome.stops() {
            self.packet.opens = Fact::of(remember(self, port));
        }
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
    fn state<'a>(&self) -> Option<&'a mut SocketState> {
        // SAFETY: a storage, or null.
        unsafe { self.state.as_mut() }
    }

    /// Key of the exchange of datagrams that the packet belongs to.
    #[inline(always)]
    fn exchange(&self) -> PeerFlowKey {
        PeerFlowKey {
            // SAFETY: the program's context.
            cookie: unsafe { bpf_get_socket_cookie(self.skb.cast()) },
            address: self.remote,
            port: if self.flow.protocol.has_ports() { self.remote_port } else { 0 },
            protocol: self.flow.protocol.0,
            reserved: [0; 5],
        }
    }

    /// What IP does not work without (RFC 4861 section 4, RFC 8201): path-MTU errors on their way in, and neighbour
    /// discovery, which never crosses a router and proves it by its hop limit. Only the kernel's own on its way out:
    /// a process could send anything as such (its sockets are tagged, the kernel's are not).
    #[inline(always)]
    fn is_essential(&self) -> bool {
        const V4_FRAGMENTATION_NEEDED: u16 = 3 << 8 | 4;
        const V6_PACKET_TOO_BIG: u16 = 2;
        let kind = self.packet.target_port;
        let arrives = matches!(self.way, Direction::Ingress);
        match self.packet.protocol {
            Protocol::ICMP => arrives && kind == V4_FRAGMENTATION_NEEDED,
            Protocol::ICMPV6 => {
                let discovery = matches!(kind >> 8, 133..=137) && self.packet.hop_limit == 255;
                let on_link = matches!(self.remote.octets(), [0xfe, 0x80..=0xbf, ..] | [0xff, 0x02, ..]);
                let kernels = arrives || (on_link && self.state().is_none());
                (discovery && kernels) || (arrives && kind >> 8 == V6_PACKET_TOO_BIG)
            }
            _ => false,
        }
    }
}

/// Reports a refusal.
#[inline(never)]
fn refuse(passage: &Passage) {
    let mut state = passage.state();
    // A connection that would be refused is reported once, not once a segment. A listener has many connections.
    if !passage.outcome.stops()
        && !passage.stream.is_null()
        && let Some(state) = &mut state
        // SAFETY: a full socket: it has storage.
        && unsafe { (*passage.stream).state } != socket::TCP_LISTEN
    {
        let number = passage.generation.number();
        if state.reported == number {
            return;
        }
        state.reported = number;
    }
    report::refusal(&Refused {
        generation: passage.generation,
        local: &passage.local,
        flow: &passage.flow,
        outcome: passage.outcome,
        address: &passage.remote,
        port: passage.remote_port,
        peer_cgroup: passage.peer_cgroup,
        process: state.as_deref().map(|state| &state.process),
        hook: Hook::Packet,
        // SAFETY: the program's context.
        cookie: unsafe { bpf_get_socket_cookie(passage.skb.cast()) },
    });
}

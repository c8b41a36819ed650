//! cgroup/connect4, connect6, sendmsg4, sendmsg6: the caller and the destination before any translation.
//!
//! The only hooks where a TCP caller gets an error at once: a SYN that is dropped later makes connect() hang.

mod shadow;

use core::ptr;

use aya_ebpf::{
    bindings::bpf_sock_addr, helpers::generated::bpf_get_socket_cookie, macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use bulkhead_common::{
    Address, CounterKey, Decision, Direction, Endpoint, Flow, Hook, Origin, Outcome, Peer, PeerEntry,
    PeerFlowKey, Process, Protocol, Reason, RuleId, SubjectId,
};

use crate::{
    PASS, REFUSE, cached, count, exchange,
    generation::{Generation, verdict},
    identity::{self, Local},
    report::{self, Refused},
    socket,
    verifier::{Fact, forget_address, forget_outcome, forget32},
};

/// connect() to an IPv4 address.
#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    call(&ctx, Hook::Connect, ipv4(&ctx))
}

/// connect() to an IPv6 address, IPv4-mapped ones included.
#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    call(&ctx, Hook::Connect, ipv6(&ctx))
}

/// sendto() or sendmsg() with an IPv4 address on a UDP socket.
#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    call(&ctx, Hook::Sendmsg, ipv4(&ctx))
}

/// sendto() or sendmsg() with an IPv6 address on a UDP socket.
#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    call(&ctx, Hook::Sendmsg, ipv6(&ctx))
}

#[inline(always)]
fn ipv4(ctx: &SockAddrContext) -> Address {
    // SAFETY: the program's context.
    Address::v4(unsafe { (*ctx.sock_addr).user_ip4 }.to_ne_bytes())
}

#[inline(always)]
fn ipv6(ctx: &SockAddrContext) -> Address {
    // SAFETY: the program's context. Volatile: the verifier wants these words one by one.
    unsafe {
        let words = (&raw const (*ctx.sock_addr).user_ip6).cast::<u32>();
        Address::from_words([
            ptr::read_volatile(words),
            ptr::read_volatile(words.add(1)),
            ptr::read_volatile(words.add(2)),
            ptr::read_volatile(words.add(3)),
        ])
    }
}

/// The socket's protocol. MPTCP (262) does not fit a byte of an IP header: on the wire it is TCP.
#[inline(always)]
fn protocol(ctx: &SockAddrContext) -> Protocol {
    const IPPROTO_MPTCP: u32 = 262;
    // SAFETY: the program's context.
    match unsafe { (*ctx.sock_addr).protocol } {
        IPPROTO_MPTCP => Protocol::TCP,
        number => Protocol(number as u8),
    }
}

/// One call, and what is found out about it. Shared by the steps, as in [`crate::packet`]. `NOTES`: is the decision in force?
struct Call<const NOTES: bool> {
    ctx: *mut bpf_sock_addr,
    hook: Hook,
    generation: Generation,
    /// Where to; the unspecified address stands for loopback.
    target: Address,
    port: u16,
    /// Who is behind the call.
    process: Process,
    /// Tag of the socket: cgroup of its owner, and the one that identified it.
    owner: u64,
    anchor: u64,
    /// The end whose allowlist is asked.
    local: Local,
    /// Who listens at the target, if it is on this host.
    listener: Local,
    flow: Flow,
    outcome: Outcome,
    /// Cgroup of the workload at the other end of `flow`, or 0.
    peer_cgroup: u64,
    /// Whom the target's address names.
    by_address: Peer,
    /// Has a socket been found at the target, whosoever it is?
    found: Fact,
    /// Could the call be noted on its socket?
    marked: Fact,
}

#[inline(always)]
fn call(ctx: &SockAddrContext, hook: Hook, address: Address) -> i32 {
    let Some(generation) = Generation::active() else { return PASS };
    let mut call = Call::<true>::new(ctx, hook, generation, address);
    if call.is_refused() { REFUSE } else { PASS }
}

impl<const NOTES: bool> Call<NOTES> {
    #[inline(always)]
    fn new(ctx: &SockAddrContext, hook: Hook, generation: Generation, address: Address) -> Self {
        let task = identity::of_task(generation);
        Self {
            ctx: ctx.sock_addr,
            hook,
            generation,
            target: forget_address(destination(address)),
            // SAFETY: the program's context; only the lower half of `user_port` is the port.
            port: u16::from_be(unsafe { (*ctx.sock_addr).user_port } as u16),
            process: Process::default(),
            owner: task.cgroup,
            anchor: task.anchor,
            local: task,
            listener: Local::NOBODY,
            flow: Flow {
                direction: Direction::Egress,
                protocol: protocol(ctx),
                port: 0,
                peer: Peer::default(),
            },
            outcome: forget_outcome(Outcome::PASSES),
            peer_cgroup: 0,
            by_address: Peer::default(),
            found: Fact::of(false),
            marked: Fact::of(false),
        }
    }

    /// Both the caller's workload and the socket's must be allowed, and on loopback the listener's must agree.
    #[inline(always)]
    fn is_refused(&mut self) -> bool {
        let task = self.local.cgroup;
        mark(self);
        if !self.flow.protocol.has_ports() {
            // ICMP and the like: what is sent is known only from the packet, where the sender gets EPERM as well.
            return false;
        }
        self.flow.port = self.port;
        identify(self);
        say!(
            &SockAddrContext::new(self.ctx),
            "call: subject {} protocol {} port {} peer {}",
            self.local.endpoint.subject.0,
            self.flow.protocol.0,
            self.port,
            self.flow.peer.class.0
        );
        let owner = identity::of_tag(self.generation, self.owner, self.anchor);
        if self.flow.protocol != Protocol::TCP && answers(self, &owner) {
            return false;
        }
        if refused(self) {
            return true;
        }
        if owner.cgroup != task {
            self.local = owner;
            if refused(self) {
                return true;
            }
        }
        if self.target.is_loopback() && self.listener.endpoint.flags & Endpoint::ISOLATE_INGRESS != 0 {
            // What the listener's ingress program will see: the socket's workload, or the address that the caller has.
            self.flow.direction = Direction::Ingress;
            self.flow.peer = if owner.anchor == 0 {
                let entry = self.generation.peer(source(self));
                Peer { subject: entry.subject, class: entry.class }
            } else {
                Peer { subject: owner.endpoint.subject, class: owner.endpoint.peer }
            };
            self.peer_cgroup = owner.anchor;
            self.local = self.listener;
            return refused(self);
        }
        false
    }
}

/// Is this 0.0.0.0 or ::?
#[inline(always)]
fn is_unspecified(address: Address) -> bool {
    address.words()[3] == 0 && address.is_loopback()
}

/// The unspecified address means loopback to connect() and sendto() (net/ipv4/route.c, net/ipv6/tcp_ipv6.c): 127.0.0.1
/// and ::1 differ from it in the last word alone. Without a branch, so that the verifier need not follow six through all
/// that comes after.
#[inline(always)]
fn destination(address: Address) -> Address {
    let [a, b, c, last] = address.words();
    let unspecified_v4 = is_zero(a | b | (c ^ 0xffff_u32.to_be()) | last);
    let unspecified_v6 = is_zero(a | b | c | last);
    let loopback_v4 = u32::from_ne_bytes([127, 0, 0, 1]) * unspecified_v4;
    let loopback_v6 = 1_u32.to_be() * unspecified_v6;
    Address::from_words([a, b, c, last | loopback_v4 | loopback_v6])
}

/// From where a call on loopback comes: 127.0.0.1 or ::1, the source that routes of the loopback interface prefer, unless
/// the socket is bound to another (`ip_route_output_key_hash_rcu` in net/ipv4/route.c).
#[inline(always)]
fn source<const NOTES: bool>(call: &Call<NOTES>) -> Address {
    // SAFETY: the context's own socket.
    let (own, _) = unsafe { socket::own_address((*call.ctx).__bindgen_anon_1.sk) };
    let family = if call.target.is_v4() { Address::v4([0; 4]) } else { Address::from_words([0; 4]) };
    destination(if is_unspecified(own) { family } else { own })
}

/// 1 or 0.
#[inline(always)]
fn is_zero(word: u32) -> u32 {
    let word = forget32(word);
    forget32((word | word.wrapping_neg()) >> 31) ^ 1
}

/// Notes on the socket who calls, and that it opens a connection; learns whose socket it is.
#[inline(never)]
fn mark<const NOTES: bool>(call: &mut Call<NOTES>) {
    if NOTES {
        call.process = socket::current_process();
    }
    // SAFETY: the context's own socket, never null in these hooks.
    let sk = unsafe { (*call.ctx).__bindgen_anon_1.sk.cast() };
    // SAFETY: as above.
    let state =
        unsafe { if NOTES { socket::state_of(sk, call.owner, call.anchor) } else { socket::state(sk) } };
    let Some(state) = state else { return };
    call.marked = Fact::of(true);
    if NOTES || state.owner != call.owner {
        call.owner = state.owner;
        call.anchor = state.anchor;
    }
    if !NOTES {
        return;
    }
    state.process = call.process;
    if matches!(call.hook, Hook::Connect) {
        cached::forget(state);
        if call.flow.protocol != Protocol::TCP {
            cached::datagrams_changed();
        }
    }
    if matches!(call.hook, Hook::Connect) && call.flow.protocol == Protocol::TCP {
        state.origin = Origin::Initiator as u16;
        state.peer = 0;
        state.reported = 0;
    }
}

/// Who is at the target: on this host the tag of the socket that listens there tells, elsewhere the address.
///
/// Listeners are looked for at addresses of this machine only: one on the wildcard address would otherwise be taken
/// for whoever has the same port open anywhere in the world. An address that a workload has to itself tells who is there.
#[inline(never)]
fn identify<const NOTES: bool>(call: &mut Call<NOTES>) {
    let entry = call.generation.peer(call.target);
    call.by_address = Peer { subject: entry.subject, class: entry.class };
    call.flow.peer = call.by_address;
    let is_local = entry.flags & PeerEntry::LOCAL != 0 && entry.subject == SubjectId::NONE;
    if !call.target.is_loopback() && !is_local {
        return;
    }
    // SAFETY: the context's own socket.
    let (source, source_port) = unsafe { socket::own_address((*call.ctx).__bindgen_anon_1.sk) };
    // To an address of its own a host talks from that address, unless the socket is bound to another.
    let source = if is_unspecified(source) { call.target } else { source };
    // A connection is the listener's: see `Packet::known_by_port`.
    let source_port = if call.flow.protocol == Protocol::TCP { 0 } else { source_port };
    // SAFETY: the program's context; the socket is valid while the closure runs.
    let found = unsafe {
        socket::with_owner_of(
            call.ctx.cast(),
            call.flow.protocol,
            (source, source_port),
            (call.target, call.port),
            |listener| socket::state(listener.cast()).map(|state| (state.owner, state.anchor)),
        )
    };
    call.found = Fact::of(found.is_some());
    let Some(Some((owner, anchor))) = found else { return };
    let listener = identity::of_tag(call.generation, owner, anchor);
    if listener.anchor != 0 {
        call.listener = listener;
        call.peer_cgroup = listener.anchor;
        call.flow.peer.subject = listener.endpoint.subject;
        call.flow.peer.class = listener.endpoint.peer;
    }
}

/// The verdict of `endpoint`'s allowlist on `flow`.
///
/// Off loopback the packet may go elsewhere than to the listener that was found: the address may be of another network
/// namespace, or be translated on the way (NAT). What the address alone would allow the socket's workload is left to the
/// packet's own hook, which knows better. Of another workload that calls with its socket no packet is asked.
#[inline(always)]
fn ask<const NOTES: bool>(call: &Call<NOTES>, endpoint: &Endpoint, flow: &Flow) -> Outcome {
    let outcome = verdict(call.generation, endpoint, flow);
    if outcome.refuses() && !call.target.is_loopback() && call.local.cgroup == call.owner {
        let by_address = verdict(call.generation, endpoint, &Flow { peer: call.by_address, ..*flow });
        if !by_address.refuses() {
            return by_address;
        }
    }
    outcome
}

/// Does a datagram sent now answer one that both the caller's and the owner's workload may receive?
#[inline(never)]
fn answers<const NOTES: bool>(call: &mut Call<NOTES>, owner: &Local) -> bool {
    let key = PeerFlowKey {
        // SAFETY: the program's context.
        cookie: unsafe { bpf_get_socket_cookie(call.ctx.cast()) },
        address: call.target,
        port: call.port,
        protocol: call.flow.protocol.0,
        reserved: [0; 5],
    };
    let (known, protocol) = (exchange::known(&key), call.flow.protocol);
    // SAFETY: found just now.
    let Some(opened) = (unsafe { exchange::answered(known, protocol, Direction::Egress, call.port) }) else {
        return false;
    };
    let mut flow = Flow { direction: Direction::Ingress, port: opened.port, ..call.flow };
    if !call.found.holds()
        && let Some(endpoint) = call.generation.endpoint(opened.peer)
    {
        // Who asked has closed its socket meanwhile.
        flow.peer.subject = endpoint.subject;
        flow.peer.class = endpoint.peer;
    }
    let outcome = ask(call, &call.local.endpoint, &flow);
    if !call.marked.holds() || outcome.stops() || ask(call, &owner.endpoint, &flow).stops() {
        return false;
    }
    // What is only marked has been reported as the exchange was opened.
    call.outcome = forget_outcome(outcome);
    true
}

/// Asks `local` for the verdict on `flow`, counts and reports a refusal; true if it stops the call.
#[inline(always)]
fn refused<const NOTES: bool>(call: &mut Call<NOTES>) -> bool {
    if !refuses(call) {
        return false;
    }
    if NOTES {
        report(call);
        let (subject, number) = (call.local.endpoint.subject.0, call.generation.number());
        count::decided(CounterKey::new(number, subject, &call.flow, call.outcome, call.hook), 0, false, 0);
    }
    call.outcome.stops()
}

/// Asks `local` for the verdict on `flow`.
#[inline(never)]
fn refuses<const NOTES: bool>(call: &mut Call<NOTES>) -> bool {
    let peer = &mut call.flow.peer;
    peer.subject.0 = forget32(peer.subject.0);
    peer.class.0 = forget32(peer.class.0);
    let mut outcome = ask(call, &call.local.endpoint, &call.flow);
    if !call.marked.holds() && !outcome.is(Reason::NotIsolated) {
        let decision = Decision::new(&call.local.endpoint, Reason::SocketMemory, RuleId::NONE);
        outcome = Outcome::new(decision, false);
    }
    if !outcome.refuses() {
        if !call.outcome.refuses() {
            call.outcome = forget_outcome(outcome);
        }
        return false;
    }
    // SAFETY: the context's own socket.
    if NOTES && let Some(state) = unsafe { socket::state((*call.ctx).__bindgen_anon_1.sk.cast()) } {
        state.reported = call.generation.number();
    }
    call.outcome = forget_outcome(outcome);
    true
}

/// Reports a refusal. Not where the verdict is asked for: both together take more stack than is left.
#[inline(never)]
fn report<const NOTES: bool>(call: &Call<NOTES>) {
    report::refusal(&Refused {
        generation: call.generation,
        local: &call.local,
        flow: &call.flow,
        outcome: &call.outcome,
        address: &call.target,
        port: &call.port,
        peer_cgroup: &call.peer_cgroup,
        process: Some(&call.process),
        hook: call.hook,
        context: call.ctx.cast(),
    });
}

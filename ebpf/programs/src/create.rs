//! cgroup/sock_create: notes on every socket whose it is, and refuses those that no rule allows.

use core::ptr;

use aya_ebpf::{macros::cgroup_sock, programs::SockContext};
use bulkhead_common::{
    Address, CounterKey, Decision, Direction, Endpoint, Flow, Hook, NewSocket, Outcome, Peer, Process,
    Protocol, Reason, RuleId, SocketState, Unseen, decide_socket,
};

use crate::{
    PASS, REFUSE, count,
    generation::Generation,
    identity::{self, Local},
    report::{self, Refused},
    socket,
    verifier::Fact,
};

/// Do MPTCP's further subflows belong to the kernel's cgroup and not to their owner's, as before Linux 5.11
/// (`mptcp_attach_cgroup` in net/mptcp/subflow.c)? Set by user space.
#[unsafe(no_mangle)]
static MPTCP_UNSEEN: u32 = 0;

/// `SOCK_RAW` (include/linux/net.h).
const SOCK_RAW: u32 = 3;
/// `IPPROTO_SMC` (include/uapi/linux/in.h).
const IPPROTO_SMC: u32 = 256;
/// `IPPROTO_MPTCP` (include/uapi/linux/in.h).
const IPPROTO_MPTCP: u32 = 262;

/// Tags a new IPv4 or IPv6 socket with its owner.
///
/// An isolated workload's socket that cannot be tagged is refused: without the tag nobody could tell at the other
/// end whose it is, nor who opened its connections.
#[cgroup_sock(sock_create)]
pub fn create(ctx: SockContext) -> i32 {
    let Some(generation) = Generation::active() else { return PASS };
    let places = generation.places();
    let local = identity::of_task(generation);
    let process = socket::current_process();
    // SAFETY: the context's own socket.
    let (kind, protocol) = unsafe { ((*ctx.sock).type_, (*ctx.sock).protocol) };
    let mut new = New { generation, local, process, protocol: protocol as u8, kind: 0, outcome: Outcome(0) };
    if new.refused(asked_for(kind, protocol)) {
        return REFUSE;
    }
    let mut state = SocketState {
        owner: new.local.cgroup,
        anchor: new.local.anchor,
        seal: SocketState::seal(new.local.anchor, places),
        names_source: Fact::equal(kind, SOCK_RAW).bits() as u16 * SocketState::BY_PRIVILEGE,
        process: new.process,
        ..SocketState::default()
    };
    // SAFETY: the context's own socket.
    if unsafe { socket::state_or(ctx.sock.cast(), &mut state) }.is_some() {
        return PASS;
    }
    if new.local.endpoint.flags & (Endpoint::ISOLATE_EGRESS | Endpoint::ISOLATE_INGRESS) == 0 {
        return PASS;
    }
    let decision = Decision::new(&new.local.endpoint, Reason::SocketMemory, RuleId::NONE);
    new.outcome = Outcome::new(decision, false);
    note(&new);
    if new.outcome.stops() { REFUSE } else { PASS }
}

#[inline(always)]
fn asked_for(kind: u32, protocol: u32) -> NewSocket {
    // SAFETY: a static of this type. Volatile, since user space sets it.
    let mptcp_unseen = unsafe { (&raw const MPTCP_UNSEEN).read_volatile() } != 0;
    match protocol {
        _ if kind == SOCK_RAW => NewSocket::Raw(Protocol(protocol as u8)),
        IPPROTO_SMC => NewSocket::Unseen(Unseen::SMC),
        IPPROTO_MPTCP if mptcp_unseen => NewSocket::Unseen(Unseen::MPTCP),
        _ => NewSocket::Ordinary,
    }
}

/// A socket that somebody asks for.
pub struct New {
    generation: Generation,
    local: Local,
    process: Process,
    protocol: u8,
    /// An [`Unseen`], or 0.
    kind: u16,
    outcome: Outcome,
}

impl New {
    /// Of the current task, in a security hook; none if no generation is in force.
    #[inline(always)]
    pub fn of_task() -> Option<Self> {
        let generation = Generation::active()?;
        let local = identity::of_task_by_structures(generation);
        let process = Process::default();
        Some(Self { generation, local, process, protocol: 0, kind: 0, outcome: Outcome(0) })
    }

    /// Is it refused? Counts and reports a refusal, and what would be one.
    #[inline(always)]
    pub fn refused(&mut self, asked: NewSocket) -> bool {
        let decision = decide_socket(&self.local.endpoint, asked);
        if !decision.reason.refuses() {
            return false;
        }
        if let NewSocket::Unseen(Unseen(kind)) = asked {
            self.kind = kind;
        }
        self.outcome = Outcome::new(decision, false);
        self.process = socket::current_process();
        note(self);
        self.outcome.stops()
    }
}

/// Counts and reports a refusal.
#[inline(never)]
fn note(new: &New) {
    let New { generation, local, process, outcome, .. } = new;
    let flow = Flow {
        direction: Direction::Egress,
        protocol: Protocol(new.protocol),
        port: new.kind,
        peer: Peer::default(),
    };
    let subject = local.endpoint.subject.0;
    count::decided(CounterKey::new(generation.number(), subject, &flow, *outcome, Hook::Create), 0, false, 0);
    report::refusal(&Refused {
        generation: *generation,
        local,
        flow: &flow,
        outcome,
        address: &Address::default(),
        port: &0,
        peer_cgroup: &0,
        process: Some(process),
        hook: Hook::Create,
        context: ptr::null_mut(),
    });
}

//! cgroup/sock_create: notes on every socket whose it is.

use aya_ebpf::{macros::cgroup_sock, programs::SockContext};
use bulkhead_common::{
    Address, CounterKey, Decision, Direction, Endpoint, Flow, Hook, Outcome, Peer, Protocol, Reason, RuleId,
    SocketState,
};

use crate::{
    PASS, REFUSE, count,
    generation::Generation,
    identity,
    report::{self, Refused},
    socket,
};

/// Tags a new IPv4 or IPv6 socket with its owner.
///
/// An isolated workload's socket that cannot be tagged is refused: without the tag nobody could tell at the other
/// end whose it is, nor who opened its connections.
#[cgroup_sock(sock_create)]
pub fn create(ctx: SockContext) -> i32 {
    let Some(generation) = Generation::active() else { return PASS };
    let version = generation.version();
    let local = identity::of_task(generation);
    let process = socket::current_process();
    let mut state = SocketState {
        owner: local.cgroup,
        anchor: local.anchor,
        seal: identity::seal(local.anchor, version),
        process,
        ..SocketState::default()
    };
    // SAFETY: the context's own socket.
    if unsafe { socket::state_or(ctx.sock.cast(), &mut state) }.is_some() {
        return PASS;
    }
    if local.endpoint.flags & (Endpoint::ISOLATE_EGRESS | Endpoint::ISOLATE_INGRESS) == 0 {
        return PASS;
    }
    // SAFETY: the context's own socket.
    let protocol = Protocol(unsafe { (*ctx.sock).protocol } as u8);
    let decision = Decision::new(&local.endpoint, Reason::SocketMemory, RuleId::NONE);
    let outcome = Outcome::new(decision, false);
    let flow = Flow { direction: Direction::Egress, protocol, port: 0, peer: Peer::default() };
    let subject = local.endpoint.subject.0;
    count::decided(CounterKey::new(generation.number(), subject, &flow, outcome, Hook::Create), 0, false);
    report::call(&Refused {
        generation,
        local: &local,
        flow: &flow,
        outcome,
        address: &Address::default(),
        port: 0,
        peer_cgroup: 0,
        process: Some(&process),
        hook: Hook::Create,
        cookie: 0,
    });
    if outcome.stops() { REFUSE } else { PASS }
}

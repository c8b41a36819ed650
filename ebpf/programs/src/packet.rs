//! cgroup_skb/egress and ingress: the authority. Every IP packet of a socket passes here, also those of sockets
//! that are older than the agent or were handed to another process.
//!
//! The steps are subprograms that share one [`Passage`]: a chain of calls has 512 bytes of stack in all, and what
//! is not inlined is verified with the registers of its caller alone.

mod passage;
mod shadow;
mod steps;

use core::{arch::asm, mem::offset_of, ptr};

use aya_ebpf::{
    bindings::__sk_buff, helpers::generated::bpf_sk_fullsock, macros::cgroup_skb, programs::SkBuffContext,
};
use bulkhead_common::{CounterKey, Direction, Endpoint, Hook, SocketState};

use self::{passage::Passage, steps::keep};
use crate::{
    PASS, REFUSE,
    cached::{self, Moment, UNCOUNTED},
    count,
    generation::Generation,
    identity,
    report::{self, Refused},
    socket,
    verifier::{Fact, forget32},
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

#[inline(always)]
fn judge(ctx: &SkBuffContext, way: Direction, device: u32) -> i32 {
    let skb = ctx.skb.skb;
    let moment = Moment::now();
    let on_loopback = Fact::equal(device, LOOPBACK);
    // SAFETY: the program's context.
    let sk = unsafe { (*skb).__bindgen_anon_2.sk };
    // SAFETY: a socket that is not null; what is no full socket has no storage.
    let state = if sk.is_null() { ptr::null_mut() } else { unsafe { socket::storage(sk.cast()) } };
    // SAFETY: a storage, or null.
    if let Some(state) = unsafe { state.as_mut() }
        // SAFETY: the packet's socket, whose storage this is.
        && let Some(bucket) = unsafe { cached::passes(skb, sk, state, way, on_loopback, moment) }
    {
        if bucket != UNCOUNTED {
            count::again(bucket, length(skb));
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
    // Whoever sends a datagram can name its source: that would be to pose as another workload. To others than this host only
    // who has asked to can.
    // SAFETY: a storage, or null.
    let foreign =
        unsafe { state.as_ref() }.is_some_and(|state| state.names_source & SocketState::BY_ANYBODY != 0);
    let may_forge = matches!(way, Direction::Egress) && (on_loopback.holds() || foreign) && stream.is_null();
    let isolated = local.endpoint.flags & (Endpoint::ISOLATE_EGRESS | Endpoint::ISOLATE_INGRESS) != 0;
    if !isolated && !may_forge {
        // SAFETY: a storage, or null.
        if let Some(state) = unsafe { state.as_mut() } {
            cached::keep_unmatched(state, !stream.is_null(), moment);
        }
        return PASS;
    }
    let mut passage = Passage::<true>::new(skb, generation, local, way, on_loopback);
    (passage.state, passage.stream) = (state, stream);
    // Before anything is asked about the other end.
    passage.moment = if stream.is_null() { moment.for_datagrams(on_loopback) } else { moment };
    let Some(now) = passage.decide() else { return PASS };
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
    let bucket = if passage.is_isolated() || passage.outcome.refuses() {
        count(&passage, length(skb), now)
    } else {
        UNCOUNTED
    };
    if !passage.outcome.refuses() {
        keep(&passage, forget32(bucket));
        return PASS;
    }
    if passage.reported.holds() {
        return PASS;
    }
    refuse(&passage);
    if passage.outcome.stops() { REFUSE } else { PASS }
}

/// How many bytes the packet has. Read here and now: LLVM would compute the field's address before the branches that lead
/// here, which the verifier does not accept of a context, or else read it at the beginning and hold it on the stack.
#[inline(always)]
fn length(skb: *mut __sk_buff) -> u32 {
    let length: u64;
    // SAFETY: a load from the program's context.
    unsafe {
        asm!(
            "{0} = *(u32 *)({1} + {2})", out(reg) length, in(reg) skb, const offset_of!(__sk_buff, len),
            options(nostack, readonly)
        );
    }
    length as u32
}

/// Counts the packet; tells where.
#[inline(always)]
fn count(passage: &Passage<true>, bytes: u32, now: u64) -> u32 {
    let (subject, generation) = (passage.local.endpoint.subject.0, passage.generation.number());
    let key = CounterKey::new(generation, subject, &passage.flow, passage.outcome, Hook::Packet);
    count::decided(key, bytes, passage.packet.opens.holds(), now)
}

/// Reports a refusal.
#[inline(never)]
fn refuse(passage: &Passage<true>) {
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
        outcome: &passage.outcome,
        address: &passage.remote,
        port: &passage.remote_port,
        peer_cgroup: &passage.peer_cgroup,
        process: state.as_deref().map(|state| &state.process),
        hook: Hook::Packet,
        context: passage.skb.cast(),
    });
}

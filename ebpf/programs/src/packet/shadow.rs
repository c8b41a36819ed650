//! The same packets by the shadow: a generation that is only compared with the one in force.
//!
//! Programs of their own, which user space attaches beside the others while there is a shadow: who compares nothing pays
//! nothing. They decide every packet by both generations, change nothing, and let everything pass.

use core::ptr;

use aya_ebpf::{
    bindings::__sk_buff, helpers::generated::bpf_sk_fullsock, macros::cgroup_skb, programs::SkBuffContext,
};
use bulkhead_common::{Direction, Hook, Outcome};

use super::{LOOPBACK, passage::Passage};
use crate::{PASS, count, generation::Generation, identity, socket, verifier::Fact};

/// Packets that a workload's sockets send.
#[cgroup_skb(egress)]
pub fn shadow_egress(ctx: SkBuffContext) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: the program's context. Read here, as in `egress`.
    let on_loopback = Fact::of(unsafe { (*skb).ifindex } == LOOPBACK).bits();
    if let Some((active, shadow)) = Generation::both() {
        let now = weigh_egress(skb, active.slot(), on_loopback, 0);
        weigh_egress(skb, shadow.slot(), on_loopback | COMPARE, now);
    }
    PASS
}

/// Packets that arrive for a workload's sockets.
#[cgroup_skb(ingress)]
pub fn shadow_ingress(ctx: SkBuffContext) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: as above.
    let on_loopback = Fact::of(unsafe { (*skb).ingress_ifindex } == LOOPBACK).bits();
    if let Some((active, shadow)) = Generation::both() {
        let now = weigh_ingress(skb, active.slot(), on_loopback, 0);
        weigh_ingress(skb, shadow.slot(), on_loopback | COMPARE, now);
    }
    PASS
}

/// Beside "on loopback": this is the shadow, and its outcome to be compared with another.
const COMPARE: u32 = 2;

/// What a slot's generation says of a packet. With [`COMPARE`] counts it, if it is not what `other` says. Global functions
/// to the kernel (see [`crate::identity`]): verified once, for both generations.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn weigh_egress(skb: *mut __sk_buff, slot: u32, about: u32, other: u64) -> u64 {
    weigh(skb, slot, Direction::Egress, about, other)
}

/// See [`weigh_egress`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn weigh_ingress(skb: *mut __sk_buff, slot: u32, about: u32, other: u64) -> u64 {
    weigh(skb, slot, Direction::Ingress, about, other)
}

#[inline(always)]
fn weigh(skb: *mut __sk_buff, slot: u32, way: Direction, about: u32, other: u64) -> u64 {
    let (generation, on_loopback) = (Generation::of_slot(slot), Fact::bit(about));
    // SAFETY: no storage is given: seals are of the generation in force.
    let local = unsafe { identity::of_packet(generation, skb, ptr::null_mut()) };
    // SAFETY: the program's context.
    let (sk, bytes) = unsafe { ((*skb).__bindgen_anon_2.sk, (*skb).len) };
    // SAFETY: a socket that is not null; what is no full socket has no storage.
    let state = if sk.is_null() { ptr::null_mut() } else { unsafe { socket::storage(sk.cast()) } };
    // SAFETY: the helper takes a socket or a request socket that is not null.
    let full = if sk.is_null() { sk } else { unsafe { bpf_sk_fullsock(sk) } };
    // SAFETY: a full socket.
    let stream = if !full.is_null() && unsafe { socket::is_tcp(full) } { full } else { ptr::null_mut() };
    let mut passage = Passage::<false>::new(skb, generation, local, way, on_loopback);
    (passage.state, passage.stream) = (state, stream);
    if passage.decide().is_none() {
        passage.outcome = Outcome::PASSES;
    }
    if about & COMPARE != 0 {
        if passage.reported.holds() && passage.outcome.stops() {
            // An answer to what the shadow would not have let come is of that exchange: its own port is the asker's, and each
            // asker has another one.
            (passage.flow.direction, passage.flow.port) = (way.reverse(), passage.remote_port);
        }
        count::difference(
            generation,
            &passage.local,
            &passage.flow,
            (passage.outcome, Outcome(other)),
            Hook::Packet,
            (bytes, passage.packet.opens.bits()),
        );
    }
    passage.outcome.0
}

//! The same calls by the shadow: see [`crate::packet`]'s. A listener that is nested below its workload's cgroup is known by
//! its tag, and so only if the shadow has a workload there as well: its packets tell exactly.

use aya_ebpf::{
    helpers::generated::bpf_get_current_cgroup_id, macros::cgroup_sock_addr, programs::SockAddrContext,
};
use bulkhead_common::{Address, Hook, Outcome};

use super::{Call, ipv4, ipv6};
use crate::{PASS, count, generation::Generation, socket};

/// connect() to an IPv4 address.
#[cgroup_sock_addr(connect4)]
pub fn shadow_connect4(ctx: SockAddrContext) -> i32 {
    compare(&ctx, Hook::Connect, ipv4(&ctx))
}

/// connect() to an IPv6 address.
#[cgroup_sock_addr(connect6)]
pub fn shadow_connect6(ctx: SockAddrContext) -> i32 {
    compare(&ctx, Hook::Connect, ipv6(&ctx))
}

/// sendto() or sendmsg() with an IPv4 address.
#[cgroup_sock_addr(sendmsg4)]
pub fn shadow_sendmsg4(ctx: SockAddrContext) -> i32 {
    compare(&ctx, Hook::Sendmsg, ipv4(&ctx))
}

/// sendto() or sendmsg() with an IPv6 address.
#[cgroup_sock_addr(sendmsg6)]
pub fn shadow_sendmsg6(ctx: SockAddrContext) -> i32 {
    compare(&ctx, Hook::Sendmsg, ipv6(&ctx))
}

/// Decides on the call by both generations; counts it if they differ.
#[inline(always)]
fn compare(ctx: &SockAddrContext, hook: Hook, address: Address) -> i32 {
    if let Some((active, shadow)) = Generation::both() {
        let in_force = weigh(ctx, hook, &address, active, None);
        // What is sent is counted as the packet that it is, unless a task sends for another workload: a packet is its socket's.
        if matches!(hook, Hook::Sendmsg) && !in_force.stops() && is_its_own(ctx) {
            return PASS;
        }
        weigh(ctx, hook, &address, shadow, Some(&in_force));
    }
    PASS
}

/// Is the socket of the task's cgroup?
#[inline(always)]
fn is_its_own(ctx: &SockAddrContext) -> bool {
    // SAFETY: the context's own socket, and a helper that only reads the task's cgroup.
    unsafe {
        let state = socket::state((*ctx.sock_addr).__bindgen_anon_1.sk.cast());
        state.is_some_and(|state| state.owner == bpf_get_current_cgroup_id())
    }
}

/// What a generation says of the call; counts it if that is not what the other says. With a frame of its own: there is no
/// stack for two calls.
#[inline(never)]
fn weigh(
    ctx: &SockAddrContext,
    hook: Hook,
    address: &Address,
    generation: Generation,
    other: Option<&Outcome>,
) -> Outcome {
    let mut call = Call::<false>::new(ctx, hook, generation, *address);
    call.is_refused();
    if let Some(&other) = other {
        count::difference(generation, &call.local, &call.flow, (call.outcome, other), hook, (0, 0));
    }
    call.outcome
}

//! cgroup/setsockopt: notes which sockets may name the source of what they send.

use aya_ebpf::{macros::cgroup_sockopt, programs::SockoptContext};
use bulkhead_common::SocketState;

use crate::{PASS, REFUSE, socket};

/// `SOL_IP` and its options (include/linux/socket.h, include/uapi/linux/in.h).
const SOL_IP: i32 = 0;
const IP_FREEBIND: i32 = 15;
const IP_TRANSPARENT: i32 = 19;
/// `SOL_IPV6` and its options (include/linux/socket.h, include/uapi/linux/in6.h).
const SOL_IPV6: i32 = 41;
const IPV6_TRANSPARENT: i32 = 75;
const IPV6_FREEBIND: i32 = 78;

/// Somebody sets an option of a socket.
///
/// Whatever the value is: it lies in the caller's memory, and may be another one when the kernel reads it. Where there is no
/// memory for the note, the option is refused.
#[cgroup_sockopt(setsockopt)]
pub fn setsockopt(ctx: SockoptContext) -> i32 {
    // SAFETY: the program's context.
    let option = unsafe { &mut *ctx.sockopt };
    let by = match (option.level, option.optname) {
        (SOL_IP, IP_FREEBIND) | (SOL_IPV6, IPV6_FREEBIND) => SocketState::BY_ANYBODY,
        (SOL_IP, IP_TRANSPARENT) | (SOL_IPV6, IPV6_TRANSPARENT) => SocketState::BY_PRIVILEGE,
        _ => 0,
    };
    // The kernel goes on with the caller's memory, not with its copy for programs, which ends after a page
    // (`__cgroup_bpf_run_filter_setsockopt` in kernel/bpf/cgroup.c).
    option.optlen = 0;
    if by == 0 {
        return PASS;
    }
    // SAFETY: the context's own socket. Nobody knows here whose a socket is that has no tag: as in the agent's `tag_raw`.
    match unsafe { socket::state_of(option.__bindgen_anon_1.sk.cast(), 0, 0) } {
        Some(state) => {
            state.names_source |= by;
            PASS
        }
        None => REFUSE,
    }
}

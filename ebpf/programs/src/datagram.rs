//! cgroup/post_bind4, post_bind6, sock_release: datagram sockets that take an address and port, or give them back.

use aya_ebpf::{macros::cgroup_sock, programs::SockContext};

use crate::{PASS, cached, socket};

/// A socket has been bound to an IPv4 address.
#[cgroup_sock(post_bind4)]
pub fn bind4(ctx: SockContext) -> i32 {
    changed(&ctx)
}

/// A socket has been bound to an IPv6 address.
#[cgroup_sock(post_bind6)]
pub fn bind6(ctx: SockContext) -> i32 {
    changed(&ctx)
}

/// A socket is closed.
#[cgroup_sock(sock_release)]
pub fn release(ctx: SockContext) -> i32 {
    changed(&ctx)
}

#[inline(always)]
fn changed(ctx: &SockContext) -> i32 {
    // SAFETY: the program's context.
    if unsafe { (*ctx.sock).type_ } != socket::SOCK_STREAM {
        cached::datagrams_changed();
    }
    PASS
}

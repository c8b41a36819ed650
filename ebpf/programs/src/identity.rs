//! Which workload a cgroup belongs to: the nearest ancestor that has an entry.

use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock},
    helpers::generated::{
        bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_sk_ancestor_cgroup_id,
        bpf_sk_cgroup_id, bpf_skb_ancestor_cgroup_id, bpf_skb_cgroup_id,
    },
};
use bulkhead_common::{Endpoint, MAX_CGROUP_LEVEL, SocketState};

use crate::{generation::Generation, verifier::forget_local};

/// An end on this host.
#[derive(Clone, Copy)]
pub struct Local {
    /// Its workload, or [`Endpoint::UNMATCHED`].
    pub endpoint: Endpoint,
    /// Id of its cgroup.
    pub cgroup: u64,
    /// Id of the cgroup that carries the identity: `cgroup` or an ancestor; 0 if there is none.
    pub anchor: u64,
}

impl Local {
    /// No end of ours.
    pub const NOBODY: Self = Self { endpoint: Endpoint::UNMATCHED, cgroup: 0, anchor: 0 };
}

/// The current task.
#[inline(always)]
pub fn of_task(generation: Generation) -> Local {
    // SAFETY: both helpers only read the current task's cgroup.
    unsafe {
        find(generation, bpf_get_current_cgroup_id(), |level| bpf_get_current_ancestor_cgroup_id(level))
    }
}

/// The socket of a packet. (`bpf_skb_cgroup_id` looks at the full socket, a listener for its request sockets.)
#[inline(always)]
pub fn of_packet(generation: Generation, skb: *mut __sk_buff) -> Local {
    // SAFETY: `skb` is the program's context.
    unsafe { find(generation, bpf_skb_cgroup_id(skb), |level| bpf_skb_ancestor_cgroup_id(skb, level)) }
}

/// A socket that was looked up. Only in `cgroup_skb`: other hooks are not offered these helpers.
///
/// # Safety
/// `sk` must be a socket that the caller holds a reference to.
#[inline(always)]
pub unsafe fn of_socket(generation: Generation, sk: *mut bpf_sock) -> Local {
    // SAFETY: the caller holds `sk`.
    unsafe {
        find(generation, bpf_sk_cgroup_id(sk.cast()), |level| bpf_sk_ancestor_cgroup_id(sk.cast(), level))
    }
}

/// The owner noted in a socket's storage.
#[inline(always)]
pub fn of_owner(generation: Generation, socket: &SocketState) -> Local {
    of_tag(generation, socket.owner, socket.anchor)
}

/// The owner of a socket by its tag: its cgroup, or else the ancestor that was identified as the socket was made.
#[inline(always)]
pub fn of_tag(generation: Generation, owner: u64, anchor: u64) -> Local {
    let found = if let Some(endpoint) = generation.endpoint(owner) {
        Local { endpoint, cgroup: owner, anchor: owner }
    } else if let Some(endpoint) = generation.endpoint(anchor) {
        Local { endpoint, cgroup: owner, anchor }
    } else {
        Local { endpoint: Endpoint::UNMATCHED, cgroup: owner, anchor: 0 }
    };
    forget_local(found)
}

/// The nearest identified ancestor of `cgroup`. `ancestor(level)` is 0 for levels below the cgroup itself.
#[inline(always)]
fn find(generation: Generation, cgroup: u64, ancestor: impl Fn(i32) -> u64) -> Local {
    let mut found = Local { endpoint: Endpoint::UNMATCHED, cgroup, anchor: 0 };
    if let Some(endpoint) = generation.endpoint(cgroup) {
        found = Local { endpoint, cgroup, anchor: cgroup };
    } else {
        let mut level = MAX_CGROUP_LEVEL;
        while level > 0 {
            let id = ancestor(level);
            if id != 0
                && let Some(endpoint) = generation.endpoint(id)
            {
                found = Local { endpoint, cgroup, anchor: id };
                break;
            }
            level -= 1;
        }
    }
    forget_local(found)
}

//! Which workload a cgroup belongs to: the nearest ancestor that has an entry.

use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock},
    helpers::generated::{
        bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_get_current_task,
        bpf_sk_ancestor_cgroup_id, bpf_sk_cgroup_id, bpf_skb_ancestor_cgroup_id, bpf_skb_cgroup_id,
    },
};
use bulkhead_common::{Endpoint, MAX_CGROUP_LEVEL, SocketState, UNPLACED};

use crate::{
    cgroup::{self, Directory},
    generation::Generation,
    socket,
    verifier::forget_local,
};

/// An end on this host.
#[derive(Clone, Copy)]
pub struct Local {
    /// Its workload, or [`Endpoint::UNMATCHED`].
    pub endpoint: Endpoint,
    /// Id of its cgroup.
    pub cgroup: u64,
    /// Id of the cgroup that carries the identity: `cgroup` or an ancestor; 0 if there is none, and
    /// [`UNPLACED`](bulkhead_common::UNPLACED) if there was no room for one.
    pub anchor: u64,
}

impl Local {
    /// No end of ours.
    pub const NOBODY: Self = Self { endpoint: Endpoint::UNMATCHED, cgroup: 0, anchor: 0 };
}

/// The current task.
#[inline(always)]
pub fn of_task(generation: Generation) -> Local {
    // SAFETY: the helper only reads the current task's cgroup.
    let cgroup = unsafe { bpf_get_current_cgroup_id() };
    of_anchor(generation, cgroup, task_anchor(generation.slot()))
}

/// The current task, in programs to which the kernel gives no helper for the ancestors of its cgroup before Linux 5.15
/// (the security hooks).
#[inline(always)]
pub fn of_task_by_structures(generation: Generation) -> Local {
    // SAFETY: the helper takes no arguments.
    let task = unsafe { bpf_get_current_task() };
    of_cgroup(generation, cgroup::of_task(task).unwrap_or(0))
}

/// The end of whoever is in a cgroup, of which the kernel's structure is at this address.
#[inline(always)]
pub fn of_cgroup(generation: Generation, address: u64) -> Local {
    let id = Directory::of(address).map_or(0, |directory| directory.id);
    of_anchor(generation, id, anchor_by_structures(generation.slot(), address))
}

/// The socket of a packet. (`bpf_skb_cgroup_id` looks at the full socket, a listener for its request sockets.)
///
/// A socket's cgroup never changes, and a new cgroup is never above one that is there: what was found once holds until
/// user space says that cgroups are others'.
///
/// # Safety
/// `state` must be the storage of the packet's socket, or null.
#[inline(always)]
pub unsafe fn of_packet(generation: Generation, skb: *mut __sk_buff, state: *mut SocketState) -> Local {
    // SAFETY: `skb` is the program's context.
    let cgroup = unsafe { bpf_skb_cgroup_id(skb) };
    let places = generation.places();
    // SAFETY: the caller vouches for it.
    let state = unsafe { state.as_mut() }.filter(|state| state.owner == cgroup);
    let anchor = match state {
        Some(state) if state.seal == SocketState::seal(state.anchor, places) => state.anchor,
        Some(state) => {
            state.anchor = packet_anchor(skb, generation.slot());
            state.seal = SocketState::seal(state.anchor, places);
            state.anchor
        }
        None => packet_anchor(skb, generation.slot()),
    };
    of_anchor(generation, cgroup, anchor)
}

/// A socket that was looked up: by its tag, or by its very cgroup if it has none. Only in `cgroup_skb`: other hooks
/// are not offered the latter.
///
/// # Safety
/// `sk` must be a socket that the caller holds a reference to.
#[inline(always)]
pub unsafe fn of_socket(generation: Generation, sk: *mut bpf_sock) -> Local {
    // SAFETY: the caller holds `sk`.
    let (cgroup, tag) = unsafe { (bpf_sk_cgroup_id(sk.cast()), socket::state(sk.cast())) };
    match tag {
        Some(state)
            if state.owner == cgroup
                && state.seal == SocketState::seal(state.anchor, generation.places()) =>
        {
            forget_local(of_anchor(generation, cgroup, state.anchor))
        }
        tag => of_tag(generation, cgroup, tag.map_or(0, |state| state.anchor)),
    }
}

/// The same for a generation of which tags know nothing.
///
/// # Safety
/// As for [`of_socket`].
#[inline(always)]
pub unsafe fn of_untagged_socket(generation: Generation, sk: *mut bpf_sock) -> Local {
    // SAFETY: the caller holds `sk`.
    let cgroup = unsafe { bpf_sk_cgroup_id(sk.cast()) };
    let anchor = socket_anchor(sk, cgroup, generation.slot());
    forget_local(of_anchor(generation, cgroup, anchor))
}

/// The nearest ancestor of a socket's cgroup that is identified in a slot, or 0. (No global function: such a one takes no
/// socket.)
#[inline(never)]
fn socket_anchor(sk: *mut bpf_sock, cgroup: u64, slot: u32) -> u64 {
    // SAFETY: a socket that the caller holds.
    nearest(Generation::of_slot(slot), cgroup, |level| unsafe { bpf_sk_ancestor_cgroup_id(sk.cast(), level) })
}

/// The owner of a socket by its tag: its cgroup, or else the ancestor that was identified as the socket was made.
#[inline(always)]
pub fn of_tag(generation: Generation, owner: u64, anchor: u64) -> Local {
    forget_local(match generation.endpoint(owner) {
        Some(endpoint) => Local { endpoint, cgroup: owner, anchor: owner },
        None => of_anchor(generation, owner, anchor),
    })
}

/// An end of which the cgroup that carries its identity is known; 0: it has none.
#[inline(always)]
fn of_anchor(generation: Generation, cgroup: u64, anchor: u64) -> Local {
    let endpoint = if anchor == 0 { None } else { generation.endpoint(anchor) };
    match endpoint {
        Some(endpoint) => Local { endpoint, cgroup, anchor },
        None => Local { endpoint: Endpoint::UNMATCHED, cgroup, anchor: 0 },
    }
}

/// The nearest ancestor of the packet's cgroup that is identified in a slot, or 0.
///
/// This and [`task_anchor`] are global functions to the kernel: verified once, by themselves, and not anew in every
/// state in which they are called. Such a function takes nothing but numbers and the context before Linux 5.12.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn packet_anchor(skb: *mut __sk_buff, slot: u32) -> u64 {
    // SAFETY: `skb` is the program's context.
    let own = unsafe { bpf_skb_cgroup_id(skb) };
    // SAFETY: as above.
    nearest(Generation::of_slot(slot), own, |level| unsafe { bpf_skb_ancestor_cgroup_id(skb, level) })
}

/// The nearest ancestor of the current task's cgroup that is identified in a slot, or 0.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn task_anchor(slot: u32) -> u64 {
    // SAFETY: the helper only reads the current task's cgroup.
    let own = unsafe { bpf_get_current_cgroup_id() };
    // SAFETY: as above.
    nearest(Generation::of_slot(slot), own, |level| unsafe { bpf_get_current_ancestor_cgroup_id(level) })
}

/// How many levels of cgroups are climbed in the kernel's structures. Who is nested deeper cannot be told.
const MOST_LEVELS: u32 = 128;

/// The nearest ancestor of a cgroup that is identified in a slot, or 0. The cgroup's structure is at `address`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn anchor_by_structures(slot: u32, address: u64) -> u64 {
    let generation = Generation::of_slot(slot);
    let Some(own) = Directory::of(address) else { return UNPLACED };
    let own_id = own.id;
    let mut next = Some(own);
    let mut level = 0;
    while level < MOST_LEVELS {
        let Some(directory) = next else { return generation.unplaced(own_id) };
        if generation.endpoint(directory.id).is_some() {
            return directory.id;
        }
        next = directory.parent();
        level += 1;
    }
    UNPLACED
}

/// `ancestor(level)` is 0 for levels below the cgroup itself.
#[inline(always)]
fn nearest(generation: Generation, own: u64, ancestor: impl Fn(i32) -> u64) -> u64 {
    let Some(endpoints) = generation.endpoints() else { return 0 };
    // Mostly the cgroup is the workload's own.
    if endpoints.has(own) {
        return own;
    }
    let mut level = MAX_CGROUP_LEVEL;
    while level > 0 {
        let id = ancestor(level);
        if id != 0 && endpoints.has(id) {
            return id;
        }
        level -= 1;
    }
    generation.unplaced(own)
}

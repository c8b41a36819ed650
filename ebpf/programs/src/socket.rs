//! Sockets: their storage, their own addresses, and the socket at the other end of a connection on this host.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    bindings::{
        BPF_SK_STORAGE_GET_F_CREATE, bpf_sock, bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1,
        bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2,
    },
    helpers::generated::{
        bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_uid_gid, bpf_sk_lookup_tcp,
        bpf_sk_lookup_udp, bpf_sk_release, bpf_sk_storage_get,
    },
};
use bulkhead_common::{Address, Command, Process, Protocol, SocketState};

use crate::maps::SOCKETS;

/// `AF_INET` (include/linux/socket.h).
pub const AF_INET: u32 = 2;
/// `SOCK_STREAM` (include/linux/net.h).
pub const SOCK_STREAM: u32 = 1;
/// `TCP_LISTEN` (include/net/tcp_states.h).
pub const TCP_LISTEN: u32 = 10;

/// Is it a TCP socket? (A raw one may speak TCP, and SCTP has streams, too; both send to whom they like.)
///
/// # Safety
/// `sk` must be a full socket.
#[inline(always)]
pub unsafe fn is_tcp(sk: *const bpf_sock) -> bool {
    // SAFETY: the caller vouches for `sk`.
    let (kind, protocol) = unsafe { ((*sk).type_, (*sk).protocol) };
    kind == SOCK_STREAM && protocol == u32::from(Protocol::TCP.0)
}

/// The storage of a socket, if it has one.
///
/// # Safety
/// `sk` must be a socket that the verifier knows as such: the context's full socket or one that was looked up.
#[inline(always)]
pub unsafe fn state<'a>(sk: *mut c_void) -> Option<&'a mut SocketState> {
    // SAFETY: the caller vouches for `sk`; the value lives as long as the socket, which outlives the program's run.
    unsafe { storage(sk).as_mut() }
}

/// Address of the storage of a socket, or null.
///
/// # Safety
/// As for [`state`].
#[inline(always)]
pub unsafe fn storage(sk: *mut c_void) -> *mut SocketState {
    // SAFETY: the map is a socket storage of `SocketState`.
    unsafe { bpf_sk_storage_get((&raw const SOCKETS).cast_mut().cast(), sk, ptr::null_mut(), 0).cast() }
}

/// The storage of a socket, made from `initial` if it has none. None: the kernel has no memory for it.
///
/// # Safety
/// As for [`state`].
#[inline(always)]
pub unsafe fn state_or<'a>(sk: *mut c_void, initial: &mut SocketState) -> Option<&'a mut SocketState> {
    let flags = u64::from(BPF_SK_STORAGE_GET_F_CREATE);
    // SAFETY: as above; `initial` is copied.
    unsafe {
        bpf_sk_storage_get((&raw const SOCKETS).cast_mut().cast(), sk, ptr::from_mut(initial).cast(), flags)
            .cast::<SocketState>()
            .as_mut()
    }
}

/// The storage of a socket, made for this owner if it has none. None: the kernel has no memory for it.
///
/// # Safety
/// As for [`state`].
#[inline(always)]
pub unsafe fn state_of<'a>(sk: *mut c_void, owner: u64, anchor: u64) -> Option<&'a mut SocketState> {
    // SAFETY: the caller vouches for `sk`.
    if let Some(state) = unsafe { state(sk) } {
        return Some(state);
    }
    let mut fresh = SocketState { owner, anchor, ..SocketState::default() };
    // SAFETY: as above.
    unsafe { state_or(sk, &mut fresh) }
}

/// The current process.
#[inline(always)]
pub fn current_process() -> Process {
    let mut comm = Command([0; 2]);
    // SAFETY: the helpers only read the current task; the name is as long as said.
    let (pid, uid) = unsafe {
        bpf_get_current_comm((&raw mut comm).cast(), size_of::<Command>() as u32);
        (bpf_get_current_pid_tgid() >> 32, bpf_get_current_uid_gid())
    };
    Process { pid: pid as u32, uid: uid as u32, comm }
}

/// The peer of a connected socket, and its port in the machine's order.
///
/// # Safety
/// `sk` must be a full socket.
#[inline(always)]
pub unsafe fn connected_peer(sk: *const bpf_sock) -> (Address, u16) {
    // SAFETY: the caller vouches for `sk`. Every field is read, and volatile, before any branch: the verifier takes
    // these fields word by word at constant offsets only, and LLVM would merge the loads or choose between addresses.
    let (family, port, ip4, ip6) = unsafe {
        let words = (&raw const (*sk).dst_ip6).cast::<u32>();
        (
            ptr::read_volatile(&raw const (*sk).family),
            ptr::read_volatile(&raw const (*sk).dst_port),
            ptr::read_volatile(&raw const (*sk).dst_ip4),
            [
                ptr::read_volatile(words),
                ptr::read_volatile(words.add(1)),
                ptr::read_volatile(words.add(2)),
                ptr::read_volatile(words.add(3)),
            ],
        )
    };
    let address = if family == AF_INET { Address::v4(ip4.to_ne_bytes()) } else { Address::from_words(ip6) };
    (address, u16::from_be(port))
}

/// The address and port, in the machine's order, that a socket is bound to; 0 where it is bound to none.
///
/// # Safety
/// `sk` must be a full socket.
#[inline(always)]
pub unsafe fn own_address(sk: *const bpf_sock) -> (Address, u16) {
    // SAFETY: as in `connected_peer`.
    let (family, port, ip4, ip6) = unsafe {
        let words = (&raw const (*sk).src_ip6).cast::<u32>();
        (
            ptr::read_volatile(&raw const (*sk).family),
            ptr::read_volatile(&raw const (*sk).src_port),
            ptr::read_volatile(&raw const (*sk).src_ip4),
            [
                ptr::read_volatile(words),
                ptr::read_volatile(words.add(1)),
                ptr::read_volatile(words.add(2)),
                ptr::read_volatile(words.add(3)),
            ],
        )
    };
    let address = if family == AF_INET { Address::v4(ip4.to_ne_bytes()) } else { Address::from_words(ip6) };
    (address, port as u16)
}

/// Calls `seen` with the socket that a packet from (`source`, `source_port`) to (`target`, `target_port`) belongs to
/// in this network namespace, and releases it. None if there is no such socket, or only one in `TIME_WAIT`.
///
/// # Safety
/// `context` must be the program's context, of a hook that offers `bpf_sk_lookup_tcp`.
#[inline(always)]
pub unsafe fn with_owner_of<T>(
    context: *mut c_void,
    protocol: Protocol,
    source: (Address, u16),
    target: (Address, u16),
    seen: impl FnOnce(*mut bpf_sock) -> T,
) -> Option<T> {
    /// The current network namespace (`BPF_F_CURRENT_NETNS`).
    const HERE: u64 = u64::MAX;
    let (sport, dport) = (source.1.to_be(), target.1.to_be());
    let (from, to) = (source.0.words(), target.0.words());
    let (mut tuple, size) = if target.0.is_v4() {
        let ipv4 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 { saddr: from[3], daddr: to[3], sport, dport };
        (bpf_sock_tuple { __bindgen_anon_1: bpf_sock_tuple__bindgen_ty_1 { ipv4 } }, size_of_val(&ipv4))
    } else {
        let ipv6 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 { saddr: from, daddr: to, sport, dport };
        (bpf_sock_tuple { __bindgen_anon_1: bpf_sock_tuple__bindgen_ty_1 { ipv6 } }, size_of_val(&ipv6))
    };
    // SAFETY: the caller vouches for the context; the tuple is as long as said; every socket found is released once.
    unsafe {
        let sk = match protocol {
            Protocol::TCP => bpf_sk_lookup_tcp(context, &raw mut tuple, size as u32, HERE, 0),
            Protocol::UDP => bpf_sk_lookup_udp(context, &raw mut tuple, size as u32, HERE, 0),
            _ => return None,
        };
        if sk.is_null() {
            return None;
        }
        let result = seen(sk);
        bpf_sk_release(sk.cast());
        Some(result)
    }
}

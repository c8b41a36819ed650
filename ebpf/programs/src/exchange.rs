//! Exchanges of datagrams: which packet answers which. What a connection is to TCP, an entry of `PEER_FLOWS` is to a
//! socket's traffic with one peer.

use core::ptr;

use bulkhead_common::{Direction, PeerFlow, PeerFlowKey, Protocol};

use crate::{generation::boot_ns, maps::PEER_FLOWS};

/// The exchange with this key, or null. Its memory stays valid for this run; that it is still the same exchange's nobody
/// vouches for, and its fields are independent of each other.
#[inline(always)]
pub fn known(key: &PeerFlowKey) -> *mut PeerFlow {
    PEER_FLOWS.get_ptr_mut(key).unwrap_or(ptr::null_mut())
}

/// The exchange that a datagram going `way` answers, if it answers one that is not idle; it is last seen now. `port` is the
/// datagram's own service port.
///
/// # Safety
/// `known` must be of this run, or null.
#[inline(always)]
pub unsafe fn answered(
    known: *mut PeerFlow,
    protocol: Protocol,
    way: Direction,
    port: u16,
) -> Option<PeerFlow> {
    // SAFETY: the caller vouches for it.
    let known = unsafe { known.as_mut() }?;
    if known.direction == way as u8 || !answers(protocol, port, known.port) {
        return None;
    }
    let now = boot_ns();
    if now.wrapping_sub(known.last_seen) >= PeerFlow::IDLE_NS {
        return None;
    }
    known.last_seen = now;
    Some(*known)
}

/// Goes on with an exchange that was `opened` so before; false: there is none to go on with. What came from elsewhere once
/// may be answered there, whatever came by loopback since.
///
/// # Safety
/// As for [`answered`].
#[inline(always)]
pub unsafe fn goes_on(known: *mut PeerFlow, opened: &PeerFlow) -> bool {
    // SAFETY: the caller vouches for it.
    let Some(known) = (unsafe { known.as_mut() }) else { return false };
    let same = known.direction == opened.direction
        && known.port == opened.port
        && known.peer == opened.peer
        && known.on_loopback <= opened.on_loopback;
    if same {
        known.last_seen = opened.last_seen;
    }
    same
}

/// Remembers a datagram as one that may be answered. A table that is full of busy exchanges forgets one of them, which is then
/// decided anew.
#[inline(always)]
pub fn remember(key: &PeerFlowKey, opened: &PeerFlow) {
    let _busy = PEER_FLOWS.insert(key, opened, 0);
}

/// Can a datagram with service port `port` answer one with `opened`? UDP answers by address and port, which the
/// table's key holds; an ICMP echo reply answers an echo request (RFC 792, RFC 4443 section 4).
#[inline(always)]
fn answers(protocol: Protocol, port: u16, opened: u16) -> bool {
    match protocol {
        Protocol::ICMP => matches!((port >> 8, opened >> 8), (0, 8) | (14, 13)),
        Protocol::ICMPV6 => matches!((port >> 8, opened >> 8), (129, 128)),
        _ => true,
    }
}

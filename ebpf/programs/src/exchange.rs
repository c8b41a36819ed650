//! Exchanges of datagrams: which packet answers which. What a connection is to TCP, an entry of `PEER_FLOWS` is to a
//! socket's traffic with one peer.

use bulkhead_common::{Direction, PeerFlow, PeerFlowKey, Protocol};

use crate::{generation::boot_ns, maps::PEER_FLOWS};

/// The exchange that a datagram going `way` answers, if it answers one that is not idle. `port` is the datagram's own
/// service port.
#[inline(always)]
pub fn answered(key: &PeerFlowKey, way: Direction, port: u16) -> Option<PeerFlow> {
    let known = PEER_FLOWS.get_ptr_mut(key)?;
    // SAFETY: the entry stays valid for this run; its fields are independent of each other.
    let known = unsafe { &mut *known };
    let now = boot_ns();
    if known.direction == way as u8
        || now.wrapping_sub(known.last_seen) >= PeerFlow::IDLE_NS
        || !answers(Protocol(key.protocol), port, known.port)
    {
        return None;
    }
    known.last_seen = now;
    Some(*known)
}

/// Remembers a datagram as one that may be answered; tells whether it opens an exchange and does not go on with one.
#[inline(always)]
pub fn remember(key: &PeerFlowKey, way: Direction, port: u16, peer: u64) -> bool {
    let now = boot_ns();
    let mut opens = true;
    if let Some(known) = PEER_FLOWS.get_ptr_mut(key) {
        // SAFETY: the entry stays valid for this run; its fields are independent of each other.
        let known = unsafe { &mut *known };
        opens = known.direction != way as u8;
        if !opens && known.port == port && known.peer == peer {
            known.last_seen = now;
            return false;
        }
    }
    let opened = PeerFlow { last_seen: now, peer, port, direction: way as u8, reserved: [0; 5] };
    // A table that is full of busy flows forgets one of them, which is then decided anew.
    let _busy = PEER_FLOWS.insert(key, opened, 0);
    opens
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

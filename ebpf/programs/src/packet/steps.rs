//! What is asked of one packet, step by step.

use aya_ebpf::bindings::bpf_sock;
use bulkhead_common::{
    Decision, Direction, Endpoint, Origin, Outcome, PeerEntry, PeerFlow, PeerId, Reason, RuleId, SubjectId,
};

use super::passage::Passage;
use crate::{
    cached::{self, Passed},
    exchange,
    generation::{Generation, boot_ns, verdict},
    identity::{self, Local},
    socket,
    verifier::{Fact, forget16, forget32},
};

/// Does the packet bear a source that is another workload's socket? The receiver would take its sender for that one.
#[inline(never)]
pub(super) fn forges<const NOTES: bool>(passage: &mut Passage<NOTES>) -> bool {
    let source = (passage.packet.source, passage.packet.source_port);
    let target = (passage.packet.target, passage.packet.target_port);
    let generation = passage.generation;
    let mut owner = Local::NOBODY;
    // SAFETY: the program's context; the socket is valid while the closure runs.
    let found = unsafe {
        socket::with_owner_of(passage.skb.cast(), passage.packet.protocol, target, source, |sk| {
            owner = owner_of::<NOTES>(generation, sk);
        })
    };
    if owner.anchor == 0 || owner.anchor == passage.local.anchor {
        // Whose it is is known only as long as a socket owns the source.
        let owns_source = Fact::of(found.is_some() && owner.anchor == passage.local.anchor);
        passage.moment = passage.moment.if_known(owns_source);
        return false;
    }
    is_forged(passage, &owner.endpoint)
}

/// Does the packet bear an address that a workload other than the sender's has to itself? Those in other network namespaces, and
/// on other machines, would take its sender for that one.
#[inline(never)]
pub(super) fn poses<const NOTES: bool>(passage: &mut Passage<NOTES>) -> bool {
    let named = passage.generation.peer(passage.packet.source);
    if named.subject == SubjectId::NONE || named.subject == passage.local.endpoint.subject {
        return false;
    }
    let flags = if named.flags & PeerEntry::AUDITED == 0 { 0 } else { Endpoint::AUDIT };
    is_forged(passage, &Endpoint { subject: named.subject, peer: PeerId::NONE, flags })
}

/// The decision is the victim's: its mode tells whether to refuse or to mark.
#[inline(always)]
fn is_forged<const NOTES: bool>(passage: &mut Passage<NOTES>, victim: &Endpoint) -> bool {
    passage.flow.port = passage.packet.target_port;
    passage.outcome = Outcome::new(Decision::new(victim, Reason::ForgedSource, RuleId::NONE), false);
    true
}

/// Whose a socket is that was looked up. Tags are of the generation in force.
///
/// # Safety
/// `sk` must be a socket that the caller holds a reference to.
#[inline(always)]
unsafe fn owner_of<const NOTES: bool>(generation: Generation, sk: *mut bpf_sock) -> Local {
    // SAFETY: the caller vouches for it.
    unsafe {
        if NOTES { identity::of_socket(generation, sk) } else { identity::of_untagged_socket(generation, sk) }
    }
}

/// The verdict on `passage.flow`.
#[inline(always)]
pub(super) fn settle<const NOTES: bool>(passage: &mut Passage<NOTES>) {
    let peer = &mut passage.flow.peer;
    peer.subject.0 = forget32(peer.subject.0);
    peer.class.0 = forget32(peer.class.0);
    passage.flow.port = forget16(passage.flow.port);
    passage.outcome = verdict(passage.generation, &passage.local.endpoint, &passage.flow);
}

/// Who is at the other end. On this host the socket tells, elsewhere the address.
#[inline(never)]
pub(super) fn identify<const NOTES: bool>(passage: &mut Passage<NOTES>) {
    let entry = passage.generation.peer(passage.remote);
    let peer = &mut passage.flow.peer;
    peer.class = entry.class;
    if !passage.on_loopback.holds() {
        peer.subject = entry.subject;
        return;
    }
    if entry.flags & PeerEntry::LOCAL == 0 && !passage.remote.is_loopback() {
        // Whoever sends from a foreign address on loopback is not there (ip(7), IP_FREEBIND and IP_TRANSPARENT).
        peer.class = PeerId::NONE;
    }
    let packet = &passage.packet;
    let (source, target) = match passage.way {
        Direction::Egress => ((packet.source, packet.known_by_port), (packet.target, packet.target_port)),
        Direction::Ingress => ((packet.target, packet.target_port), (packet.source, packet.source_port)),
    };
    let generation = passage.generation;
    let mut other = Local::NOBODY;
    // SAFETY: the program's context; the socket is valid while the closure runs.
    let found = unsafe {
        socket::with_owner_of(passage.skb.cast(), passage.packet.protocol, source, target, |sk| {
            other = owner_of::<NOTES>(generation, sk);
        })
    };
    passage.found = Fact::of(found.is_some());
    let state = if passage.stream.is_null() {
        if matches!(passage.way, Direction::Ingress) {
            // Who sends a datagram is known only as long as a socket owns its source.
            passage.moment = passage.moment.if_known(passage.found);
        }
        None
    } else {
        passage.state()
    };
    let peer = &mut passage.flow.peer;
    if passage.found.holds() {
        if other.anchor != 0 {
            peer.subject = other.endpoint.subject;
            peer.class = other.endpoint.peer;
        }
        passage.peer_cgroup = other.anchor;
        if NOTES
            && let Some(state) = state
            && state.peer != other.anchor
        {
            state.peer = other.anchor;
        }
    } else if let Some(state) = state
        && !passage.packet.opens.holds()
        && let Some(endpoint) = generation.endpoint(state.peer)
    {
        // The other end has closed already; this one may still say goodbye to whom it talked to.
        peer.subject = endpoint.subject;
        peer.class = endpoint.peer;
        passage.peer_cgroup = state.peer;
    }
}

/// Notes that a SYN reached this listener: what is accepted from it clones the note. A listener older than the agent
/// that could not be tagged gets its storage here; if there is no memory for it, its connections stay of unknown
/// origin, which never counts as accepted.
#[inline(never)]
pub(super) fn mark_listener<const NOTES: bool>(passage: &mut Passage<NOTES>) {
    // SAFETY: a full socket: checked by the caller.
    let state =
        unsafe { socket::state_of(passage.stream.cast(), passage.local.cgroup, passage.local.anchor) };
    if let Some(state) = state {
        if state.origin != Origin::Listener as u16 {
            state.origin = Origin::Listener as u16;
        }
        // Of the connection that the socket may have been before it was made a listener: not to be cloned.
        if state.passes != 0 {
            cached::forget(state);
        }
    }
}

/// Finds the exchange that the datagram belongs to, if there is one.
#[inline(never)]
pub(super) fn find_exchange<const NOTES: bool>(passage: &mut Passage<NOTES>) {
    passage.known = exchange::known(&passage.exchange());
}

/// Does the datagram answer one that went the other way? Then that is its flow. Tells when, by `CLOCK_BOOTTIME`; 0: it does not.
#[inline(never)]
pub(super) fn answered<const NOTES: bool>(passage: &mut Passage<NOTES>, port: u16) -> u64 {
    let protocol = passage.flow.protocol;
    // SAFETY: found in this run.
    let Some(opened) = (unsafe { exchange::answered(passage.known, protocol, passage.way, port) }) else {
        return 0;
    };
    if opened.on_loopback != 0 && !passage.on_loopback.holds() {
        // On its own host a process may send from any address. Who really has it has not asked.
        return 0;
    }
    passage.flow.direction = passage.way.reverse();
    passage.flow.port = opened.port;
    if !passage.found.holds()
        && let Some(endpoint) = passage.generation.endpoint(opened.peer)
    {
        // Who asked has closed its socket meanwhile.
        passage.flow.peer.subject = endpoint.subject;
        passage.flow.peer.class = endpoint.peer;
        passage.peer_cgroup = opened.peer;
    }
    opened.last_seen
}

/// Remembers that the datagram may be answered, and whether it opens an exchange and does not go on with one. Tells when, by
/// `CLOCK_BOOTTIME`.
#[inline(never)]
pub(super) fn remember<const NOTES: bool>(passage: &mut Passage<NOTES>, port: u16) -> u64 {
    /// This host's own copy of what it sends to a group or network (include/uapi/linux/if_packet.h).
    const PACKET_LOOPBACK: u32 = 5;
    // SAFETY: the program's context. Volatile: in one piece, as the verifier wants it.
    let kind = unsafe { (&raw const (*passage.skb).pkt_type).read_volatile() };
    let opened = PeerFlow {
        last_seen: boot_ns(),
        peer: passage.peer_cgroup,
        port,
        direction: passage.way as u8,
        on_loopback: (passage.on_loopback.bits() | Fact::equal(kind, PACKET_LOOPBACK).bits()) as u8,
        reserved: [0; 4],
    };
    // SAFETY: found in this run, or null.
    if !unsafe { exchange::goes_on(passage.known, &opened) } {
        // SAFETY: as above.
        let known = unsafe { passage.known.as_ref() };
        passage.packet.opens = Fact::of(known.is_none_or(|known| known.direction != opened.direction));
        exchange::remember(&passage.exchange(), &opened);
    }
    opened.last_seen
}

/// See [`cached::keep`].
#[inline(never)]
pub(super) fn keep(passage: &Passage<true>, bucket: u32) {
    let passed = Passed {
        state: passage.state,
        stream: passage.stream,
        moment: passage.moment,
        outcome: passage.outcome,
        bucket,
        way: passage.way,
        on_loopback: passage.on_loopback,
        peer_cgroup: passage.peer_cgroup,
    };
    cached::keep(passage.skb, passed);
}

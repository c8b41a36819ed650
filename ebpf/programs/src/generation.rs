//! The generation in force, and the tables that belong to it.

use core::cell::Cell;

use aya_ebpf::{btf_maps::lpm_trie::Key, helpers::generated::bpf_ktime_get_boot_ns};
use bulkhead_common::{
    Address, Direction, Endpoint, Flow, HostEntry, Outcome, Peer, PeerEntry, PeerId, PolicyKey, PolicyValue,
    PortEntry, Protocol, SubjectId, Tables, UNPLACED, decide,
};

use crate::{
    maps::{CROWDED, ENDPOINTS, EndpointTable, GENERATIONS, HOSTS, PEERS, POLICY, PORTS, STATE},
    verifier::forget32,
};

/// The slot in force for this packet or call: read once, so that everything is decided by one generation.
#[derive(Clone, Copy)]
pub struct Generation {
    slot: u32,
}

/// Nanoseconds of `CLOCK_BOOTTIME`.
#[inline(always)]
pub fn boot_ns() -> u64 {
    // SAFETY: the helper takes no arguments and only reads the clock.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// Milliseconds of the same.
#[inline(always)]
pub fn boot_ms() -> u64 {
    boot_ns() / 1_000_000
}

impl Generation {
    /// The generation in force.
    #[inline(always)]
    pub fn active() -> Option<Self> {
        let state = *STATE.get(0)?;
        let now_ms = if state.has_deadline() { boot_ms() } else { 0 };
        Some(Self { slot: forget32(state.slot(now_ms)) })
    }

    /// The generation in force, and the shadow, if there is one.
    #[inline(always)]
    pub fn both() -> Option<(Self, Self)> {
        let shadow = STATE.get(0)?.shadow()?;
        Some((Self::active()?, Self { slot: forget32(shadow) }))
    }

    /// The slot that it lies in.
    #[inline(always)]
    pub fn slot(self) -> u32 {
        self.slot
    }

    /// The generation in a slot.
    #[inline(always)]
    pub fn of_slot(slot: u32) -> Self {
        Self { slot }
    }

    /// See [`bulkhead_common::GenerationInfo::places`]. To be read before anything is found out that is to hold as long.
    #[inline(always)]
    pub fn places(self) -> u32 {
        GENERATIONS.get_ptr(self.slot).map_or(0, |info| {
            // SAFETY: a map's value, read as it is.
            unsafe { (&raw const (*info).places).read_volatile() }
        })
    }

    /// Its number, for reports.
    #[inline(always)]
    pub fn number(self) -> u32 {
        GENERATIONS.get(self.slot).map_or(0, |info| info.number)
    }

    /// The endpoint of exactly this cgroup.
    #[inline(always)]
    pub fn endpoint(self, cgroup: u64) -> Option<Endpoint> {
        // SAFETY: the types of `ENDPOINTS`. User space replaces whole generations where a mix of two versions of one
        // cgroup's endpoint could matter.
        unsafe { ENDPOINTS.get(self.slot)?.get(&cgroup) }.copied()
    }

    /// Which cgroups have an endpoint.
    #[inline(always)]
    pub fn endpoints(self) -> Option<Endpoints> {
        ENDPOINTS.get(self.slot).map(Endpoints)
    }

    /// The key of the endpoint of a cgroup that has none above it either: 0, or [`UNPLACED`] if it is one of those for which
    /// there was no room.
    #[inline(always)]
    pub fn unplaced(self, cgroup: u64) -> u64 {
        let since = CROWDED.get(self.slot).map_or(0, |crowded| crowded.unplaced);
        if since == 0 || cgroup < since { 0 } else { UNPLACED }
    }

    /// What an address stands for.
    #[inline(always)]
    pub fn peer(self, address: Address) -> PeerEntry {
        // SAFETY: the types of `HOSTS`.
        let host = HOSTS.get(self.slot).and_then(|table| unsafe { table.word::<_, HostEntry>(&address) });
        if let Some(host) = host {
            return host.of(address);
        }
        let Some(table) = PEERS.get(self.slot) else { return PeerEntry::UNKNOWN };
        // SAFETY: the types of `PEERS`. User space edits it while programs run, and a trie is edited by putting new nodes
        // in place of old ones under RCU (`trie_update_elem` and `trie_delete_elem` in kernel/bpf/lpm_trie.c): a value that
        // has been found never changes.
        unsafe { table.get(&Key::new(128, address)) }.copied().unwrap_or(PeerEntry::UNKNOWN)
    }
}

/// The cgroups of a generation that have an endpoint: the table is looked up once for many of them.
#[derive(Clone, Copy)]
pub struct Endpoints(&'static EndpointTable);

impl Endpoints {
    #[inline(always)]
    pub fn has(self, cgroup: u64) -> bool {
        // SAFETY: the types of `ENDPOINTS`.
        !unsafe { self.0.get_ptr_mut::<u64, Endpoint>(&cgroup) }.is_null()
    }
}

/// The verdict on a flow at a local end; see [`bulkhead_common::decide`].
#[inline(always)]
pub fn verdict(generation: Generation, local: &Endpoint, flow: &Flow) -> Outcome {
    let Peer { subject, class } = flow.peer;
    Outcome(decision(
        u64::from(local.subject.0) | u64::from(local.flags) << 32,
        u64::from(subject.0) | u64::from(class.0) << 32,
        u64::from(flow.port) | u64::from(flow.protocol.0) << 16 | u64::from(flow.direction as u8) << 24,
        generation.slot,
    ))
}

/// A generation that notes whether the clock was read.
struct Asked {
    generation: Generation,
    timed: Cell<bool>,
}

/// [`verdict`] with its arguments and its result as numbers: a global function to the kernel, which verifies it once
/// and by itself (see [`crate::identity`]).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn decision(local: u64, peer: u64, flow: u64, slot: u32) -> u64 {
    let asked = Asked { generation: Generation { slot }, timed: Cell::new(false) };
    let local =
        Endpoint { subject: SubjectId(local as u32), peer: PeerId::NONE, flags: (local >> 32) as u32 };
    let flow = Flow {
        direction: if flow >> 24 == 0 { Direction::Egress } else { Direction::Ingress },
        protocol: Protocol((flow >> 16) as u8),
        port: flow as u16,
        peer: Peer { subject: SubjectId(peer as u32), class: PeerId((peer >> 32) as u32) },
    };
    let decision = decide(&asked, &local, &flow);
    Outcome::new(decision, asked.timed.get()).0
}

impl Tables for Asked {
    #[inline(always)]
    fn policy(&self, key: &PolicyKey) -> Option<PolicyValue> {
        // SAFETY: the types of `PORTS`.
        let port =
            PORTS.get(self.generation.slot).and_then(|table| unsafe { table.word::<_, PortEntry>(key) });
        if let Some(port) = port {
            return port.of(key);
        }
        // SAFETY: the types of `POLICY`, a trie edited as `PEERS` is.
        unsafe { POLICY.get(self.generation.slot)?.get(&Key::new(PolicyKey::FULL, *key)) }.copied()
    }

    #[inline(always)]
    fn now(&self) -> u64 {
        self.timed.set(true);
        boot_ns()
    }
}

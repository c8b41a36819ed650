//! The generation in force, and the tables that belong to it.

use aya_ebpf::{btf_maps::lpm_trie::Key, helpers::generated::bpf_ktime_get_boot_ns};
use bulkhead_common::{Address, Endpoint, PeerEntry, PolicyKey, PolicyValue, Tables};

use crate::maps::{ENDPOINTS, GENERATIONS, PEERS, POLICY, STATE};

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

impl Generation {
    /// The generation in force.
    #[inline(always)]
    pub fn active() -> Option<Self> {
        let state = *STATE.get(0)?;
        let now_ms = if state.has_deadline() { boot_ns() / 1_000_000 } else { 0 };
        Some(Self { slot: state.slot(now_ms) })
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

    /// What an address stands for.
    #[inline(always)]
    pub fn peer(self, address: Address) -> PeerEntry {
        let Some(table) = PEERS.get(self.slot) else { return PeerEntry::UNKNOWN };
        // SAFETY: the types of `PEERS`, which is never edited in place.
        unsafe { table.get(&Key::new(128, address)) }.copied().unwrap_or(PeerEntry::UNKNOWN)
    }
}

impl Tables for Generation {
    #[inline(always)]
    fn policy(&self, key: &PolicyKey) -> Option<PolicyValue> {
        // SAFETY: the types of `POLICY`, which is never edited in place.
        unsafe { POLICY.get(self.slot)?.get(&Key::new(PolicyKey::FULL, *key)) }.copied()
    }

    #[inline(always)]
    fn now(&self) -> u64 {
        boot_ns()
    }
}

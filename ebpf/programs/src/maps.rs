//! Every map of the programs. User space fills `ENDPOINTS`, `PEERS` and `POLICY` with inner maps of its own sizes;
//! the sizes here are templates and bounds.

use core::ptr::{from_ref, null};

use aya_ebpf::{
    bindings::{
        BPF_ANY, BPF_F_CLONE, BPF_F_NO_PREALLOC,
        bpf_map_type::{BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_LPM_TRIE, BPF_MAP_TYPE_SK_STORAGE},
    },
    btf_maps::{Array, ArrayOfMaps, HashMap, LruHashMap, PerCpuArray, Queue, RingBuf, lpm_trie::Key},
    helpers::generated::{bpf_map_delete_elem, bpf_map_lookup_elem, bpf_map_update_elem},
    macros::btf_map,
};
use bulkhead_common::{
    Address, Counter, CounterKey, Crowded, Departure, Endpoint, Event, GenerationInfo, NameEntry, NameKey,
    PeerEntry, PeerFlow, PeerFlowKey, PolicyKey, PolicyValue, Refusal, RefusalKey, SLOTS, SocketState,
    Started, StateWord,
};

use crate::birth::Name;

const SLOT_COUNT: usize = SLOTS as usize;
const COUNTER_COUNT: usize = bulkhead_common::COUNTERS as usize;
const HASH: usize = BPF_MAP_TYPE_HASH as usize;
const TRIE: usize = BPF_MAP_TYPE_LPM_TRIE as usize;

/// The one word that says which generation is in force.
#[btf_map]
pub static STATE: Array<StateWord, 1> = Array::new();

/// What makes verdicts stale that sockets hold: see [`crate::cached::Epoch`]. User space bumps the first with every edit
/// of a live table.
#[btf_map]
pub static EPOCH: Array<u64, 2> = Array::new();

/// What holds for a whole generation, by slot.
#[btf_map]
pub static GENERATIONS: Array<GenerationInfo, SLOT_COUNT> = Array::new();

/// By slot: cgroup id -> endpoint.
#[btf_map]
pub static ENDPOINTS: ArrayOfMaps<
    Inner<HASH, { size_of::<u64>() }, { size_of::<Endpoint>() }, ALLOCATED>,
    SLOT_COUNT,
> = ArrayOfMaps::new();

/// By slot: cgroup id -> where it stands among the selectors, if something below it can be matched.
#[btf_map]
pub static FOLLOWED: ArrayOfMaps<
    Inner<HASH, { size_of::<u64>() }, { size_of::<u32>() }, ALLOCATED>,
    SLOT_COUNT,
> = ArrayOfMaps::new();

/// By slot: names of cgroups and what follows from them.
#[btf_map]
pub static NAMES: ArrayOfMaps<
    Inner<TRIE, { size_of::<Key<NameKey>>() }, { size_of::<NameEntry>() }>,
    SLOT_COUNT,
> = ArrayOfMaps::new();

/// By slot: what found no room in `ENDPOINTS` and `FOLLOWED`.
#[btf_map]
pub static CROWDED: Array<Crowded, SLOT_COUNT> = Array::new();

/// The name of the cgroup that is being made.
#[btf_map]
pub static NAME: PerCpuArray<Name, 1> = PerCpuArray::new();

/// By slot: address prefix -> peer.
#[btf_map]
pub static PEERS: ArrayOfMaps<
    Inner<TRIE, { size_of::<Key<Address>>() }, { size_of::<PeerEntry>() }>,
    SLOT_COUNT,
> = ArrayOfMaps::new();

/// By slot: the allowlists.
#[btf_map]
pub static POLICY: ArrayOfMaps<
    Inner<TRIE, { size_of::<Key<PolicyKey>>() }, { size_of::<PolicyValue>() }>,
    SLOT_COUNT,
> = ArrayOfMaps::new();

/// What is known of a socket. Goes with the socket, and is cloned to those accepted from a listener.
#[btf_map]
pub static SOCKETS: ClonedSkStorage<SocketState> = ClonedSkStorage::new();

/// Cookies of the TCP connections that were there before the programs. Written once at start and never cleaned: a
/// cookie is never used again.
#[btf_map]
pub static OLDER: HashMap<u64, u8, 1_048_576, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

/// Peers that datagram sockets talk to. A flow that falls out is decided anew: a full table never allows.
#[btf_map]
pub static PEER_FLOWS: LruHashMap<PeerFlowKey, PeerFlow, 65_536> = LruHashMap::new();

/// Kinds of refused packets, to report each once a second.
#[btf_map]
pub static REFUSALS: LruHashMap<RefusalKey, Refusal, 16_384> = LruHashMap::new();

/// Refusals on their way to user space: 1 MiB, about 8,000 records.
#[btf_map]
pub static EVENTS: RingBuf<Event, 1_048_576> = RingBuf::new();

/// Programs that have begun: 64 KiB, about 2,700 of them.
#[btf_map]
pub static STARTED: RingBuf<Started, 65_536> = RingBuf::new();

/// Processes that are moved out of their workloads: 64 KiB, about 780 of them.
#[btf_map]
pub static DEPARTURES: RingBuf<Departure, 65_536> = RingBuf::new();

/// Records that found `EVENTS` full.
#[btf_map]
pub static LOST: PerCpuArray<u64, 1> = PerCpuArray::new();

/// The bucket of each kind of traffic that has been seen.
#[btf_map]
pub static COUNTER_INDEX: HashMap<CounterKey, u32, COUNTER_COUNT> = HashMap::new();

/// Indices of buckets that no kind of traffic has. User space fills it with all but that for all others.
#[btf_map]
pub static FREE_COUNTERS: Queue<u32, COUNTER_COUNT> = Queue::new();

/// The buckets.
#[btf_map]
pub static COUNTERS: PerCpuArray<Counter, COUNTER_COUNT> = PerCpuArray::new();

/// Socket storage that is cloned with its socket.
///
/// aya-ebpf's `SkStorage` fixes the flags without `BPF_F_CLONE` and takes only `SockAddrContext`. This is the same
/// BTF map definition with the flag; [`crate::socket`] calls the helper.
#[repr(C)]
pub struct ClonedSkStorage<T> {
    r#type: *const [i32; BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; (BPF_F_NO_PREALLOC | BPF_F_CLONE) as usize],
}

// SAFETY: the fields are placeholders for the loader and are never read.
unsafe impl<T> Sync for ClonedSkStorage<T> {}

impl<T> ClonedSkStorage<T> {
    const fn new() -> Self {
        Self { r#type: null(), key: null(), value: null(), max_entries: null(), map_flags: null() }
    }
}

/// Flags of inner maps that take memory only for what they hold.
const GROWS: usize = BPF_F_NO_PREALLOC as usize;

/// Flags of inner maps whose memory is allocated at once. Tracing programs must use such hash maps before Linux 6.1
/// (`check_map_prog_compatibility` in kernel/bpf/verifier.c), and an insertion fails for no other reason than a full map.
const ALLOCATED: usize = 0;

/// Template of the inner maps that user space makes, each of a size of its own.
///
/// It gives sizes instead of types, so that the template has no BTF, as the maps that aya makes at run time have
/// none: from 5.15 to 6.1 the kernel takes an inner map only if both have BTF or neither has (`bpf_map_meta_equal` in
/// kernel/bpf/map_in_map.c compares `timer_off`, which says whether a map's BTF was looked at).
#[repr(C)]
pub struct Inner<const TYPE: usize, const KEY: usize, const VALUE: usize, const FLAGS: usize = GROWS> {
    r#type: *const [i32; TYPE],
    key_size: *const [i32; KEY],
    value_size: *const [i32; VALUE],
    max_entries: *const [i32; 1],
    map_flags: *const [i32; FLAGS],
}

impl<const TYPE: usize, const KEY: usize, const VALUE: usize, const FLAGS: usize>
    Inner<TYPE, KEY, VALUE, FLAGS>
{
    /// The entry of `key`: in a trie the one with the longest prefix.
    ///
    /// # Safety
    /// `K` and `V` must be what user space fills the map with. A concurrent update can mix two versions of a value.
    #[inline(always)]
    pub unsafe fn get<K, V>(&self, key: &K) -> Option<&V> {
        const { assert!(size_of::<K>() == KEY && size_of::<V>() == VALUE) };
        // SAFETY: the map's sizes are those of the types, which the caller vouches for.
        unsafe {
            bpf_map_lookup_elem(from_ref(self).cast_mut().cast(), from_ref(key).cast()).cast::<V>().as_ref()
        }
    }
    /// Sets the entry of `key`. False: there is no room.
    ///
    /// # Safety
    /// As for [`Self::get`].
    #[inline(always)]
    pub unsafe fn insert<K, V>(&self, key: &K, value: &V) -> bool {
        const { assert!(size_of::<K>() == KEY && size_of::<V>() == VALUE) };
        // SAFETY: the map's sizes are those of the types, which the caller vouches for.
        let done = unsafe {
            bpf_map_update_elem(
                from_ref(self).cast_mut().cast(),
                from_ref(key).cast(),
                from_ref(value).cast(),
                BPF_ANY.into(),
            )
        };
        done == 0
    }

    /// Removes the entry of `key`, if there is one.
    ///
    /// # Safety
    /// As for [`Self::get`].
    #[inline(always)]
    pub unsafe fn remove<K>(&self, key: &K) {
        const { assert!(size_of::<K>() == KEY) };
        // SAFETY: the map's key has the size of the type, which the caller vouches for.
        unsafe { bpf_map_delete_elem(from_ref(self).cast_mut().cast(), from_ref(key).cast()) };
    }
}

//! Every map of the programs. User space fills `ENDPOINTS`, `PEERS` and `POLICY` with inner maps of its own sizes;
//! the sizes here are templates and bounds.

use core::ptr::{from_ref, null};

use aya_ebpf::{
    bindings::{
        BPF_ANY, BPF_F_CLONE, BPF_F_NO_PREALLOC, BPF_NOEXIST,
        bpf_map_type::{BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_LPM_TRIE, BPF_MAP_TYPE_SK_STORAGE},
    },
    btf_maps::{Array, ArrayOfMaps, HashMap, LruHashMap, PerCpuArray, Queue, RingBuf, lpm_trie::Key},
    helpers::generated::{bpf_map_delete_elem, bpf_map_lookup_elem, bpf_map_update_elem},
    macros::btf_map,
};
use bulkhead_common::{
    Address, Counter, CounterKey, Crowded, Departure, Endpoint, Event, GenerationInfo, HostEntry, NameEntry,
    NameKey, PeerEntry, PeerFlow, PeerFlowKey, PolicyKey, PolicyValue, PortEntry, Refusal, RefusalKey, SLOTS,
    Share, SocketState, Source, Started, StateWord,
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
pub static ENDPOINTS: ArrayOfMaps<EndpointTable, SLOT_COUNT> = ArrayOfMaps::new();

/// The table of one slot.
pub type EndpointTable = Inner<HASH, { size_of::<u64>() }, { size_of::<Endpoint>() }, ALLOCATED>;

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

/// By slot: address -> peer; see [`HostEntry`]. Asked first.
#[btf_map]
pub static HOSTS: ArrayOfMaps<Inner<HASH, { size_of::<Address>() }, { size_of::<HostEntry>() }>, SLOT_COUNT> =
    ArrayOfMaps::new();

/// By slot: address prefix -> peer.
#[btf_map]
pub static PEERS: ArrayOfMaps<
    Inner<TRIE, { size_of::<Key<Address>>() }, { size_of::<PeerEntry>() }>,
    SLOT_COUNT,
> = ArrayOfMaps::new();

/// By slot: of the allowlists what is for one port; see [`PortEntry`]. Asked first.
#[btf_map]
pub static PORTS: ArrayOfMaps<
    Inner<HASH, { size_of::<PolicyKey>() }, { size_of::<PortEntry>() }>,
    SLOT_COUNT,
> = ArrayOfMaps::new();

/// By slot: the rest of the allowlists.
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

/// Kinds of refusals, to report each once a second. One table that user space replaces as a whole: entries of a table in
/// use are never removed, so nothing that a program adds is lost.
#[btf_map]
pub static REFUSALS: ArrayOfMaps<Kinds, 1> = ArrayOfMaps::new();

/// The table of kinds of refusals.
pub type Kinds = Inner<HASH, { size_of::<RefusalKey>() }, { size_of::<Refusal>() }>;

/// How many kinds of refusals a program has begun. What falls out begins with its whole share.
#[btf_map]
pub static SOURCE_SHARES: LruHashMap<Source, Share, 4_096> = LruHashMap::new();

/// The same of a workload.
#[btf_map]
pub static SUBJECT_SHARES: LruHashMap<u32, Share, 4_096> = LruHashMap::new();

/// Refusals on their way to user space: 1 MiB, about 7,700 records.
#[btf_map]
pub static EVENTS: RingBuf<Event, 1_048_576> = RingBuf::new();

/// Programs that have begun: 64 KiB, about 2,700 of them.
#[btf_map]
pub static STARTED: RingBuf<Started, 65_536> = RingBuf::new();

/// Processes that are moved out of their workloads: 64 KiB, about 780 of them.
#[btf_map]
pub static DEPARTURES: RingBuf<Departure, 65_536> = RingBuf::new();

/// Refusals that nothing tells of: their kind was new, and `EVENTS` full or the [`Share`] used up.
#[btf_map]
pub static LOST: PerCpuArray<u64, 1> = PerCpuArray::new();

/// Refusals of a known kind that were due for a record and found `EVENTS` full: their entries count them.
#[btf_map]
pub static LATE: PerCpuArray<u64, 1> = PerCpuArray::new();

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
        // SAFETY: the caller's.
        unsafe { self.get_ptr_mut::<K, V>(key).as_ref() }
    }

    /// The entry of `key`, one word that is read at once: user space may edit it meanwhile.
    ///
    /// # Safety
    /// As for [`Self::get`].
    #[inline(always)]
    pub unsafe fn word<K, V: Copy>(&self, key: &K) -> Option<V> {
        const { assert!(size_of::<V>() == size_of::<u64>()) };
        // SAFETY: the caller's.
        let at = unsafe { self.get_ptr_mut::<K, V>(key) };
        // SAFETY: a map's value, aligned to eight bytes.
        if at.is_null() { None } else { Some(unsafe { at.read_volatile() }) }
    }

    /// The entry of `key`, to be written in place, or null.
    ///
    /// # Safety
    /// As for [`Self::get`].
    #[inline(always)]
    pub unsafe fn get_ptr_mut<K, V>(&self, key: &K) -> *mut V {
        const { assert!(size_of::<K>() == KEY && size_of::<V>() == VALUE) };
        // SAFETY: the map's sizes are those of the types, which the caller vouches for.
        unsafe { bpf_map_lookup_elem(from_ref(self).cast_mut().cast(), from_ref(key).cast()).cast() }
    }

    /// Makes the entry of `key`. False: there is one, or no room.
    ///
    /// # Safety
    /// As for [`Self::get`].
    #[inline(always)]
    pub unsafe fn insert_new<K, V>(&self, key: &K, value: &V) -> bool {
        // SAFETY: the caller's.
        unsafe { self.update(key, value, BPF_NOEXIST) }
    }

    /// Sets the entry of `key`. False: there is no room.
    ///
    /// # Safety
    /// As for [`Self::get`].
    #[inline(always)]
    pub unsafe fn insert<K, V>(&self, key: &K, value: &V) -> bool {
        // SAFETY: the caller's.
        unsafe { self.update(key, value, BPF_ANY) }
    }

    #[inline(always)]
    unsafe fn update<K, V>(&self, key: &K, value: &V, flags: u32) -> bool {
        const { assert!(size_of::<K>() == KEY && size_of::<V>() == VALUE) };
        // SAFETY: the map's sizes are those of the types, which the caller vouches for.
        let done = unsafe {
            bpf_map_update_elem(
                from_ref(self).cast_mut().cast(),
                from_ref(key).cast(),
                from_ref(value).cast(),
                flags.into(),
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

//! Every map of the programs. User space fills `ENDPOINTS`, `PEERS` and `POLICY` with inner maps of its own sizes;
//! the sizes here are templates and bounds.

use aya_ebpf::{
    bindings::{BPF_F_CLONE, BPF_F_NO_PREALLOC, bpf_map_type::BPF_MAP_TYPE_SK_STORAGE},
    btf_maps::{Array, ArrayOfMaps, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf},
    macros::btf_map,
};
use bulkhead_common::{
    Address, Endpoint, Event, GenerationInfo, PeerEntry, PeerFlow, PeerFlowKey, PolicyKey, PolicyValue,
    Refusal, RefusalKey, SLOTS, SocketState, StateWord,
};

const SLOT_COUNT: usize = SLOTS as usize;
const GROWS: usize = BPF_F_NO_PREALLOC as usize;

/// The one word that says which generation is in force.
#[btf_map]
pub static STATE: Array<StateWord, 1> = Array::new();

/// Bumped by user space with every edit of a live table.
#[btf_map]
pub static EPOCH: Array<u64, 1> = Array::new();

/// What holds for a whole generation, by slot.
#[btf_map]
pub static GENERATIONS: Array<GenerationInfo, SLOT_COUNT> = Array::new();

/// By slot: cgroup id -> endpoint.
#[btf_map]
pub static ENDPOINTS: ArrayOfMaps<HashMap<u64, Endpoint, 65_536, GROWS>, SLOT_COUNT> = ArrayOfMaps::new();

/// By slot: address prefix -> peer.
#[btf_map]
pub static PEERS: ArrayOfMaps<LpmTrie<Address, PeerEntry, 65_536>, SLOT_COUNT> = ArrayOfMaps::new();

/// By slot: the allowlists.
#[btf_map]
pub static POLICY: ArrayOfMaps<LpmTrie<PolicyKey, PolicyValue, 65_536>, SLOT_COUNT> = ArrayOfMaps::new();

/// What is known of a socket. Goes with the socket, and is cloned to those accepted from a listener.
#[btf_map]
pub static SOCKETS: ClonedSkStorage<SocketState> = ClonedSkStorage::new();

/// Peers that datagram sockets talk to. A flow that falls out is decided anew: a full table never allows.
#[btf_map]
pub static PEER_FLOWS: LruHashMap<PeerFlowKey, PeerFlow, 65_536> = LruHashMap::new();

/// Kinds of refused packets, to report each once a second.
#[btf_map]
pub static REFUSALS: LruHashMap<RefusalKey, Refusal, 16_384> = LruHashMap::new();

/// Refusals on their way to user space: 1 MiB, about 8,000 records.
#[btf_map]
pub static EVENTS: RingBuf<Event, 1_048_576> = RingBuf::new();

/// Records that found `EVENTS` full.
#[btf_map]
pub static LOST: PerCpuArray<u64, 1> = PerCpuArray::new();

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
        use core::ptr::null;
        Self { r#type: null(), key: null(), value: null(), max_entries: null(), map_flags: null() }
    }
}

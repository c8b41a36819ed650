//! Holds [`ABI_VERSION`] to the layouts that it stands for: pinned maps are read by whichever agent comes next.

use core::mem::offset_of;

use crate::{
    ABI_VERSION, COUNTERS, Counter, CounterKey, Crowded, Departure, Endpoint, Event, GenerationInfo,
    HostEntry, NameEntry, NameKey, PLACES, PeerEntry, PeerFlow, PeerFlowKey, PolicyKey, PolicyValue,
    PortEntry, Process, Refusal, RefusalKey, SLOTS, STATE_BITS, SocketState, Source, Started,
};

/// The version, and the fingerprint of its layouts.
const KNOWN: (u32, u64) = (1, 17_565_107_574_325_119_331);

/// Name, size, and fields with their offsets.
macro_rules! layout {
    ($($name:ident { $($field:tt)* })*) => {
        [$((
            stringify!($name),
            size_of::<$name>(),
            vec![$((stringify!($field), offset_of!($name, $field))),*],
        )),*]
    };
}

#[test]
fn another_layout_is_another_version() {
    let layouts = layout! {
        Endpoint { subject peer flags }
        PeerEntry { class subject flags }
        HostEntry { 0 }
        PortEntry { 0 }
        PolicyKey { subject peer direction protocol port reserved }
        PolicyValue { rule flags expires }
        NameKey { of name }
        NameEntry { endpoint next flags }
        Crowded { unplaced unfollowed }
        GenerationInfo { number places }
        Process { pid uid comm }
        SocketState { owner anchor peer introduced origin names_source reported process seal passes passed }
        PeerFlowKey { cookie address port protocol reserved }
        PeerFlow { last_seen peer port direction on_loopback reserved }
        Source { owner comm uid reserved }
        RefusalKey { source address peer_subject port protocol direction what generation }
        Refusal { born reported last total }
        CounterKey { generation subject peer rule port protocol direction verdict reason packets shadow }
        Counter { packets bytes connections first_seen last_seen }
        Started { cgroup pid reserved }
        Departure { from to from_subject to_subject pid by comm by_comm generation reserved }
        Event {
            time cgroup peer_cgroup cookie born total peer_address subject peer_subject peer_class rule
            generation pid uid port peer_port protocol direction verdict reason hook comm
        }
    };
    let text = format!("{layouts:?} {SLOTS} {COUNTERS} {PLACES} {STATE_BITS}");
    assert_eq!(
        (ABI_VERSION, fingerprint(&text)),
        KNOWN,
        "what agents share has another layout: raise ABI_VERSION if an agent was released with the one before, and note \
         the fingerprint here"
    );
}

/// FNV-1a: enough to notice a change.
fn fingerprint(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

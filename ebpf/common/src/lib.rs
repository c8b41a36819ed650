//! What the BPF programs and user space share: the layout of every map key, map value and event record, and
//! [`decide`], the one verdict function.
//!
//! Everything here is `no_std`, free of `unsafe`, and compiled twice: for `bpfel-unknown-none` into the programs,
//! and for the host into `explain`, `simulate`, `test` and the agent. A dry run is therefore what the kernel does.
//!
//! # Byte order
//! Addresses are 16 bytes in network order ([`Address`]); ports in map keys are in network order, so that a port
//! range is a bit prefix. All other integers are in the machine's own order: records never leave the machine.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod address;
mod birth;
mod counter;
mod create;
mod decide;
mod essential;
mod event;
mod exact;
mod flow;
#[cfg(test)]
mod layout;
mod policy;
mod refusal;
mod socket;
mod state;

pub use address::Address;
pub use birth::{
    CgroupLayout, Crowded, FIRST_LIST, NAME_BYTES, NameEntry, NameKey, PLACES, STATE_BITS, STATE_DEAD,
    STATE_DELEGATED, STATE_LOST, UNPLACED, mark_of_states,
};
pub use counter::{COUNTERS, Counter, CounterKey, OTHER};
pub use create::{NewSocket, Unseen, decide_socket};
pub use decide::{Decision, Outcome, Reason, Tables, Verdict, decide};
pub use essential::Message;
pub use event::{Departure, Event, Hook, Started};
pub use exact::{HostEntry, PortEntry};
pub use flow::{Direction, Flow, Peer, Protocol};
pub use policy::{Endpoint, PeerEntry, PeerId, PolicyKey, PolicyValue, RuleId, SubjectId};
pub use refusal::{Refusal, RefusalKey, Share, Source};
pub use socket::{Command, HASH_INPUTS, HASH_KEYS, Origin, PeerFlow, PeerFlowKey, Process, SocketState};
pub use state::{GenerationInfo, SLOTS, StateWord};

/// Version of every layout in this crate. It is part of the pin path: an agent never reads maps of another layout.
pub const ABI_VERSION: u32 = 1;

/// Deepest cgroup level (the root of the hierarchy is 0) that a selector may match.
///
/// The programs look for the nearest identified ancestor of a socket's cgroup with
/// `bpf_skb_ancestor_cgroup_id(level)`, one probe a level. Cgroups may be nested deeper than this; only the
/// directory that a selector matches may not.
pub const MAX_CGROUP_LEVEL: i32 = 16;

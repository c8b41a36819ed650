//! The last verdict of a socket, kept in its storage: a packet like the last one passes without being decided again.
//!
//! A verdict is one 64-bit word, so that no two CPUs can tear it: the [`Moment`] that it holds in, and 16 bits that say
//! where packets like this one are counted. Only "passes, and nothing to report" is kept.
//!
//! Whoever is in no workload passes whatever it sends or receives, and a TCP connection has one peer: such words hold for
//! the whole socket. A datagram may go anywhere, and a listener has many peers, so there a hash of addresses, ports and
//! protocol is added to the moment.
//! The hash is strongly universal (Lemire and Kaser, "Strongly universal string hashing is fast", 2014: sums of 32-bit
//! words times random 64-bit keys), and its keys are drawn by user space at every start: whoever does not know them can
//! do no better than guess one of 2^48 values, by sending.

use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock},
    helpers::generated::bpf_jiffies64,
};
use bulkhead_common::{Direction, HASH_INPUTS, HASH_KEYS, Outcome, Protocol, Reason, SLOTS, SocketState};

use crate::{
    count,
    generation::boot_ms,
    maps::{EPOCH, STATE},
    parse::opens,
    plain::Plain,
    socket,
    verifier::{Fact, forget64},
};

/// Index into [`EPOCH`].
#[derive(Clone, Copy)]
#[repr(u32)]
pub enum Epoch {
    /// Tables have been edited, or a generation switched to.
    Tables = 0,
    /// A datagram socket may have another's address and port by now: who is at the other end of an exchange on this host
    /// is known by its socket, and nobody tells when one takes another's place.
    Datagrams = 1,
}

/// Two hashes of 32 bits, each with a key for every word and one more: drawn by user space at every start.
#[unsafe(no_mangle)]
static KEYS: [u64; HASH_KEYS] = [0; HASH_KEYS];

/// In place of a bucket: packets of whoever is in no workload are not counted.
pub const UNCOUNTED: u32 = 0xffff;
/// The same for a socket that can name a source of its own choice: what it sends on loopback is looked at, and all that it
/// sends once it has asked to name one from elsewhere.
const UNCOUNTED_DATAGRAMS: u32 = 0xfffe;

/// Beside a connection's bucket: its packets stay in their network namespace.
const ON_LOOPBACK: u32 = 1 << 14;

const _: () = assert!(bulkhead_common::COUNTERS <= ON_LOOPBACK);

/// Room for the number of a slot.
const SLOT_BITS: u32 = 2;

const _: () = assert!(SLOTS <= 1 << SLOT_BITS);

/// How many jiffies a verdict lasts at most, as a power of two: a second with the usual 250 a second (CONFIG_HZ), a
/// quarter of it with 1,000, two and a half with 100.
const LASTING: u32 = 8;

/// 48 bits that change with every edit of the tables, with another slot in force, and with time: what is kept lasts for a
/// moment. 0: nothing is to be kept now.
///
/// Read it before anything is decided: what changes meanwhile belongs to another moment.
#[derive(Clone, Copy)]
pub struct Moment(u64);

impl Moment {
    /// Now.
    #[inline(always)]
    pub fn now() -> Self {
        let Some(state) = STATE.get(0) else { return Self(0) };
        let now_ms = if state.has_deadline() { boot_ms() } else { 0 };
        // Nobody tells when a deadline passes. Before, so many packets may be decided anew.
        let moment = if state.is_pending(now_ms) {
            0
        } else {
            // SAFETY: the helper only reads the clock.
            let time = unsafe { bpf_jiffies64() } >> LASTING;
            let tables = u64::from(epoch(Epoch::Tables)) << SLOT_BITS | u64::from(state.slot(now_ms));
            tables << 16 | time & 0xffff
        };
        Self(forget64(moment))
    }

    /// One in which nothing is kept.
    #[inline(always)]
    pub const fn never() -> Self {
        Self(0)
    }

    /// This moment, if it is known what may be kept in it; else none.
    #[inline(always)]
    pub fn if_known(self, known: Fact) -> Self {
        Self(self.0 * u64::from(known.bits()))
    }

    /// The word to keep for all packets of a socket.
    #[inline(always)]
    fn word(self, bucket: u32) -> u64 {
        self.0 << 16 | u64::from(bucket)
    }

    /// This moment for a datagram. On this host it also passes as soon as another socket may have its sender's or its
    /// receiver's place. Both epochs only grow, so their sum is another one after either has.
    #[inline(always)]
    pub fn for_datagrams(self, on_loopback: Fact) -> Self {
        let datagrams = u64::from(epoch(Epoch::Datagrams)) * u64::from(on_loopback.bits());
        Self(forget64(if self.0 == 0 { 0 } else { (self.0 + (datagrams << (16 + SLOT_BITS))) << 16 >> 16 }))
    }

    /// The word to keep for packets with this hash.
    #[inline(always)]
    fn word_for(self, hashed: Hashed, bucket: u32) -> u64 {
        self.0.wrapping_add(hashed.0) << 16 | u64::from(bucket)
    }
}

/// The bucket that a kept word names, if it is the word for this moment. For no moment, which is 0, none is ever kept.
#[inline(always)]
fn bucket_of(kept: u64, word: u64) -> Option<u32> {
    (kept ^ word <= 0xffff && kept > 0xffff).then_some((kept & 0xffff) as u32)
}

/// Where to count a packet that passes as others of its socket have in this moment.
///
/// # Safety
/// `sk` must be the packet's socket, not null, and `state` its storage.
#[inline(always)]
pub unsafe fn passes(
    skb: *mut __sk_buff,
    sk: *const bpf_sock,
    state: &mut SocketState,
    way: Direction,
    on_loopback: Fact,
    moment: Moment,
) -> Option<u32> {
    if let Some(bucket) = bucket_of(state.passes, moment.word(0)) {
        if bucket == UNCOUNTED {
            return Some(UNCOUNTED);
        }
        if bucket == UNCOUNTED_DATAGRAMS {
            let may_forge = on_loopback.holds() || state.names_source & SocketState::BY_ANYBODY != 0;
            return (!(may_forge && matches!(way, Direction::Egress))).then_some(UNCOUNTED);
        }
        // A connection's socket may be made a listener, which has many peers, and its packets may be sent another way by
        // options that are set later (IP_OPTIONS, IPV6_RTHDR).
        // SAFETY: the caller vouches for `sk`.
        let holds = bucket & ON_LOOPBACK == on_loopback.bits() * ON_LOOPBACK
            && (unsafe { (*sk).state }) != socket::TCP_LISTEN
            && Plain::of(skb).is_some_and(|packet| packet.protocol == Protocol::TCP);
        return holds.then_some(bucket & !ON_LOOPBACK);
    }
    if state.passed[way as usize] == 0 {
        return None;
    }
    let hashed = hash(skb, way, on_loopback, false)?;
    // Read again: what is held meanwhile takes stack.
    // SAFETY: a map's value.
    let kept = unsafe { (&raw const state.passed[way as usize]).read_volatile() };
    if !hashed.is_tcp() {
        return bucket_of(kept, moment.for_datagrams(on_loopback).word_for(hashed, 0));
    }
    let bucket = bucket_of(kept, moment.word_for(hashed, 0))?;
    // SAFETY: the caller vouches for `sk`.
    if unsafe { (*sk).state } == socket::TCP_LISTEN {
        return Some(bucket);
    }
    // Accepted from a listener that let its handshake pass. That it is still the same peer's: see `introduction`.
    if on_loopback.holds() && state.introduced != SocketState::introduction(state.peer, kept) {
        return None;
    }
    state.passes = moment.word(bucket | (on_loopback.bits() * ON_LOOPBACK));
    Some(bucket)
}

/// Keeps on the socket of somebody in no workload that all its packets pass, but for those that it has to be asked about.
#[inline(always)]
pub fn keep_unmatched(state: &mut SocketState, is_stream: bool, moment: Moment) {
    if moment.0 != 0 {
        state.passes = moment.word(if is_stream { UNCOUNTED } else { UNCOUNTED_DATAGRAMS });
    }
}

/// A packet that passed, and what was found out about it.
pub struct Passed {
    /// The storage of its socket, or null.
    pub state: *mut SocketState,
    /// Its socket, if it is TCP; else null.
    pub stream: *const bpf_sock,
    /// When it was decided.
    pub moment: Moment,
    pub outcome: Outcome,
    /// Where it was counted.
    pub bucket: u32,
    pub way: Direction,
    pub on_loopback: Fact,
    /// Cgroup of the workload at the other end, or 0.
    pub peer_cgroup: u64,
}

/// Keeps on its socket that a packet passed, if the next like it will fare the same: for all of a TCP connection, or for
/// what has the same ends as this one.
#[inline(always)]
pub fn keep(skb: *mut __sk_buff, passed: Passed) {
    let Passed { stream, moment, outcome, bucket, way, on_loopback, .. } = passed;
    if moment.0 == 0 || outcome.is_timed() || outcome.is(Reason::Essential) {
        return;
    }
    // SAFETY: a storage, or null.
    let Some(state) = (unsafe { passed.state.as_mut() }) else { return };
    let is_tcp = !stream.is_null();
    // SAFETY: a full socket.
    if is_tcp && unsafe { (*stream).state } != socket::TCP_LISTEN {
        state.passes = moment.word(bucket | (on_loopback.bits() * ON_LOOPBACK));
        return;
    }
    let Some(hashed) = hash(skb, way, on_loopback, true) else { return };
    if hashed.is_tcp() != is_tcp {
        return;
    }
    let word = moment.word_for(hashed, bucket);
    if is_tcp {
        // A connection's flow is the same both ways.
        state.passed = [word; 2];
        state.introduced = SocketState::introduction(passed.peer_cgroup, word);
    } else if matches!(way, Direction::Ingress) {
        state.passed[Direction::Ingress as usize] = word;
    } else {
        state.passed[Direction::Egress as usize] = word;
    }
}

/// What a socket has been told holds no more: it calls somebody else, or is called.
#[inline(always)]
pub fn forget(state: &mut SocketState) {
    state.passes = 0;
    state.passed = [0; 2];
}

/// What a packet's ends and protocol hash to, in the lower 48 bits; above them, whether it is TCP.
#[derive(Clone, Copy)]
struct Hashed(u64);

impl Hashed {
    const TCP: u64 = 1 << 63;

    #[inline(always)]
    fn is_tcp(self) -> bool {
        self.0 & Self::TCP != 0
    }
}

/// A verdict's hash, as it grows.
struct Hash([u64; 2]);

impl Hash {
    #[inline(always)]
    fn new() -> Self {
        Self([key(0), key(HASH_INPUTS + 1)])
    }

    /// Adds the word of this number, from 0.
    #[inline(always)]
    fn add(&mut self, number: usize, word: u32) {
        let word = u64::from(word);
        self.0[0] = self.0[0].wrapping_add(key(number + 1).wrapping_mul(word));
        self.0[1] = self.0[1].wrapping_add(key(HASH_INPUTS + 2 + number).wrapping_mul(word));
    }

    /// 48 bits.
    #[inline(always)]
    fn finish(self) -> u64 {
        self.0[0] >> 32 | (self.0[1] >> 48) << 32
    }
}

#[inline(always)]
fn key(number: usize) -> u64 {
    // SAFETY: within the array: all callers' numbers are constants. Volatile, since user space sets the keys.
    unsafe { (&raw const KEYS).cast::<u64>().add(number).read_volatile() }
}

/// The hash of a packet's ends and protocol: the same for both ways between two ends. None: packets like this are always
/// decided.
///
/// Only plain ones have a hash. A segment that opens a connection has one only for `keeping` it: who opens one is asked each
/// time.
#[inline(always)]
fn hash(skb: *mut __sk_buff, way: Direction, on_loopback: Fact, keeping: bool) -> Option<Hashed> {
    let packet = Plain::of(skb)?;
    let mut hash = Hash::new();
    let version = if packet.is_v4 {
        let (remote, local) = ends(way, packet.address_word(0), packet.address_word(1));
        hash.add(0, remote);
        hash.add(1, local);
        4
    } else {
        for word in 0..4 {
            let (remote, local) = ends(way, packet.address_word(word), packet.address_word(4 + word));
            hash.add(word, remote);
            hash.add(4 + word, local);
        }
        6
    };
    let is_tcp = packet.protocol == Protocol::TCP;
    if is_tcp && !keeping && opens(packet.tcp_flags()?) {
        return None;
    }
    let ports = packet.ports();
    hash.add(8, ends(way, ports, ports.rotate_left(16)).0);
    hash.add(9, version | on_loopback.bits() << 8 | u32::from(packet.protocol.0) << 16);
    Some(Hashed(hash.finish() | if is_tcp { Hashed::TCP } else { 0 }))
}

/// What belongs to the other end, and what to this one.
#[inline(always)]
fn ends(way: Direction, source: u32, target: u32) -> (u32, u32) {
    match way {
        Direction::Egress => (target, source),
        Direction::Ingress => (source, target),
    }
}

/// How far an epoch is.
#[inline(always)]
fn epoch(which: Epoch) -> u32 {
    // SAFETY: read as it is: a bump that is missed by a packet on its way came after the packet.
    EPOCH.get_ptr(which as u32).map_or(0, |epoch| unsafe { epoch.read_volatile() } as u32)
}

/// A datagram socket begins to use an address and port, or ceases to: what others hold of exchanges on this host is stale.
#[inline(always)]
pub fn datagrams_changed() {
    if let Some(epoch) = EPOCH.get_ptr_mut(Epoch::Datagrams as u32) {
        count::bump(epoch);
    }
}

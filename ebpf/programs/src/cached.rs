//! The last verdict of a socket, kept in its storage: a packet like the last one passes without being decided again.
//!
//! A verdict is one 64-bit word, so that no two CPUs can tear it: the [`Moment`] that it holds in, and 16 bits that say
//! where packets like this one are counted. Only "passes, and nothing to report" is kept.
//!
//! Whoever is in no workload passes whatever it sends or receives, and a TCP connection has one peer: such words hold for
//! the whole socket. A datagram may go anywhere, so a hash of its addresses, ports and protocol is added to the moment.
//! The hash is strongly universal (Lemire and Kaser, "Strongly universal string hashing is fast", 2014: sums of 32-bit
//! words times random 64-bit keys), and its keys are drawn by user space at every start: whoever does not know them can
//! do no better than guess one of 2^48 values, by sending.

use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock},
    helpers::generated::{bpf_jiffies64, bpf_sk_fullsock},
};
use bulkhead_common::{Direction, HASH_INPUTS, HASH_KEYS, Outcome, Protocol, Reason, SLOTS, SocketState};

use crate::{
    count,
    generation::boot_ms,
    maps::{EPOCH, STATE},
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
/// The same for a socket that can name a source of its own choice: what it sends on loopback is looked at.
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

    /// The word to keep for datagrams with this hash.
    #[inline(always)]
    fn word_for(self, hash: u64, bucket: u32) -> u64 {
        self.0.wrapping_add(hash) << 16 | u64::from(bucket)
    }
}

/// The bucket that a kept word names, if it is the word for this moment.
#[inline(always)]
fn bucket_of(kept: u64, word: u64) -> Option<u32> {
    (kept ^ word <= 0xffff).then_some((kept & 0xffff) as u32)
}

/// Where to count a packet that passes as others of its socket have in this moment.
///
/// # Safety
/// `sk` must be the packet's socket, not null, and `state` its storage.
#[inline(always)]
pub unsafe fn passes(
    skb: *mut __sk_buff,
    sk: *const bpf_sock,
    state: &SocketState,
    way: Direction,
    on_loopback: Fact,
    moment: Moment,
) -> Option<u32> {
    if moment.0 == 0 {
        return None;
    }
    if let Some(bucket) = bucket_of(state.passes, moment.word(0)) {
        if bucket == UNCOUNTED {
            return Some(UNCOUNTED);
        }
        if bucket == UNCOUNTED_DATAGRAMS {
            return (!(on_loopback.holds() && matches!(way, Direction::Egress))).then_some(UNCOUNTED);
        }
        // A connection's socket may be made a listener, which has many peers, and its packets may be sent another way by
        // options that are set later (IP_OPTIONS, IPV6_RTHDR).
        // SAFETY: the caller vouches for `sk`.
        let holds = bucket & ON_LOOPBACK == on_loopback.bits() * ON_LOOPBACK
            && (unsafe { (*sk).state }) != socket::TCP_LISTEN
            && is_plain_tcp(skb) != 0;
        return holds.then_some(bucket & !ON_LOOPBACK);
    }
    let kept = state.passed[way as usize];
    if kept == 0 {
        return None;
    }
    match hash_of(skb, on_loopback.bits()) {
        0 => None,
        hash => bucket_of(kept, moment.for_datagrams(on_loopback).word_for(hash, 0)),
    }
}

/// Keeps on the socket of somebody in no workload that all its packets pass, but for those that it has to be asked about.
#[inline(always)]
pub fn keep_unmatched(state: &mut SocketState, is_stream: bool, moment: Moment) {
    if moment.0 != 0 {
        state.passes = moment.word(if is_stream { UNCOUNTED } else { UNCOUNTED_DATAGRAMS });
    }
}

/// A packet that passed.
#[derive(Clone, Copy)]
pub struct Kept {
    /// Where it was counted.
    pub bucket: u32,
    pub way: Direction,
    pub on_loopback: Fact,
}

/// Keeps on its socket that a packet passed, if the next like it will fare the same: for all of a TCP connection, or for
/// datagrams like this one.
#[inline(always)]
pub fn keep(skb: *mut __sk_buff, Moment(moment): Moment, Outcome(outcome): Outcome, kept: Kept) {
    let Kept { bucket, way, on_loopback } = kept;
    let kept = bucket | (way as u32) << 16 | on_loopback.bits() << 17;
    keep_passed(skb, moment, outcome, kept);
}

/// [`keep`] with its arguments as numbers: a global function to the kernel, which verifies it once and by itself (see
/// [`crate::identity`]).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn keep_passed(skb: *mut __sk_buff, moment: u64, outcome: u64, kept: u32) -> u32 {
    let outcome = Outcome(outcome);
    if moment == 0 || outcome.is_timed() || outcome.is(Reason::Essential) {
        return 0;
    }
    // SAFETY: the program's context.
    let sk = unsafe { (*skb).__bindgen_anon_2.sk };
    if sk.is_null() {
        return 0;
    }
    // SAFETY: a socket that is not null.
    let sk = unsafe { bpf_sk_fullsock(sk) };
    if sk.is_null() {
        return 0;
    }
    // SAFETY: a full socket.
    let (is_tcp, connection) = unsafe { (socket::is_tcp(sk), (*sk).state) };
    // SAFETY: as above.
    let Some(state) = (unsafe { socket::state(sk.cast()) }) else { return 0 };
    let moment = Moment(moment);
    let bucket = kept & 0xffff;
    let (ingress, on_loopback) = (kept & 1 << 16 != 0, kept & 1 << 17 != 0);
    if is_tcp {
        // A listener has many peers.
        if connection != socket::TCP_LISTEN {
            state.passes = moment.word(if on_loopback { bucket | ON_LOOPBACK } else { bucket });
        }
    } else {
        let hash = hash_of(skb, u32::from(on_loopback));
        let word = moment.word_for(hash, bucket);
        if hash == 0 {
            return 0;
        }
        if ingress {
            state.passed[Direction::Ingress as usize] = word;
        } else {
            state.passed[Direction::Egress as usize] = word;
        }
    }
    1
}

/// What a socket has been told holds no more: it calls somebody else, or is called.
#[inline(always)]
pub fn forget(state: &mut SocketState) {
    state.passes = 0;
    state.passed = [0; 2];
}

/// First byte of an IPv4 header without options: version 4, five words (RFC 791 section 3.1).
const V4: u8 = 4 << 4 | 5;
/// Upper half of an IPv6 header's first byte.
const V6: u8 = 6;
/// In the second word of an IPv4 header: more fragments follow, or this is not the first.
const FRAGMENT: u32 = 0x3fff_u32.to_be();

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

    /// 48 bits; never 0, which is "none".
    #[inline(always)]
    fn finish(self) -> u64 {
        match self.0[0] >> 32 | (self.0[1] >> 48) << 32 {
            0 => 1,
            hash => hash,
        }
    }
}

#[inline(always)]
fn key(number: usize) -> u64 {
    // SAFETY: within the array: all callers' numbers are constants. Volatile, since user space sets the keys.
    unsafe { (&raw const KEYS).cast::<u64>().add(number).read_volatile() }
}

/// Reads a word of the packet's headers.
///
/// # Safety
/// `at` and the three bytes after it must lie before the end of the packet's linear data, and the verifier know it.
#[expect(clippy::cast_ptr_alignment, reason = "the fields of an IP header are aligned to their size")]
#[inline(always)]
unsafe fn load(at: *const u8) -> u32 {
    // SAFETY: the caller vouches for it.
    unsafe { at.cast::<u32>().read_volatile() }
}

/// Is this TCP that goes where its addresses say: an IPv4 header without options and no fragment, or an IPv6 header without
/// extensions? 1 or 0. A global function to the kernel, as the next one.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn is_plain_tcp(skb: *mut __sk_buff) -> u32 {
    // SAFETY: the program's context. Every access is within what was compared with the end of the linear data.
    unsafe {
        let data = (*skb).data as usize as *const u8;
        let end = (*skb).data_end as usize as *const u8;
        // Either header with what must follow is at least as long.
        if data.add(40) > end {
            return 0;
        }
        let first = data.read_volatile();
        let protocol = if first == V4 && load(data.add(4)) & FRAGMENT == 0 {
            data.add(9).read_volatile()
        } else if first >> 4 == V6 {
            data.add(6).read_volatile()
        } else {
            return 0;
        };
        u32::from(protocol == Protocol::TCP.0)
    }
}

/// What a datagram's addresses, ports and protocol hash to, in 48 bits. 0: packets like this are always decided.
///
/// Only plain UDP: an IPv4 header without options and no fragment, or an IPv6 header without extensions. A global
/// function to the kernel, which verifies it once and by itself (see [`crate::identity`]).
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn hash_of(skb: *mut __sk_buff, on_loopback: u32) -> u64 {
    hash(skb, on_loopback).unwrap_or(0)
}

#[inline(always)]
fn hash(skb: *mut __sk_buff, on_loopback: u32) -> Option<u64> {
    // SAFETY: the program's context. Every access is within what was compared with the end of the linear data.
    unsafe {
        let data = (*skb).data as usize as *const u8;
        let end = (*skb).data_end as usize as *const u8;
        if data.add(24) > end {
            return None;
        }
        let mut hash = Hash::new();
        let first = data.read_volatile();
        let protocol;
        if first == V4 {
            if load(data.add(4)) & FRAGMENT != 0 {
                return None;
            }
            protocol = data.add(9).read_volatile();
            hash.add(0, load(data.add(12)));
            hash.add(1, load(data.add(16)));
            hash.add(8, load(data.add(20)));
        } else if first >> 4 == V6 {
            protocol = data.add(6).read_volatile();
            if data.add(44) > end {
                return None;
            }
            hash.add(0, load(data.add(8)));
            hash.add(1, load(data.add(12)));
            hash.add(2, load(data.add(16)));
            hash.add(3, load(data.add(20)));
            hash.add(4, load(data.add(24)));
            hash.add(5, load(data.add(28)));
            hash.add(6, load(data.add(32)));
            hash.add(7, load(data.add(36)));
            hash.add(8, load(data.add(40)));
        } else {
            return None;
        }
        if protocol != Protocol::UDP.0 {
            return None;
        }
        hash.add(9, u32::from(first >> 4) | on_loopback << 8);
        Some(hash.finish())
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

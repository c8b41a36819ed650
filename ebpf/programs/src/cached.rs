//! The last verdict of a socket, kept in its storage: a packet like the last one passes without being decided again.
//!
//! A verdict is one 64-bit word, so that no two CPUs can tear it: a hash of everything that it depends on. That is the
//! packet's addresses, ports and protocol, the generation, every edit since, and the time, so that it lasts about a
//! second. Only "passes, and nothing to report" is kept. The hash is strongly universal (Lemire and Kaser, "Strongly
//! universal string hashing is fast", 2014: sums of 32-bit words times random 64-bit keys), and its keys are drawn by
//! user space at every start: whoever does not know them can do no better than guess one of 2^48 values, by sending. The
//! other 16 bits of the word say where packets like this one are counted.

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_jiffies64};
use bulkhead_common::{HASH_INPUTS, HASH_KEYS, Protocol, StateWord};

use crate::{
    count,
    maps::{EPOCH, STATE},
};

/// Index into [`EPOCH`].
#[derive(Clone, Copy)]
#[repr(u32)]
pub enum Epoch {
    /// Tables have been edited.
    Tables = 0,
    /// A datagram socket may have another's address and port by now: who is at the other end of an exchange on this host
    /// is known by its socket, and nobody tells when one takes another's place.
    Datagrams = 1,
}

/// Two hashes of 32 bits, each with a key for every word and one more: drawn by user space at every start.
#[unsafe(no_mangle)]
static KEYS: [u64; HASH_KEYS] = [0; HASH_KEYS];

/// The hash's part of the word; the rest is where the packet is counted.
const HASH: u64 = !0xffff;

/// In place of a bucket: packets of whoever is in no workload are not counted.
pub const UNCOUNTED: u32 = 0xffff;

const _: () = assert!(bulkhead_common::COUNTERS <= UNCOUNTED);

/// The bucket that a socket's kept word names, if the word stands for packets with this hash.
#[inline(always)]
pub fn bucket_of(kept: u64, hash: u64) -> Option<u32> {
    ((kept ^ hash) & HASH == 0).then_some((kept & !HASH) as u32)
}

/// The word to keep for packets with this hash.
#[inline(always)]
pub fn word(hash: u64, bucket: u32) -> u64 {
    hash | u64::from(bucket)
}

/// How many jiffies a verdict lasts at most, as a power of two: a second with the usual 250 a second (CONFIG_HZ), a
/// quarter of it with 1,000, two and a half with 100.
const LASTING: u32 = 8;

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

    #[inline(always)]
    fn finish(self) -> u64 {
        let word = (self.0[0] >> 32 | self.0[1] & 0xffff_ffff_0000_0000) & HASH;
        // 0 is "none".
        if word == 0 { HASH } else { word }
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

/// What a packet and all that its verdict depends on hash to. 0: packets like this are always decided.
///
/// Only plain TCP and UDP: an IPv4 header without options and no fragment, or an IPv6 header without extensions. A global
/// function to the kernel, which verifies it once and by itself (see [`crate::identity`]).
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn hash_of(skb: *mut __sk_buff, on_loopback: u32) -> u64 {
    hash(skb, on_loopback != 0).unwrap_or(0)
}

#[inline(always)]
fn hash(skb: *mut __sk_buff, on_loopback: bool) -> Option<u64> {
    const V4: u8 = 4 << 4 | 5;
    const V6: u8 = 6;
    const TCP_FLAGS: usize = 13;
    const SYN: u8 = 0x02;
    let state = *STATE.get(0)?;
    if state.has_deadline() {
        return None;
    }
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
        let flags;
        if first == V4 {
            // More fragments follow, or this is not the first (RFC 791 section 3.1).
            const FRAGMENT: u32 = 0x3fff_u32.to_be();
            if load(data.add(4)) & FRAGMENT != 0 {
                return None;
            }
            protocol = data.add(9).read_volatile();
            flags = data.add(20 + TCP_FLAGS);
            hash.add(0, load(data.add(12)));
            hash.add(1, load(data.add(16)));
            hash.add(8, load(data.add(20)));
        } else if first >> 4 == V6 {
            protocol = data.add(6).read_volatile();
            if data.add(44) > end {
                return None;
            }
            flags = data.add(40 + TCP_FLAGS);
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
        match Protocol(protocol) {
            // What opens a connection marks its listener, too.
            Protocol::TCP if flags.add(1) > end || flags.read_volatile() & SYN != 0 => return None,
            Protocol::TCP | Protocol::UDP => {}
            _ => return None,
        }
        let kind = u32::from(protocol) | u32::from(first) << 8 & 0xf000 | u32::from(on_loopback) << 16;
        hash.add(9, kind);
        let StateWord(state) = state;
        hash.add(10, state as u32);
        hash.add(11, epoch(Epoch::Tables));
        if protocol == Protocol::UDP.0 && on_loopback {
            hash.add(12, epoch(Epoch::Datagrams));
        }
        hash.add(13, (bpf_jiffies64() >> LASTING) as u32);
        Some(hash.finish())
    }
}

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

//! Exact counts of every verdict, by kind of traffic.
//!
//! A kind gets a bucket of its own the first time that it is seen: its index comes out of `FREE_COUNTERS` and is noted in
//! `COUNTER_INDEX`. From then on counting is an addition to memory of the CPU, and a socket's kept verdict carries the
//! index along. Nothing is ever deleted here, so nothing that was counted is lost; where there is no bucket left, the
//! one for all others counts.

use core::arch::asm;

use bulkhead_common::{CounterKey, Flow, Hook, OTHER, Outcome};

use crate::{
    generation::{Generation, boot_ns},
    identity::Local,
    maps::{COUNTER_INDEX, COUNTERS, FREE_COUNTERS},
};

/// `BPF_NOEXIST` (include/uapi/linux/bpf.h).
const NO_EXIST: u64 = 1;

/// Counts what has been decided; tells in which bucket. `opens`: it opened a connection or an exchange of datagrams. `now`: as
/// of [`boot_ns`], or 0 if the clock has not been read.
#[inline(always)]
pub fn decided(key: CounterKey, bytes: u32, opens: bool, now: u64) -> u32 {
    let [a, b, c] = key.to_words();
    add_decided(a, b, c, u64::from(bytes) | u64::from(opens) << 32, now) as u32
}

/// Counts what the shadow would have decided otherwise than the generation in force has: outcomes of both. `opens`: 1 if it
/// opened a connection.
#[inline(always)]
pub fn difference(
    shadow: Generation,
    local: &Local,
    flow: &Flow,
    (outcome, other): (Outcome, Outcome),
    hook: Hook,
    (bytes, opens): (u32, u32),
) {
    if outcome.verdict() != other.verdict() {
        let key = CounterKey::new(shadow.number(), local.endpoint.subject.0, flow, outcome, hook);
        let [a, b, c] = key.of_shadow(other).to_words();
        add_decided(a, b, c, u64::from(bytes) | u64::from(opens) << 32, 0);
    }
}

/// [`decided`] with its arguments as numbers: a global function to the kernel, which verifies it once and by itself (see
/// [`crate::identity`]).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn add_decided(a: u64, b: u64, c: u64, packet: u64, now: u64) -> u64 {
    let bucket = bucket(&CounterKey::from_words([a, b, c]));
    if let Some(counter) = COUNTERS.get_ptr_mut(bucket) {
        let now = if now == 0 { boot_ns() } else { now };
        // SAFETY: the entry stays valid for this run; the times are written whole.
        unsafe {
            add(&raw mut (*counter).packets, 1);
            add(&raw mut (*counter).bytes, packet & 0xffff_ffff);
            add(&raw mut (*counter).connections, packet >> 32);
            if (*counter).first_seen == 0 {
                (*counter).first_seen = now;
            }
            (*counter).last_seen = now;
        }
    }
    u64::from(bucket)
}

/// The bucket for a kind of traffic.
#[inline(always)]
fn bucket(key: &CounterKey) -> u32 {
    // SAFETY: user space removes entries, and never while their generation is in force; an index is written once.
    if let Some(known) = unsafe { COUNTER_INDEX.get(key) } {
        return *known;
    }
    let Ok(Some(free)) = FREE_COUNTERS.pop() else { return OTHER };
    if COUNTER_INDEX.insert(key, free, NO_EXIST).is_ok() {
        return free;
    }
    // Another CPU was first, or there is no room: the bucket goes back.
    let _full = FREE_COUNTERS.push(free, 0);
    // SAFETY: as above.
    unsafe { COUNTER_INDEX.get(key) }.copied().unwrap_or(OTHER)
}

/// Counts a packet that fares like the one before it.
#[inline(always)]
pub fn again(bucket: u32, bytes: u32) {
    if let Some(counter) = COUNTERS.get_ptr_mut(bucket) {
        // SAFETY: the entry stays valid for this run.
        unsafe {
            add(&raw mut (*counter).packets, 1);
            add(&raw mut (*counter).bytes, u64::from(bytes));
        }
    }
}

/// Adds at once. The memory is this CPU's alone, and still: what it runs may be interrupted by a packet that it receives,
/// and that one counts here, too.
///
/// # Safety
/// `at` must be a field of a map's value, aligned to eight bytes.
#[inline(always)]
unsafe fn add(at: *mut u64, number: u64) {
    // SAFETY: the caller vouches for it. core's atomics want a compare-and-swap, which BPF has since Linux 5.12 only.
    unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) at, in(reg) number, options(nostack)) };
}

/// Adds to a map's value that all CPUs share.
#[inline(always)]
pub fn bump(value: *mut u64) {
    // SAFETY: a map's value of eight bytes.
    unsafe { add(value, 1) };
}

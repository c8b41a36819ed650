//! Records of refusals for user space.

use core::ffi::c_void;

use aya_ebpf::{
    btf_maps::LruHashMap, helpers::generated::bpf_get_socket_cookie, maps::ring_buf::RingBufEntry,
};
use bulkhead_common::{
    Address, Command, Event, Flow, Hook, Outcome, Process, Refusal, RefusalKey, Share, Source,
};

use crate::{
    count,
    generation::{Generation, boot_ns},
    identity::Local,
    maps::{EVENTS, Kinds, LATE, LOST, REFUSALS, SOURCE_SHARES, SUBJECT_SHARES},
};

/// Everything a record says: where it lies, so that nothing of it takes stack here before it is written.
pub struct Refused<'a> {
    pub generation: Generation,
    pub local: &'a Local,
    pub flow: &'a Flow,
    pub outcome: &'a Outcome,
    pub address: &'a Address,
    /// The other end's own port, in the machine's order.
    pub port: &'a u16,
    /// Cgroup of the workload at the other end, or 0.
    pub peer_cgroup: &'a u64,
    /// Who is behind it: the caller, or the process noted in the socket.
    pub process: Option<&'a Process>,
    pub hook: Hook,
    /// The program's context, which knows the socket; null: it does not.
    pub context: *mut c_void,
}

/// Reports a refusal: the first of a kind at once, then one record a second that stands for all.
#[inline(always)]
pub fn refusal(refused: &Refused<'_>) {
    let Some(kinds) = REFUSALS.get(0) else { return lose() };
    let key = kind(refused);
    // SAFETY: the types of `REFUSALS`, whose entries user space only reads.
    let known: *mut Refusal = unsafe { kinds.get_ptr_mut(&key) };
    let reserved = if known.is_null() {
        first(refused, &key, kinds)
    } else {
        // SAFETY: an entry, valid for this run.
        unsafe { repeat(known) }
    };
    if let Some((mut record, refusal)) = reserved {
        // SAFETY: the reservation.
        unsafe { fill(record.as_mut_ptr(), refused, &key, refusal) };
        record.submit(0);
    }
}

/// What a record says of its kind: when it is made, and the entry's `born` and `total`.
type Counted = (u64, u64, u64);

/// Makes the entry of a new kind, and room for its record. The record comes first: user space knows of every entry.
#[inline(always)]
fn first(refused: &Refused<'_>, key: &RefusalKey, kinds: &Kinds) -> Option<(RingBufEntry<Event>, Counted)> {
    let now = boot_ns();
    let record = if may_begin(refused, key, now) { EVENTS.reserve(0) } else { None };
    if record.is_none() {
        lose();
    }
    let new = Refusal { born: now, reported: now, last: now, total: 1 };
    // SAFETY: the types of `REFUSALS`.
    record.map(|record| (record, (now, if unsafe { kinds.insert_new(key, &new) } { now } else { 0 }, 1)))
}

/// Counts one more of a kind, and makes room for a record if the last one is a second ago. First counted, then the clock
/// is read: see [`Refusal::INTERVAL_NS`].
///
/// # Safety
/// `known` must be an entry of `REFUSALS`.
#[inline(always)]
unsafe fn repeat(known: *mut Refusal) -> Option<(RingBufEntry<Event>, Counted)> {
    // SAFETY: an entry, whose times are written whole. Two CPUs may both make a second's record: it says the total.
    unsafe {
        count::bump(&raw mut (*known).total);
        let now = boot_ns();
        (*known).last = now;
        if now < (*known).reported + Refusal::INTERVAL_NS {
            return None;
        }
        let record = EVENTS.reserve(0);
        if record.is_some() {
            (*known).reported = now;
        } else if let Some(late) = LATE.get_ptr_mut(0) {
            count::bump(late);
        }
        record.map(|record| (record, (now, (*known).born, (*known).total)))
    }
}

/// What makes refusals one of a kind; [`RefusalKey`] tells the same of an [`Event`].
#[inline(always)]
fn kind(refused: &Refused<'_>) -> RefusalKey {
    let Refused { local, flow, outcome, .. } = refused;
    let (uid, first, last) = parts(refused.process);
    RefusalKey {
        source: Source {
            owner: Source::owner(local.endpoint.subject.0, local.cgroup),
            comm: Command([first, last]),
            uid,
            reserved: 0,
        },
        address: *refused.address,
        peer_subject: flow.peer.subject.0,
        port: flow.port,
        protocol: flow.protocol.0,
        direction: flow.direction as u8,
        what: RefusalKey::what(outcome.verdict(), outcome.reason()),
        generation: refused.generation.number(),
    }
}

/// May somebody begin another kind? First the program is asked, so that what it may not costs its workload nothing.
#[inline(always)]
fn may_begin(refused: &Refused<'_>, key: &RefusalKey, now: u64) -> bool {
    let subject = refused.local.endpoint.subject.0;
    has_share(&SOURCE_SHARES, &key.source, Share::OF_SOURCE, now)
        && has_share(&SUBJECT_SHARES, &subject, Share::OF_SUBJECT, now)
}

/// CPUs that ask at once may get a little more than the share.
#[inline(always)]
fn has_share<K>(shares: &LruHashMap<K, Share, 4_096>, key: &K, most: u64, now: u64) -> bool {
    let Some(share) = shares.get_ptr_mut(key) else {
        let first = Share::default().used(now, most).unwrap_or_default();
        let _full = shares.insert(key, first, 0);
        return true;
    };
    // SAFETY: an entry, valid for this run, and one word.
    let share = unsafe { &mut *share };
    let Some(used) = share.used(now, most) else { return false };
    *share = used;
    true
}

#[inline(always)]
fn lose() {
    if let Some(lost) = LOST.get_ptr_mut(0) {
        count::bump(lost);
    }
}

/// A process's user, and both words of its command name: one by one, since LLVM clears an array by a call.
#[inline(always)]
fn parts(process: Option<&Process>) -> (u32, u64, u64) {
    match process {
        Some(Process { uid, comm: Command([first, last]), .. }) => (*uid, *first, *last),
        None => (0, 0, 0),
    }
}

/// Writes a record, field by field: an `Event` built first and then copied would take 128 bytes of stack. What the key
/// holds is read from there, since it lies on the stack anyway.
///
/// # Safety
/// `out` must be a reservation of an `Event`.
#[inline(always)]
unsafe fn fill(out: *mut Event, refused: &Refused<'_>, key: &RefusalKey, (now, born, total): Counted) {
    let Refused { local, flow, outcome, .. } = refused;
    let pid = refused.process.map_or(0, |process| process.pid);
    // SAFETY: the caller's; every field is written.
    unsafe {
        (*out).time = now;
        (*out).cgroup = local.cgroup;
        (*out).peer_cgroup = *refused.peer_cgroup;
        (*out).cookie = if refused.context.is_null() { 0 } else { bpf_get_socket_cookie(refused.context) };
        (*out).born = born;
        (*out).total = total;
        (*out).peer_address = key.address;
        (*out).subject = local.endpoint.subject.0;
        (*out).peer_subject = key.peer_subject;
        (*out).peer_class = flow.peer.class.0;
        (*out).rule = outcome.rule().0;
        (*out).generation = key.generation;
        (*out).pid = pid;
        (*out).uid = key.source.uid;
        (*out).port = key.port;
        (*out).peer_port = *refused.port;
        (*out).protocol = key.protocol;
        (*out).direction = key.direction;
        (*out).verdict = outcome.verdict();
        (*out).reason = outcome.reason();
        (*out).hook = refused.hook as u32;
        (*out).comm.0[0] = key.source.comm.0[0];
        (*out).comm.0[1] = key.source.comm.0[1];
    }
}

//! Records of refusals for user space.

use bulkhead_common::{Address, Command, Flow, Hook, Outcome, Process, Refusal, RefusalKey};

use crate::{
    generation::{Generation, boot_ns},
    identity::Local,
    maps::{EVENTS, LOST, REFUSALS},
};

/// Everything a record says.
pub struct Refused<'a> {
    pub generation: Generation,
    pub local: &'a Local,
    pub flow: &'a Flow,
    pub outcome: Outcome,
    pub address: &'a Address,
    /// The other end's own port, in the machine's order.
    pub port: u16,
    /// Cgroup of the workload at the other end, or 0.
    pub peer_cgroup: u64,
    /// Who is behind it: the caller, or the process noted in the socket.
    pub process: Option<&'a Process>,
    pub hook: Hook,
    pub cookie: u64,
}

/// Reports a refused call: every one, since each is a system call of somebody's.
#[inline(always)]
pub fn call(refused: &Refused<'_>) {
    record(refused, 1);
}

/// Reports a refused packet: the first of a kind at once, then one record a second that stands for all.
#[inline(always)]
pub fn packet(refused: &Refused<'_>) {
    if let Some(count) = due(refused) {
        record(refused, count);
    }
}

/// How many refused packets a record made now stands for; None if the kind was reported less than a second ago.
#[inline(always)]
fn due(refused: &Refused<'_>) -> Option<u32> {
    let (_, uid, first, last) = parts(refused.process);
    let key = RefusalKey {
        cgroup: refused.local.cgroup,
        address: *refused.address,
        port: refused.flow.port,
        protocol: refused.flow.protocol.0,
        direction: refused.flow.direction as u8,
        uid,
        comm: Command([first, last]),
    };
    let now = boot_ns();
    let Some(known) = REFUSALS.get_ptr_mut(key) else {
        let _full = REFUSALS.insert(key, Refusal { reported: now, since: 0 }, 0);
        return Some(1);
    };
    // SAFETY: the entry stays valid for this run. Two CPUs may race for one second's record, and then make two.
    let known = unsafe { &mut *known };
    if now.wrapping_sub(known.reported) < Refusal::INTERVAL_NS {
        known.since += 1;
        return None;
    }
    let count = known.since as u32 + 1;
    known.reported = now;
    known.since = 0;
    Some(count)
}

/// A process's id and user, and both words of its command name: one by one, since LLVM clears an array by a call.
#[inline(always)]
fn parts(process: Option<&Process>) -> (u32, u32, u64, u64) {
    match process {
        Some(Process { pid, uid, comm: Command([first, last]) }) => (*pid, *uid, *first, *last),
        None => (0, 0, 0, 0),
    }
}

#[inline(always)]
fn record(refused: &Refused<'_>, count: u32) {
    let Some(mut entry) = EVENTS.reserve(0) else {
        if let Some(lost) = LOST.get_ptr_mut(0) {
            // SAFETY: a per-CPU counter. A program that preempts this one may cost it one increment.
            unsafe { *lost += 1 };
        }
        return;
    };
    let Refused { local, flow, outcome, .. } = refused;
    let (pid, uid, first, last) = parts(refused.process);
    let out = entry.as_mut_ptr();
    // SAFETY: the reservation is as large as an `Event`, and every field is written before it is submitted. Field by
    // field: an `Event` built first and then copied would take 112 bytes of stack.
    unsafe {
        (*out).time = boot_ns();
        (*out).cgroup = local.cgroup;
        (*out).peer_cgroup = refused.peer_cgroup;
        (*out).cookie = refused.cookie;
        (*out).peer_address = *refused.address;
        (*out).subject = local.endpoint.subject.0;
        (*out).peer_subject = flow.peer.subject.0;
        (*out).peer_class = flow.peer.class.0;
        (*out).address_class = flow.peer.address.0;
        (*out).rule = outcome.rule().0;
        (*out).generation = refused.generation.number();
        (*out).pid = pid;
        (*out).uid = uid;
        (*out).count = count;
        (*out).port = flow.port;
        (*out).peer_port = refused.port;
        (*out).protocol = flow.protocol.0;
        (*out).direction = flow.direction as u8;
        (*out).verdict = outcome.verdict();
        (*out).reason = outcome.reason();
        (*out).hook = refused.hook as u32;
        (*out).comm.0[0] = first;
        (*out).comm.0[1] = last;
    }
    entry.submit(0);
}

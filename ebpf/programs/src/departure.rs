//! fentry of `cgroup_attach_task` (kernel/cgroup/cgroup.c): tells user space of processes that are moved out of their
//! workload. Nothing is refused: whoever may do that is root, or the owner of both cgroups.
//!
//! The tracepoint of the same name comes when the process has been moved and no longer tells from where. A move that the
//! kernel gives up at the last moment is told as well. Minimum kernel: 5.5, on arm64 6.0.

use aya_ebpf::{EbpfContext as _, macros::fentry, programs::FEntryContext};
use bulkhead_common::{Command, Departure};

use crate::{
    cgroup::{command_of, of_task, process_of, read},
    generation::Generation,
    identity, maps, socket,
};

/// `struct cgroup *dst_cgrp, struct task_struct *leader, bool threadgroup`.
#[fentry(function = "cgroup_attach_task")]
pub fn departure(ctx: FEntryContext) -> i32 {
    let _nobodys_loss = tell(&ctx);
    0
}

#[inline(always)]
fn tell(ctx: &FEntryContext) -> Option<()> {
    // Read as numbers: what is read of the context itself are pointers to the verifier, and no arguments of a function
    // that it verifies by itself.
    let arguments = ctx.as_ptr() as u64;
    let (target, leader): (u64, u64) = (read(arguments, 0)?, read(arguments, 8)?);
    let generation = Generation::active()?;
    let from = identity::of_cgroup(generation, of_task(leader)?);
    if from.anchor == 0 {
        return None;
    }
    let to = identity::of_cgroup(generation, target);
    // Another hierarchy's cgroup has no id here.
    if to.cgroup == 0 || to.endpoint.subject == from.endpoint.subject {
        return None;
    }
    let by = socket::current_process();
    let _full = maps::DEPARTURES.output(
        Departure {
            from: from.cgroup,
            to: to.cgroup,
            from_subject: from.endpoint.subject.0,
            to_subject: to.endpoint.subject.0,
            pid: process_of(leader)?,
            by: by.pid,
            comm: command_of(leader).unwrap_or(Command([0; 2])),
            by_comm: by.comm,
            generation: generation.number(),
            reserved: 0,
        },
        0,
    );
    Some(())
}

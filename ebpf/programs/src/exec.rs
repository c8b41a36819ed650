//! Raw tracepoint sched_process_exec: tells user space of every program that begins.
//!
//! A program that is refused and ends at once is gone from /proc before anybody can look. It takes milliseconds from
//! its beginning to its first connect(), time enough to note its path. Minimum kernel: 4.17 (raw tracepoints).

use aya_ebpf::{
    helpers::generated::{bpf_get_current_cgroup_id, bpf_get_current_pid_tgid},
    macros::raw_tracepoint,
    programs::RawTracePointContext,
};
use bulkhead_common::Started;

use crate::maps::STARTED;

/// A process has begun a program. Nothing is decided here, and a record that finds no room is nobody's loss.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn exec(_ctx: RawTracePointContext) -> i32 {
    // SAFETY: both helpers only read the current task.
    let (pid, cgroup) = unsafe { ((bpf_get_current_pid_tgid() >> 32) as u32, bpf_get_current_cgroup_id()) };
    let _full = STARTED.output(Started { cgroup, pid, reserved: 0 }, 0);
    0
}

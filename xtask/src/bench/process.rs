//! What a process takes.

use std::{
    fs,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

/// What one process took, from its start to its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    /// On a processor, in the kernel too: other load on the machine counts only as far as it disturbs caches.
    pub(super) busy: Duration,
    /// The most memory that it was seen to hold, in bytes.
    pub(super) memory: u64,
}

/// How often memory is looked at.
const GLANCE: Duration = Duration::from_millis(2);

/// Runs a command that exits with one of `expected`; what it prints on standard output is thrown away.
pub(super) fn take(command: &mut Command, expected: &[i32]) -> Result<Taken> {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
    let memory = watch(&child)?;
    // It has ended and is not waited for yet, so that its number still is its own.
    let schedstat = fs::read_to_string(format!("/proc/{}/schedstat", child.id())).unwrap_or_default();
    let status = child.wait()?;
    ensure!(status.code().is_some_and(|code| expected.contains(&code)), "{command:?} failed ({status})");
    let busy =
        schedstat.split(' ').next().and_then(|ns| ns.parse().ok()).context("no /proc/PID/schedstat")?;
    Ok(Taken { busy: Duration::from_nanos(busy), memory })
}

/// The greatest memory until it ends, without waiting for it. A process that is over within a glance is told to have
/// none.
fn watch(child: &Child) -> Result<u64> {
    let number = i32::try_from(child.id())?;
    let pid = Pid::from_raw(number).context("a process without a number")?;
    let peek = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    let mut memory = 0;
    while waitid(WaitId::Pid(pid), peek)?.is_none() {
        memory = memory.max(peak_memory(number));
        thread::sleep(GLANCE);
    }
    Ok(memory)
}

fn peak_memory(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}

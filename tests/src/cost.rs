//! What a process costs.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};

/// How long a process has been on a processor so far, with all threads that it has now.
pub fn processor_time(pid: u32) -> Result<Duration> {
    let mut time = Duration::ZERO;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end meanwhile.
        let text = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
        let ns = text.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0);
        time += Duration::from_nanos(ns);
    }
    Ok(time)
}

/// The most memory that a process has resident from here on.
#[derive(Debug)]
pub struct Growth {
    pid: u32,
    before: u64,
}

impl Growth {
    /// From now on: what it had as it started does not count.
    pub fn of(pid: u32) -> Result<Self> {
        // Forgets the peak so far (proc(5), `CLEAR_REFS_MM_HIWATER_RSS`).
        fs::write(format!("/proc/{pid}/clear_refs"), "5")?;
        Ok(Self { pid, before: peak(pid)? })
    }

    /// How much more it was at most than in the beginning, in bytes.
    pub fn so_far(&self) -> Result<u64> {
        Ok(peak(self.pid)?.saturating_sub(self.before))
    }
}

fn peak(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
    Ok(peak.with_context(|| format!("no VmHWM in\n{status}"))?.parse::<u64>()? * 1024)
}

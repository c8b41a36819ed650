//! On what was measured.

use std::{fmt, fs, process::Command, thread};

use anyhow::{Context as _, Result};

/// The machine, as far as figures depend on it.
#[derive(Debug)]
pub(super) struct Machine {
    processor: String,
    cores: usize,
    kernel: String,
    rustc: String,
    /// What else it did: the load average of the minute before.
    load: String,
}

impl Machine {
    pub(super) fn gather() -> Result<Self> {
        let read = |path: &str| fs::read_to_string(path).with_context(|| format!("cannot read {path}"));
        let processors = read("/proc/cpuinfo")?;
        let model = processors.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let rustc = Command::new("rustc").arg("--version").output().context("cannot start rustc")?;
        let version = String::from_utf8_lossy(&rustc.stdout).into_owned();
        Ok(Self {
            processor: model.map_or("unknown processor", |(_, name)| name).to_owned(),
            cores: thread::available_parallelism()?.get(),
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            rustc: version.split(' ').take(2).collect::<Vec<_>>().join(" "),
            load: read("/proc/loadavg")?.split(' ').next().unwrap_or_default().to_owned(),
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { processor, cores, kernel, rustc, load } = self;
        write!(f, "{processor}, {cores} cores, Linux {kernel}, {rustc}; load {load} before the run")
    }
}

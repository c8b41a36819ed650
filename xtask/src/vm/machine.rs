//! An emulated machine.

use std::{
    fs::{self, File},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

/// How long a machine may take. Two of them on a busy host have needed four minutes.
const PATIENCE: Duration = Duration::from_mins(15);

/// All that the emulator can, but for what an emulated machine is slower with than without: instructions that copy byte by
/// byte and that kernel and C library take for the fastest, and a fifth level of page tables.
const CPU: &str = "max,erms=off,fsrm=off,la57=off";

/// What to boot, and where its output goes.
#[derive(Debug)]
pub(super) struct Machine<'a> {
    pub(super) kernel: &'a Path,
    pub(super) image: &'a Path,
    /// Kernel parameters beyond the usual.
    pub(super) parameters: &'a str,
    /// Only the tests whose name contains this.
    pub(super) filter: Option<&'a str>,
    /// What the kernel says.
    pub(super) log: &'a Path,
    /// What the tests say.
    pub(super) results: &'a Path,
}

/// A running QEMU. Dropping it ends it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Machine<'_> {
    /// Boots it, waits until it turns itself off, and returns what the tests said.
    pub(super) fn run(&self) -> Result<String> {
        let filter = self.filter.map(|filter| format!("bulkhead.test={filter}")).unwrap_or_default();
        let parameters = format!(
            "console=ttyS0 quiet panic=-1 mitigations=off nokaslr random.trust_cpu=on {} {filter}",
            self.parameters
        );
        let serial = |path: &Path| format!("file:{}", path.display());
        let child = Command::new("qemu-system-x86_64")
            .args(["-machine", "q35", "-accel", "tcg", "-cpu", CPU, "-smp", "1", "-m", "1536"])
            .args(["-nodefaults", "-no-reboot", "-display", "none"])
            .args(["-serial", &serial(self.log), "-serial", &serial(self.results)])
            .arg("-kernel")
            .arg(self.kernel)
            .arg("-initrd")
            .arg(self.image)
            .args(["-append", parameters.trim()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(self.log.with_extension("qemu"))?)
            .spawn()
            .context("qemu-system-x86_64 cannot be started: run `cargo xtask setup`")?;
        let mut running = Running(child);
        let end = Instant::now() + PATIENCE;
        while running.0.try_wait()?.is_none() && Instant::now() < end {
            thread::sleep(Duration::from_millis(100));
        }
        drop(running);
        Ok(String::from_utf8_lossy(&fs::read(self.results)?).replace('\r', ""))
    }
}

//! A Debian (or Ubuntu) with its real systemd as process 1, in a lab: real units in a real cgroup subtree, no virtual
//! machine and no container engine. It is of this host's release, so that the host's mirror and keys serve, and is
//! fetched once: later runs find it in the target directory.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::{Lab, artifact, mirror, place::Place};

/// How long systemd may take to boot.
const BOOT: Duration = Duration::from_mins(1);

/// A booted machine. Its units' cgroups are below the lab's root, its network is the lab's host.
#[derive(Debug)]
pub struct Machine {
    /// Process 1 of the machine, as this host numbers it.
    init: Pid,
    /// Waits for it, and takes it along when it is killed.
    starter: Child,
    _files: TempDir,
}

/// A file to put into /etc before the boot: path below it, and text.
pub type File<'a> = (&'a str, &'a str);

/// Where unit files go: those that lie here are started at boot.
pub const UNITS: &str = "systemd/system";

impl Machine {
    /// Boots one with these files in /etc, and the units among them started.
    pub fn boot(lab: &Lab, etc: &[File<'_>]) -> Result<Self> {
        let root = root()?;
        let files = TempDir::new()?;
        fs::create_dir(files.path().join("mnt"))?;
        install(&files.path().join("etc"), etc)?;
        let mut starter = Place::new(lab.root()?, lab.host())
            .command("unshare")
            .args(["--mount", "--cgroup", "--pid", "--uts", "--ipc", "--fork", "--kill-child=SIGKILL", "--"])
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/machine/boot.sh"))
            .args([&root, files.path()])
            .stdin(Stdio::null())
            .spawn()
            .context("nsenter cannot be started (package util-linux)")?;
        let init = match first_child(&mut starter) {
            Ok(init) => init,
            Err(e) => {
                starter.kill()?;
                starter.wait()?;
                return Err(e);
            }
        };
        let machine = Self { init, starter, _files: files };
        // systemd manages the lab's root from now on, and wants no process in an inner cgroup.
        fs::write(lab.outside()?.procs(), machine.starter.id().to_string())?;
        machine.wait_until_booted()?;
        Ok(machine)
    }

    /// Process 1 of the machine, as this host numbers it.
    pub fn init(&self) -> u32 {
        self.init.as_raw().unsigned_abs()
    }

    /// Runs systemctl in the machine; it must succeed.
    pub fn systemctl(&self, arguments: &[&str]) -> Result<String> {
        self.succeed("systemctl", arguments)
    }

    /// The entries of the machine's journal that match.
    pub fn journal(&self, matches: &[&str]) -> Result<Vec<Value>> {
        let output = self.run("journalctl", &[&["--output=json", "--all", "--quiet"], matches].concat())?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "journalctl {matches:?}: {}\n{said}", output.status);
        str::from_utf8(&output.stdout)?.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    /// The text of a file in the machine.
    pub fn read(&self, path: &str) -> Result<String> {
        let inside = self.outside(path);
        fs::read_to_string(inside).with_context(|| format!("{path} of the machine cannot be read"))
    }

    /// Where a file of the machine is for this host.
    pub fn outside(&self, path: &str) -> PathBuf {
        format!("/proc/{}/root{path}", self.init).into()
    }

    /// Runs a program in the machine, to its end; it must succeed. What it prints.
    pub fn succeed(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let output = self.run(program, arguments)?;
        let [said, complained] = [&output.stdout, &output.stderr].map(|s| String::from_utf8_lossy(s));
        ensure!(output.status.success(), "{program} {arguments:?}: {}\n{said}{complained}", output.status);
        Ok(said.into_owned())
    }

    /// Runs a program in the machine, to its end.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<Output> {
        Ok(Command::new("nsenter")
            .args(["--mount", "--pid", "--uts", "--ipc", "--target", &self.init.to_string(), "--", program])
            .args(arguments)
            .stdin(Stdio::null())
            .output()?)
    }

    fn wait_until_booted(&self) -> Result<()> {
        let end = Instant::now() + BOOT;
        loop {
            // "degraded" is booted too: units that a container cannot run have failed.
            let state = self.run("systemctl", &["is-system-running"])?.stdout;
            match String::from_utf8_lossy(&state).trim() {
                "running" | "degraded" => return Ok(()),
                state if Instant::now() > end => bail!("systemd is still {state:?} after {BOOT:?}"),
                _ => thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may be gone by itself. Its processes die with process 1.
        let _ = self.starter.kill();
        let _ = self.starter.wait();
    }
}

fn install(etc: &Path, files: &[File<'_>]) -> Result<()> {
    let wanted = etc.join(UNITS).join("multi-user.target.wants");
    fs::create_dir_all(&wanted)?;
    for (path, text) in files {
        let path = etc.join(path);
        fs::write(&path, text)?;
        if path.parent().is_some_and(|directory| directory.ends_with(UNITS)) {
            let name = path.file_name().context("a unit has a name")?;
            symlink(Path::new("..").join(name), wanted.join(name))?;
        }
    }
    Ok(())
}

fn first_child(starter: &mut Child) -> Result<Pid> {
    let children = format!("/proc/{0}/task/{0}/children", starter.id());
    let end = Instant::now() + BOOT;
    while Instant::now() < end {
        if let Some(status) = starter.try_wait()? {
            bail!("the machine ended with {status}");
        }
        if let Some(pid) = fs::read_to_string(&children)?.split_whitespace().next() {
            return Ok(Pid::from_raw(pid.parse()?));
        }
        thread::sleep(Duration::from_millis(5));
    }
    bail!("the machine did not start within {BOOT:?}")
}

/// The machine's file system, fetched if it is not there.
fn root() -> Result<PathBuf> {
    let cache = artifact::target_dir()?.join("machine");
    fs::create_dir_all(&cache)?;
    let release = mirror::os_release("VERSION_CODENAME")?;
    let root = cache.join(&release);
    let lock = fs::File::create(cache.join(format!("{release}.lock")))?;
    lock.lock()?;
    if !root.exists() {
        fetch(&release, &root)?;
    }
    Ok(root)
}

fn fetch(release: &str, root: &Path) -> Result<()> {
    let partial = root.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial).context("an unfinished file system cannot be removed")?;
    }
    let log = root.with_extension("log");
    let status = Command::new("debootstrap")
        .args(["--variant=minbase", "--include=systemd", release])
        .arg(&partial)
        .arg(mirror::mirrors()?.main)
        .stdin(Stdio::null())
        .stdout(fs::File::create(&log)?)
        .stderr(fs::File::options().append(true).open(&log)?)
        .status()
        .context("debootstrap cannot be started: run `cargo xtask setup`")?;
    ensure!(status.success(), "debootstrap: {status}, see {}", log.display());
    Ok(fs::rename(partial, root)?)
}

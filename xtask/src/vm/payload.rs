//! What a machine finds in its initial file system: the tests, the agent, and the host's tools that they call.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use serde::Deserialize;

use super::{archive::Archive, kernels::Kernel};
use crate::{
    console,
    workspace::{EMULATED, cargo, succeed},
};

/// Tools of this host that the tests call.
const TOOLS: [&str; 5] = ["busybox", "ip", "nsenter", "bpftool", "modprobe"];

/// Kernel modules that the tests or the agent need; those that a kernel has built in are no modules.
const MODULES: [&str; 9] =
    ["veth", "bridge", "dummy", "tcp_diag", "udp_diag", "raw_diag", "inet_diag", "sctp", "tun"];

/// Where the tests and the agent lie in the machine. The tests look for the probe in the folder above their own.
const TESTS: &str = "bulkhead/deps/kernel";

/// The files of every machine.
#[derive(Debug)]
pub(super) struct Payload {
    /// Path in the machine, and where it is here.
    files: Vec<(PathBuf, PathBuf)>,
}

impl Payload {
    /// Builds the tests and the agent and finds the tools. `directory` holds copies without debug information.
    pub(super) fn build(directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory)?;
        let [kernel, probe, agent] = artifacts(["kernel", "bulkhead-probe", "bulkhead"])?;
        let programs = [(agent, "bulkhead/bulkhead"), (probe, "bulkhead/bulkhead-probe"), (kernel, TESTS)];
        let mut files = Vec::new();
        for (built, path) in programs {
            let stripped = directory.join(built.file_name().context("an executable has a name")?);
            succeed(Command::new("strip").arg("-o").arg(&stripped).arg(built))?;
            files.push((path.into(), stripped));
        }
        for tool in TOOLS {
            let found = which(tool).with_context(|| format!("{tool} is missing: run `cargo xtask setup`"))?;
            files.push((Path::new("bin").join(tool), found));
        }
        let libraries: BTreeSet<_> = files
            .iter()
            .map(|(_, here)| libraries(here))
            .collect::<Result<Vec<_>>>()?
            .into_iter()
            .flatten()
            .collect();
        files.extend(
            libraries
                .into_iter()
                .map(|here| (here.strip_prefix("/").unwrap_or(&here).to_owned(), here.clone())),
        );
        console::note(console::plural(files.len(), "file"));
        Ok(Self { files })
    }

    /// Writes the initial file system for one kernel.
    pub(super) fn write_image(&self, kernel: &Kernel, image: &Path) -> Result<()> {
        let mut archive = Archive::create(image)?;
        for directory in ["dev", "proc", "sys", "tmp", "run", "usr/bin", "sbin"] {
            archive.directory(Path::new(directory))?;
        }
        archive.link(Path::new("bin/sh"), "busybox")?;
        archive.file(Path::new("init"), include_bytes!("init.sh"))?;
        for (path, here) in &self.files {
            archive.copy(path, here)?;
        }
        let modules = Path::new("lib/modules").join(&kernel.release);
        for path in modules_with_dependencies(kernel)? {
            archive.copy(&modules.join(&path), &kernel.root().join(&modules).join(&path))?;
        }
        for index in ["modules.dep.bin", "modules.alias.bin", "modules.symbols.bin", "modules.builtin.bin"] {
            let here = kernel.root().join(&modules).join(index);
            if here.exists() {
                archive.copy(&modules.join(index), &here)?;
            }
        }
        archive.file(Path::new("modules"), MODULES.join(" ").as_bytes())?;
        archive.finish()
    }
}

/// A message of `cargo --message-format=json`.
#[derive(Deserialize)]
struct Message {
    target: Option<Target>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

/// Builds as the whole workspace's tests are built, so that what they depend on is compiled once for both; returns the
/// executables of the targets called `names`.
fn artifacts<const N: usize>(names: [&str; N]) -> Result<[PathBuf; N]> {
    let output = cargo()
        .args(["test", "--no-run", "--workspace", "--profile", EMULATED])
        // The agent is built for a test of its own command line.
        .args(["--test", "kernel", "--test", "cli"])
        .args(["--quiet", "--message-format=json-render-diagnostics"])
        .stderr(Stdio::inherit())
        .output()
        .context("cargo cannot be started")?;
    ensure!(output.status.success(), "the tests do not build");
    let text = String::from_utf8(output.stdout)?;
    let built: Vec<Message> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let executable = |name: &str| {
        let mut of_target =
            built.iter().filter(|m| m.target.as_ref().is_some_and(|target| target.name == name));
        of_target.find_map(|m| m.executable.clone()).with_context(|| format!("cargo built no {name}"))
    };
    let found = names.into_iter().map(executable).collect::<Result<Vec<_>>>()?;
    found.try_into().map_err(|_| anyhow!("an executable for each name"))
}

fn which(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    let found = std::env::split_paths(&path)
        .chain(system)
        .map(|directory| directory.join(tool))
        .find(|p| p.is_file());
    found.and_then(|path| fs::canonicalize(path).ok())
}

/// The shared libraries of a program, the loader among them; none if it is linked statically.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output =
        Command::new("ldd").arg(program).output().context("ldd cannot be started (package libc-bin)")?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect())
}

/// Paths of the modules, below `lib/modules/RELEASE`.
fn modules_with_dependencies(kernel: &Kernel) -> Result<BTreeSet<PathBuf>> {
    let index = kernel.root().join("lib/modules").join(&kernel.release).join("modules.dep");
    let text = fs::read_to_string(&index).with_context(|| format!("{} cannot be read", index.display()))?;
    Ok(needed(&text, &MODULES))
}

/// From a `modules.dep`: the files of these modules and of those that they need.
fn needed(dependencies: &str, modules: &[&str]) -> BTreeSet<PathBuf> {
    let name = |path: &str| -> Option<String> {
        let file = path.rsplit('/').next()?;
        Some(file.split('.').next()?.replace('-', "_"))
    };
    let lines = dependencies.lines().filter_map(|line| line.split_once(':'));
    let wanted = lines.filter(|(path, _)| name(path).is_some_and(|name| modules.contains(&name.as_str())));
    // The list of what a module needs is complete: no need to follow it.
    wanted
        .flat_map(|(path, needs)| std::iter::once(path).chain(needs.split_whitespace()))
        .map(PathBuf::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_comes_with_what_it_needs() {
        let dependencies = "kernel/net/ipv4/tcp_diag.ko.xz: kernel/net/ipv4/inet_diag.ko.xz\nkernel/net/ipv4/inet_diag.ko.xz:\nkernel/a/other.ko:\n";
        let expected =
            ["kernel/net/ipv4/inet_diag.ko.xz", "kernel/net/ipv4/tcp_diag.ko.xz"].map(PathBuf::from);
        assert_eq!(needed(dependencies, &["tcp_diag"]), BTreeSet::from(expected));
    }
}

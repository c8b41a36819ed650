//! `bulkhead doctor` on a host of its own: what is fine, what is not, and the self-test.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use anyhow::{Context as _, Result, ensure};
use bulkhead_tests::{Lab, Probe, agent, artifact};
use serde_json::Value;

use crate::loopback::POLICY;

/// What was found.
struct Findings {
    status: Option<i32>,
    objects: Vec<Value>,
}

impl Findings {
    /// Of a lab's host.
    fn of(lab: &Lab, more: &[&str]) -> Result<Self> {
        let root = lab.root()?;
        let asked = ["doctor", "--output", "json", "--cgroup-root", &root.path().to_string_lossy()];
        Self::in_output(&lab.bulkhead(&[&asked, more].concat())?)
    }

    fn in_output(output: &Output) -> Result<Self> {
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(said.is_empty(), "on standard error: {said}");
        let text = str::from_utf8(&output.stdout)?;
        let objects = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        Ok(Self { status: output.status.code(), objects })
    }

    fn check(&self, check: &str) -> Result<&Value> {
        let found = self.objects.iter().find(|object| object["check"] == check);
        found.with_context(|| format!("no {check} in {:?}", self.objects))
    }

    fn expect(&self, check: &str, result: &str, found: &str) -> Result<&Value> {
        let object = self.check(check)?;
        ensure!(object["result"] == result, "{check} is to be {result}: {object}");
        ensure!(
            object["found"].as_str().is_some_and(|said| said.contains(found)),
            "{found:?} is not in {object}"
        );
        Ok(object)
    }

    fn nothing_fails(&self) -> Result<()> {
        let failed: Vec<_> = self.objects.iter().filter(|object| object["result"] == "failure").collect();
        ensure!(failed.is_empty() && self.status == Some(0), "exit status {:?}: {failed:?}", self.status);
        Ok(())
    }
}

#[test]
fn a_host_that_enforces_has_nothing_that_fails() -> Result<()> {
    let lab = Lab::new()?;
    let found = Findings::of(&lab, &[])?;
    found.nothing_fails()?;
    for check in ["kernel", "kernel-types", "capabilities", "cgroup-layout"] {
        found.expect(check, "ok", "")?;
    }
    found.expect("cgroup-root", "ok", &lab.root()?.path().to_string_lossy())?;
    found.expect("bpffs", "ok", "can be written")?;
    found.expect("pins", "ok", "none")?;
    Ok(())
}

#[test]
fn a_bpffs_that_is_none_fails_with_the_command_that_mounts_it() -> Result<()> {
    let lab = Lab::new()?;
    let plain = tempfile::tempdir()?;
    let root = lab.root()?;
    let mut command = Command::new(artifact::agent()?);
    command.args(["doctor", "--output", "json", "--bpffs"]).arg(plain.path());
    let found = Findings::in_output(&command.arg("--cgroup-root").arg(root.path()).output()?)?;
    let bpffs = found.expect("bpffs", "failure", "in no BPF file system")?;
    let mount = format!("mount -t bpf bpf {}", plain.path().display());
    ensure!(bpffs["remedy"].as_str().is_some_and(|remedy| remedy.contains(&mount)), "{bpffs}");
    ensure!(found.status == Some(1), "exit status {:?}", found.status);
    Ok(())
}

#[test]
fn pins_are_told_with_whoever_they_are_of() -> Result<()> {
    let lab = Lab::new()?;
    let running = lab.agent(POLICY)?.kept()?.start()?;
    let socket = running.control_socket().to_owned();
    let found = Findings::of(&lab, &["--control-socket", &socket.to_string_lossy()])?;
    found.nothing_fails()?;
    let root = lab.root()?;
    found.expect("pins", "ok", &format!("attached at {}", root.path().display()))?;
    let agent = found.check("agent")?;
    ensure!(agent["found"].to_string().contains(&format!("(pid {})", running.pid())), "{agent}");
    running.kill()?;

    let found = Findings::of(&lab, &["--control-socket", &socket.to_string_lossy()])?;
    found.nothing_fails()?;
    found.expect("pins", "ok", "attached at")?;
    let agent = found.expect("agent", "warning", "pinned programs are attached")?;
    ensure!(agent["remedy"].as_str().is_some_and(|remedy| remedy.contains("bulkhead detach")), "{agent}");

    // What a later version leaves behind, for a cgroup root that is there and for one that is gone.
    let id = root.id()?;
    for cgroup in [id, u64::MAX] {
        let links = lab.bpffs().join(format!("bulkhead/v999/cgroup-{cgroup}/links"));
        lab.run("mkdir", &["-p", &links.to_string_lossy()])?;
        // A BPF file system takes no other files than pins and symbolic links.
        lab.run("ln", &["-s", "nothing", &links.join("egress").to_string_lossy()])?;
    }
    let found = Findings::of(&lab, &[])?;
    found.nothing_fails()?;
    let pins: Vec<_> = found.objects.iter().filter(|object| object["check"] == "pins").collect();
    let warned = |what: &str| {
        pins.iter().any(|pins| {
            pins["result"] == "warning" && pins["found"].as_str().is_some_and(|f| f.contains(what))
        })
    };
    ensure!(pins.len() == 3 && warned("of another version (v999)") && warned("that is gone"), "{pins:?}");
    Ok(())
}

#[test]
fn processes_of_workloads_that_can_undo_enforcement_are_named() -> Result<()> {
    let lab = Lab::new()?;
    let (ci, beside) = (lab.probe("/ci")?, lab.probe("/beside")?);
    let named = |probe: &Probe| format!("[{}] in ", probe.pid());
    let before = Findings::of(&lab, &["--control-socket", "/there-is-no-such-socket"])?;
    let processes = before.expect("privileged-processes", "ok", "CAP_NET_ADMIN")?;
    ensure!(processes["consequence"].is_string(), "{processes}");
    let agent = lab.agent(POLICY)?.start()?;
    let found = Findings::of(&lab, &["--control-socket", &agent.control_socket().to_string_lossy()])?;
    let processes = found.expect("privileged-processes", "warning", &named(&ci))?;
    ensure!(!processes["found"].to_string().contains(&named(&beside)), "{processes}");
    agent.stop()?;
    Ok(())
}

/// The cgroups of self-tests below a root.
fn left(root: &Path) -> Result<Vec<String>> {
    let names = fs::read_dir(root)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let names = names.collect::<Result<Vec<String>>>()?;
    Ok(names.into_iter().filter(|name| name.contains("self-test")).collect())
}

#[test]
fn the_self_test_is_refused_and_leaves_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let root = lab.root()?;
    // Of one that was killed: no process has this number.
    lab.cgroup("/bulkhead-self-test-4194305/canary")?;
    let found = Findings::of(&lab, &["--self-test"])?;
    found.nothing_fails()?;
    found.expect("self-test", "ok", "was refused (EPERM)")?;
    ensure!(left(root.path())?.is_empty(), "cgroups are left: {:?}", left(root.path())?);
    ensure!(agent::attached(root.path())?.is_empty(), "programs are left attached");
    Ok(())
}

#[test]
fn a_self_test_that_cannot_be_made_fails() -> Result<()> {
    let lab = Lab::new()?;
    fs::write(lab.root()?.path().join("cgroup.max.descendants"), "0")?;
    let found = Findings::of(&lab, &["--self-test"])?;
    found.expect("self-test", "failure", "cannot make")?;
    ensure!(found.status == Some(1), "exit status {:?}", found.status);
    Ok(())
}

#[test]
fn a_refusal_that_may_be_another_policys_is_no_proof() -> Result<()> {
    let lab = Lab::new()?;
    let agent = lab.agent("[workload.all]\nselect = { cgroup = \"/**\" }\n")?.start()?;
    let found = Findings::of(&lab, &["--self-test"])?;
    found.expect("self-test", "warning", "from one beside it was refused")?;
    found.nothing_fails()?;
    agent.stop()?;
    Ok(())
}

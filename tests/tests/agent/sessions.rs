//! Who changes the policy from a login that the policy would cut.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Output, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use bulkhead_tests::{Lab, Machine, artifact, network::Network};
use tempfile::TempDir;

/// Where the machine's own tools find the agent.
const SOCKET: &str = "/run/bulkhead.sock";

/// Only the administrator's machine may log in.
fn policy(administrator: &str) -> String {
    format!(
        "[workload.ssh]\nselect = {{ systemd = \"ssh.service\" }}\n[peer.administrator]\ncidrs = [\"{administrator}\"]\n\
         [[allow]]\nid = \"log-in\"\nfrom = \"administrator\"\nto = \"ssh\"\nports = [\"tcp/22\"]\n"
    )
}

/// A key to log in with, made for this test.
fn key(folder: &Path) -> Result<String> {
    let key = folder.join("key");
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status();
    ensure!(made.context("ssh-keygen cannot be started (package openssh-client)")?.success(), "no key");
    Ok(fs::read_to_string(key.with_extension("pub"))?)
}

/// Logs in from `network` and runs a command, to its end.
fn log_in(network: &Network, key: &Path, to: &str, command: &str) -> Result<Output> {
    Ok(start(network, key, to, command)?.wait_with_output()?)
}

/// Logs in from `network` and begins to run a command.
fn start(network: &Network, key: &Path, to: &str, command: &str) -> Result<Child> {
    let options = [
        "BatchMode=yes",
        "StrictHostKeyChecking=no",
        "UserKnownHostsFile=/dev/null",
        "LogLevel=ERROR",
        "ConnectTimeout=2",
        "ServerAliveInterval=1",
        "ServerAliveCountMax=2",
    ];
    let mut ssh = network.command("ssh");
    ssh.arg("-i").arg(key).args(options.iter().flat_map(|option| ["-o", option]));
    ssh.args([&format!("root@{to}"), command]);
    let ssh = ssh.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    ssh.spawn().context("ssh cannot be started (package openssh-client)")
}

#[test]
fn a_policy_that_cuts_the_callers_login_is_not_applied() -> Result<()> {
    let lab = Lab::new()?;
    let home = lab.network()?;
    let files = TempDir::new()?;
    let (open, closed) = (policy(&home.v4.to_string()), policy("192.0.2.1"));
    let machine = Machine::boot(
        &lab,
        &[
            ("ssh/sshd_config.d/lab.conf", "AuthorizedKeysFile /etc/ssh/lab_keys\n"),
            ("ssh/lab_keys", &key(files.path())?),
            ("bulkhead/closed.toml", &closed),
        ],
    )?;
    fs::copy(artifact::agent()?, machine.outside("/usr/local/bin/bulkhead"))?;
    machine.systemctl(&["start", "ssh"])?;
    let agent = lab.agent(&open)?.answering_at(&machine.outside(SOCKET)).start()?;
    let (key, to) = (files.path().join("key"), lab.host().v4.to_string());
    let apply = |more: &str| {
        let command = format!("bulkhead apply /etc/bulkhead/closed.toml --control-socket {SOCKET} {more}");
        log_in(&home, &key, &to, &command)
    };

    let refused = apply("")?;
    let said = String::from_utf8_lossy(&refused.stdout).into_owned();
    ensure!(
        refused.status.code() == Some(1),
        "{}: {said}{}",
        refused.status,
        String::from_utf8_lossy(&refused.stderr)
    );
    let connection = format!("{to}:22 <- {}", home.v4);
    for expected in ["nothing has changed", "sshd", "of ssh", &connection, "your own session", "`log-in`"] {
        ensure!(said.contains(expected), "no {expected:?} in:\n{said}");
    }
    // Somebody else's session stands against it as well.
    let mut open = start(&home, &key, &to, "echo in; sleep 60")?;
    let mut first = String::new();
    BufReader::new(open.stdout.take().context("no output")?).read_line(&mut first)?;
    ensure!(first == "in\n", "{first:?}");
    let closed = machine.outside("/etc/bulkhead/closed.toml");
    let closed = closed.to_str().context("a path that is text")?;
    let refused = agent.tell(&["apply", closed])?;
    let said = String::from_utf8_lossy(&refused.stdout);
    ensure!(refused.status.code() == Some(1) && said.contains("  SSH\n"), "{}: {said}", refused.status);

    let forced = agent.tell(&["apply", closed, "--force", "--confirm-within", "5s"])?;
    ensure!(forced.status.success(), "{forced:?}");
    ensure!(!log_in(&home, &key, &to, "true")?.status.success(), "logged in all the same");
    thread::sleep(Duration::from_secs(5));
    let again = log_in(&home, &key, &to, "true")?;
    ensure!(again.status.success(), "locked out: {again:?}");
    open.kill()?;
    open.wait()?;
    agent.stop()?;
    Ok(())
}

//! The control API, held to its own description by another's tool.

use std::{
    fs,
    io::{Write as _, copy},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context as _, Result, ensure};
use bulkhead_tests::{Lab, artifact, python};

use crate::loopback::POLICY;

/// Schemathesis: it reads an OpenAPI document and tries everything that it allows, and much that it does not.
fn tool() -> Result<PathBuf> {
    Ok(python::environment("openapi")?.join("bin/schemathesis"))
}

/// The tool speaks TCP, the agent does not.
fn forward(socket: &Path) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let socket = socket.to_owned();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let Ok(agent) = UnixStream::connect(&socket) else { continue };
            // What fails here fails the test.
            let _ = join(stream, agent);
        }
    });
    Ok(address)
}

fn join(caller: TcpStream, agent: UnixStream) -> Result<()> {
    let (mut from_caller, mut to_agent) = (caller.try_clone()?, agent.try_clone()?);
    thread::spawn(move || {
        let _ = copy(&mut from_caller, &mut to_agent);
        let _ = to_agent.shutdown(Shutdown::Write);
    });
    let (mut from_agent, mut to_caller) = (agent, caller);
    thread::spawn(move || {
        let _ = copy(&mut from_agent, &mut to_caller);
        let _ = to_caller.shutdown(Shutdown::Write);
    });
    Ok(())
}

#[test]
fn the_agent_answers_as_its_document_says() -> Result<()> {
    let lab = Lab::new()?;
    let agent = lab.agent(POLICY)?.start()?;
    let at = forward(agent.control_socket())?;
    let output = Command::new(tool()?)
        .args(["run", &format!("http://{at}/v1/openapi.json"), "--checks", "all", "--max-examples", "25"])
        .args(["--seed", "1", "--no-color"])
        // Answers that end when the reader has had enough, which it never has.
        .args(["--exclude-path-regex", "/v1/(denials|flows)"])
        .current_dir(artifact::target_dir()?)
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{}\n{said}{}", output.status, String::from_utf8_lossy(&output.stderr));
    // It is still there, and of sound mind.
    ensure!(agent.status()?["generation"].as_u64() > Some(0));
    agent.stop()?;
    Ok(())
}

#[test]
fn who_may_not_ask_is_told_so() -> Result<()> {
    let lab = Lab::new()?;
    let agent = lab.agent(POLICY)?.start()?;
    let socket = agent.control_socket();
    let mode = fs::metadata(socket)?.permissions().mode() & 0o777;
    ensure!(mode == 0o600 || mode == 0o660, "others may ask: {mode:o}");
    // For those who can get at the socket's directory at all.
    let folder = socket.parent().context("no directory")?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(artifact::agent()?)
        .args(["status", "--control-socket"])
        .arg(socket)
        .output()
        .context("setpriv cannot be started (package util-linux)")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1), "{}", output.status);
    ensure!(said.contains("Only root and members of the group bulkhead"), "{said}");
    agent.stop()?;
    Ok(())
}

#[test]
fn what_is_no_request_is_refused_and_nothing_else_happens() -> Result<()> {
    let lab = Lab::new()?;
    let agent = lab.agent(POLICY)?.start()?;
    for request in [
        "\r\n\r\n",
        "GET /v1/status",
        "\0\0\0",
        "POST /v1/apply HTTP/1.1\r\ncontent-length: 99999999999\r\n\r\n",
    ] {
        let mut stream = UnixStream::connect(agent.control_socket())?;
        stream.write_all(request.as_bytes())?;
    }
    let blank = agent.tell(&["apply", "/dev/null"])?;
    ensure!(blank.status.code() == Some(2), "{blank:?}");
    ensure!(agent.status()?["rules"] == 1);
    agent.stop()?;
    Ok(())
}

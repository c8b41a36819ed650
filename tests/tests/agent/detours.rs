//! A connection is not sent another way once it has begun.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use bulkhead_tests::{Lab, Network, Place, probe::Kind, verdicts::at};
use serde_json::json;

const PORT: u16 = 5432;

/// app may reach one of two other machines.
const POLICY: &str = r#"
[environment.prod]
[workload.app]
environment = "prod"
select = { cgroup = "/app" }
[peer.friend]
cidrs = ["10.77.0.2"]
[[allow]]
from = "app"
to = "friend"
ports = ["tcp/5432"]
"#;

/// Connects, asks, and asks again with a source route over a third machine (RFC 791 section 3.1, loose source and record
/// route): any process may set one, at any time. Prints what came of both questions.
const CALLER: &str = r#"
use Socket;
my ($friend, $over, $port) = @ARGV;
socket(my $s, PF_INET, SOCK_STREAM, 0) or die "socket: $!";
connect($s, sockaddr_in($port, inet_aton($friend))) or die "connect: $!";
sub ask {
    syswrite($s, "a question") or die "write: $!";
    my $ready = "";
    vec($ready, fileno($s), 1) = 1;
    return "silence" unless select($ready, undef, undef, 0.15);
    sysread($s, my $answer, 100);
    return "answer";
}
print ask(), "\n";
setsockopt($s, 0, 4, pack("CCCa4C", 131, 7, 4, inet_aton($over), 0)) or die "IP_OPTIONS: $!";
print ask(), "\n";
"#;

#[test]
fn a_source_route_set_on_an_established_connection_leads_nowhere() -> Result<()> {
    let lab = Lab::new()?;
    // The first to join the LAN has the address that the policy names.
    let (friends, strangers) = (lab.network()?, lab.network()?);
    let friend = lab.stranger(&friends)?;
    friend.serve(Kind::Tcp, at(friends.v4, PORT))?;
    for network in [lab.host(), &friends, &strangers] {
        take_source_routes(network)?;
    }
    let call = || -> Result<String> {
        let port = PORT.to_string();
        let output = Place::new(lab.cgroup("/app")?, lab.host())
            .command("perl")
            .args(["-e", CALLER, &friends.v4.to_string(), &strangers.v4.to_string(), &port])
            .stdin(Stdio::null())
            .output()
            .context("nsenter cannot be started (package util-linux)")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "the caller: {}\n{said}", output.status);
        Ok(String::from_utf8(output.stdout)?)
    };
    let before = call()?;
    ensure!(before == "answer\nanswer\n", "without an agent the detour is none: {before:?}");

    let agent = lab.agent(POLICY)?.start()?;
    // What is kept of a connection lasts a second: several, so that not all of them begin as one ends.
    for _ in 0..4 {
        let under = call()?;
        ensure!(under == "answer\nsilence\n", "a question over another machine: {under:?}");
    }
    agent.denials().expect(&json!({
        "workload": {"name": "app"}, "reason": "malformed", "verdict": "denied", "direction": "egress"
    }))?;
    agent.stop()?;
    Ok(())
}

/// Lets a machine send on what comes with a source route, and answer it.
fn take_source_routes(network: &Network) -> Result<()> {
    let script = "cd /proc/sys/net/ipv4 && echo 1 >ip_forward && for d in conf/*; do \
                  echo 1 >$d/accept_source_route; echo 0 >$d/rp_filter; done";
    let output = Command::output(network.command("sh").args(["-c", script]))?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

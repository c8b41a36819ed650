//! The laboratory itself: that what runs in it is where it should be, reaches whom it should while no agent runs,
//! and that nothing is left.

use std::{fs, net::SocketAddr, panic};

use anyhow::{Result, ensure};
use bulkhead_tests::{
    Lab, Outcome,
    cgroup::{self, Cgroup},
    probe::{Family, Kind},
};

/// Nobody listens there.
const DISCARD: u16 = 9;
const ECONNREFUSED: i32 = 111;

#[test]
fn a_process_is_in_its_cgroup_and_network_from_the_start() -> Result<()> {
    let lab = Lab::new()?;
    let container = lab.network()?;
    let web = lab.probe_in("/shop.slice/web.service", &container)?;
    web.serve(Kind::Tcp, container.v4)?;
    let listed = fs::read_to_string(format!("/proc/{}/cgroup", web.pid()))?;
    let place = lab.cgroup("/shop.slice/web.service")?;
    let expected = format!("/{}", place.path().strip_prefix(cgroup::mount_point()?)?.display());
    ensure!(listed.lines().any(|l| l.starts_with("0::") && l.ends_with(&expected)), "{listed}");
    let tcp = fs::read_to_string(format!("/proc/{}/net/tcp", web.pid()))?;
    ensure!(tcp.lines().count() == 2, "one listener and no more in a namespace of its own:\n{tcp}");
    assert_eq!(fs::read_to_string(format!("/proc/{}/comm", web.pid()))?, "bulkhead-probe\n");
    Ok(())
}

#[test]
fn everybody_reaches_everybody_without_an_agent() -> Result<()> {
    let lab = Lab::new()?;
    let (container, elsewhere) = (lab.network()?, lab.network()?);
    let servers = [lab.probe("/web")?, lab.probe_in("/db", &container)?, lab.stranger(&elsewhere)?];
    let clients = [lab.probe("/ci")?, lab.probe_in("/job", &container)?, lab.stranger(&elsewhere)?];
    for (server, network) in servers.iter().zip([lab.host(), &container, &elsewhere]) {
        for address in [network.v4, network.v6] {
            let tcp = server.serve(Kind::Tcp, address)?.address;
            let udp = server.serve(Kind::Udp, address)?.address;
            for client in &clients {
                assert_eq!(client.tcp(tcp)?, Outcome::Answered, "tcp to {tcp}");
                assert_eq!(client.udp(udp)?, Outcome::Answered, "connected udp to {udp}");
                assert_eq!(client.udp_unconnected(udp)?, Outcome::Answered, "unconnected udp to {udp}");
                assert_eq!(client.ping(address)?, Outcome::Answered, "ping to {address}");
                let nobody = SocketAddr::new(address, DISCARD);
                assert_eq!(client.tcp(nobody)?, Outcome::Failed(ECONNREFUSED), "tcp to {nobody}");
            }
        }
    }
    Ok(())
}

#[test]
fn silence_is_told_from_an_answer() -> Result<()> {
    let lab = Lab::new()?;
    let elsewhere = lab.network()?;
    let mute = lab.stranger(&elsewhere)?;
    let socket = mute.open(Kind::Udp, Family::V4)?;
    let to = socket.bind(elsewhere.v4)?;
    assert_eq!(lab.probe("/web")?.udp(to)?, Outcome::Silence);
    Ok(())
}

#[test]
fn a_socket_works_in_other_hands_and_after_a_move() -> Result<()> {
    let lab = Lab::new()?;
    let (web, ci, other) = (lab.probe("/web")?, lab.probe("/ci")?, lab.cgroup("/other")?);
    let server = web.serve(Kind::Tcp, lab.host().v4)?;
    let socket = ci.open(Kind::Tcp, Family::V4)?;
    ci.move_to(&other)?;
    ensure!(
        other.members().iter().any(|pid| pid.as_raw().unsigned_abs() == ci.pid()),
        "the probe did not move"
    );
    assert_eq!(socket.connect_and_exchange(server.address)?, Outcome::Answered);
    let passed = socket.pass_to(&web)?;
    assert_eq!(passed.exchange(None)?, Outcome::Answered);
    Ok(())
}

#[test]
fn nothing_is_left_after_a_panic() -> Result<()> {
    let lab = Lab::new()?;
    let path = lab.root()?.path().to_owned();
    // Left to itself, it would outlive the lab: only the cgroup knows it.
    let left = lab.probe("/web/deep")?;
    let panicked = panic::catch_unwind(panic::AssertUnwindSafe(|| {
        let _lab = lab;
        panic!("a test fails")
    }));
    ensure!(panicked.is_err() && !path.exists(), "{} is left", path.display());
    ensure!(left.tcp("127.0.0.1:9".parse()?).is_err(), "the process outlived its lab");
    Ok(())
}

#[test]
fn what_a_killed_run_left_is_removed_at_the_next_start() -> Result<()> {
    let name = format!("bulkhead-lab-{}-killed", std::process::id());
    let stale = Cgroup::make(cgroup::mount_point()?.join(name))?;
    let _lab = Lab::new()?;
    ensure!(!stale.path().exists(), "{} is left", stale.path().display());
    Ok(())
}

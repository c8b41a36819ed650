//! What passed is not decided anew: only a decision writes when a kind of traffic was last seen, and every packet is
//! counted.

use std::{
    net::{Ipv4Addr, SocketAddr},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use bulkhead_common::{Counter, Protocol};
use bulkhead_policy::{WorkloadId, compile};
use bulkhead_tests::pace::until;
use bulkhead_worlds::World;
use socket2::{Domain, Socket, Type};

use crate::kernel::Kernel;

const CALLER: WorkloadId = WorkloadId(0);
const SERVER: WorkloadId = WorkloadId(1);
const PORT: u16 = 443;
/// Sends a step.
const STEP: u64 = 20;
/// What is kept lasts for about a second: now and then it ends just here.
const TRIES: u32 = 4;

#[test]
fn what_passed_a_moment_ago_is_not_decided_anew() -> Result<()> {
    let mut kernel = Kernel::new()?;
    let world = World::shop();
    let compiled = compile(&world.policy(), &world.inventory());
    for protocol in [Protocol::TCP, Protocol::UDP] {
        kernel.install(&compiled, 0)?;
        let server = kernel.socket(SERVER, protocol, PORT)?;
        let caller = kernel.have(CALLER, move || connect(protocol))??;
        let before = seen(&kernel, protocol)?;
        ensure!(before.packets > 0, "{protocol:?}: the first packets are not counted");
        kept(&kernel, protocol, &caller)?;

        // Tables in force anew: what is kept of those before holds no more.
        kernel.install(&compiled, 0)?;
        send(&caller)?;
        // TCP may hold them back until others are acknowledged, up to 40 ms later.
        until("packets are counted under new tables", || Ok(seen(&kernel, protocol)?.packets > 0))?;
        let after = seen(&kernel, protocol)?;
        ensure!(after.first_seen > before.last_seen, "{protocol:?}: not decided under the new tables");
        drop(server);
    }
    Ok(())
}

/// Packets are counted, and no decision is noted.
fn kept(kernel: &Kernel, protocol: Protocol, caller: &Socket) -> Result<()> {
    let mut last = Counter::default();
    for _ in 0..TRIES {
        send(caller)?;
        let before = seen(kernel, protocol)?;
        thread::sleep(Duration::from_millis(20));
        send(caller)?;
        last = seen(kernel, protocol)?;
        let counted = last.packets - before.packets;
        // TCP sends together what has to wait.
        ensure!(counted > 0, "{protocol:?}: no packet is counted");
        if last.last_seen == before.last_seen {
            return Ok(());
        }
    }
    bail!("{protocol:?}: {TRIES} times in turn packets were decided anew: {last:?}")
}

fn connect(protocol: Protocol) -> Result<Socket> {
    let kind = if protocol == Protocol::TCP { Type::STREAM } else { Type::DGRAM };
    let socket = Socket::new(Domain::IPV4, kind, None)?;
    socket.connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)).into())?;
    if protocol == Protocol::TCP {
        // A segment for each send.
        socket.set_tcp_nodelay(true)?;
    }
    send(&socket)?;
    Ok(socket)
}

fn send(socket: &Socket) -> Result<()> {
    (0..STEP).try_for_each(|_| socket.send(b"x").map(drop)).context("a packet that a rule allows")
}

/// What the tables in force have counted of the caller's allowed packets.
fn seen(kernel: &Kernel, protocol: Protocol) -> Result<Counter> {
    let mut all = Counter::default();
    let generation = kernel.generation();
    for (key, counter) in kernel.counters()? {
        if key.generation == generation && key.protocol == protocol.0 && key.direction == 0 && key.rule == 0 {
            all.add(&counter);
        }
    }
    Ok(all)
}

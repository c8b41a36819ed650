//! Generations in force for a while: the kernel goes back by itself, with nobody there to tell it.

use std::{
    io::{self, ErrorKind},
    net::{Ipv4Addr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use bulkhead_common::Protocol;
use bulkhead_datapath::Datapath;
use bulkhead_policy::{Compiled, WorkloadId, compile};
use bulkhead_worlds::World;
use socket2::{Domain, Socket, Type};

use crate::kernel::Kernel;

const CALLER: WorkloadId = WorkloadId(0);
const SERVER: WorkloadId = WorkloadId(1);
const PORT: u16 = 443;

/// How long a generation is in force that nobody confirms.
const WHILE: Duration = Duration::from_millis(1_500);

/// A kernel with the shop's policy in force, and a caller that sends to the server.
struct Shop {
    kernel: Kernel,
    open: Compiled,
    closed: Compiled,
    caller: Socket,
    _server: Socket,
}

impl Shop {
    fn new() -> Result<Self> {
        let world = World::shop();
        let of = |world: &World| compile(&world.policy(), &world.inventory());
        let (open, closed) = (of(&world), of(&world.with_rules([].iter())));
        let mut kernel = Kernel::new()?;
        kernel.install(&open, 0)?;
        let server = kernel.socket(SERVER, Protocol::UDP, PORT)?;
        let caller = kernel.have(CALLER, connect)??;
        let shop = Self { kernel, open, closed, caller, _server: server };
        ensure!(shop.passes()?, "a datagram that a rule allows");
        Ok(shop)
    }

    /// Does a datagram like the last one pass? The caller is told at once.
    fn passes(&self) -> Result<bool> {
        match self.caller.send(b"x") {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(false),
            Err(error) => Err(error).context("a datagram"),
        }
    }

    /// The policy without its rule, for a while.
    fn close_for(&mut self, time: Duration) -> Result<()> {
        self.kernel.install_as(&self.closed, 0, |datapath, generation| {
            datapath.prepare(generation)?;
            datapath.put_in_force_for(generation.number, time)
        })
    }

    fn in_force(&self) -> Option<u32> {
        self.kernel.tell(|datapath| datapath.in_force())
    }
}

fn connect() -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    socket.connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)).into())?;
    Ok(socket)
}

#[test]
fn what_nobody_confirms_ends_by_itself_at_its_deadline() -> Result<()> {
    let mut shop = Shop::new()?;
    let start = Instant::now();
    shop.close_for(WHILE)?;
    // What was kept of the datagram before holds no more; nothing is kept now.
    while start.elapsed() + Duration::from_millis(200) < WHILE {
        ensure!(!shop.passes()?, "passes after {:?}, which the new policy refuses", start.elapsed());
        ensure!(shop.in_force() == Some(2), "not in force: {:?}", shop.in_force());
        thread::sleep(Duration::from_millis(5));
    }
    let back = loop {
        if shop.passes()? {
            break start.elapsed();
        }
        ensure!(start.elapsed() < WHILE * 2, "the deadline has passed, and nothing passes");
    };
    ensure!(back >= WHILE, "back too early: after {back:?}");
    ensure!(shop.in_force() == Some(1), "in force: {:?}", shop.in_force());
    // For good: also what is kept now.
    let passed = (0..1_000).map(|_| shop.passes()).collect::<Result<Vec<bool>>>()?;
    ensure!(passed.iter().all(|passes| *passes), "refused again");
    Ok(())
}

#[test]
fn what_is_confirmed_stays_in_force() -> Result<()> {
    let mut shop = Shop::new()?;
    let start = Instant::now();
    shop.close_for(WHILE)?;
    ensure!(!shop.passes()?, "passes, which the new policy refuses");
    ensure!(shop.kernel.tell(Datapath::confirm)? == Some(2), "something else was confirmed");
    while start.elapsed() < WHILE + Duration::from_millis(500) {
        ensure!(!shop.passes()?, "passes after {:?}, which the new policy refuses", start.elapsed());
        thread::sleep(Duration::from_millis(5));
    }
    ensure!(shop.in_force() == Some(2), "in force: {:?}", shop.in_force());
    Ok(())
}

#[test]
fn who_does_not_wait_for_the_deadline_rolls_back() -> Result<()> {
    let mut shop = Shop::new()?;
    shop.close_for(Duration::from_hours(1))?;
    ensure!(!shop.passes()?, "passes, which the new policy refuses");
    ensure!(shop.kernel.tell(Datapath::roll_back)? == Some(1), "back to something else");
    ensure!(shop.passes()?, "refused under the policy before");
    // There is nothing more to go back to.
    ensure!(shop.kernel.tell(Datapath::roll_back)? == Some(1), "back to something else");
    ensure!(shop.passes()?, "refused under the policy before");
    Ok(())
}

/// A second policy before the first is confirmed does not make the first a thing to go back to.
#[test]
fn only_what_was_in_force_for_good_is_gone_back_to() -> Result<()> {
    let mut shop = Shop::new()?;
    shop.close_for(Duration::from_hours(1))?;
    shop.close_for(WHILE)?;
    ensure!(!shop.passes()?, "passes, which the new policy refuses");
    ensure!(shop.in_force() == Some(3), "in force: {:?}", shop.in_force());
    thread::sleep(WHILE);
    ensure!(shop.passes()?, "the deadline has passed, and the first policy is not back");
    // After a fall-back the next one starts from what is in force.
    shop.close_for(WHILE)?;
    ensure!(!shop.passes()?, "passes, which the new policy refuses");
    thread::sleep(WHILE);
    ensure!(shop.passes()?, "the deadline has passed, and the first policy is not back");
    ensure!(shop.in_force() == Some(1), "in force: {:?}", shop.in_force());
    Ok(())
}

/// Slots are used again and again, and never one that something still stands on.
#[test]
fn many_policies_in_turn_leave_what_is_gone_back_to_whole() -> Result<()> {
    let mut shop = Shop::new()?;
    for _ in 0..10 {
        shop.close_for(Duration::from_hours(1))?;
        ensure!(!shop.passes()?, "passes, which the new policy refuses");
    }
    ensure!(shop.kernel.tell(Datapath::roll_back)? == Some(1), "back to something else");
    ensure!(shop.passes()?, "refused under the policy before");
    for _ in 0..10 {
        shop.kernel.install(&shop.closed, 0)?;
        ensure!(!shop.passes()?, "passes, which the new policy refuses");
        shop.kernel.install(&shop.open, 0)?;
        ensure!(shop.passes()?, "refused, which the new policy allows");
    }
    Ok(())
}

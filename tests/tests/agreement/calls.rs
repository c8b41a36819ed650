//! The connect hooks have no test run in the kernel (`cg_sock_addr_prog_ops` in net/core/filter.c is empty):
//! workloads call connect() and sendto(). EPERM is their word; anything else that comes of a call is the
//! network's, in which nobody answers.

use std::{
    cell::{Cell, RefCell},
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use anyhow::{Context as _, Result, ensure};
use bulkhead_common::{Address, Decision, Direction, Hook, PeerEntry, Protocol, SubjectId, Verdict};
use bulkhead_policy::{Compiled, compile};
use bulkhead_worlds::Packet;
use socket2::{Domain, Socket, Type};

use crate::{case::Case, hold, kernel::Kernel};

/// Worlds a run, so that calls are about 3,000.
const WORLDS: u32 = 60;

const EPERM: i32 = 1;

#[test]
fn the_connect_hooks_say_what_the_tables_say() -> Result<()> {
    let kernel = RefCell::new(Kernel::new()?);
    let tally = Tally::default();
    let reported = RefCell::new(HashSet::new());
    hold(WORLDS, |world, now_ns, cases| {
        let mut inventory = world.inventory();
        // Hosts of the worlds have few addresses: half of those that are called are this one's.
        inventory.local.extend(cases.iter().step_by(2).filter_map(|case| case.packet.address));
        let compiled = compile(&world.policy(), &inventory);
        let mut kernel = kernel.borrow_mut();
        kernel.install(&compiled, now_ns)?;
        // Who connects to port 0 is turned away by the network.
        let opened = cases.iter().filter(|case| {
            matches!(case.packet.protocol, Protocol::TCP | Protocol::UDP) && case.packet.port != 0
        });
        let reported = &mut reported.borrow_mut();
        opened.into_iter().try_for_each(|case| compare(&kernel, &tally, reported, &compiled, case))
    })?;
    println!("{tally:?}");
    tally.check()
}

/// What was seen, so that agreement on nothing is no success.
#[derive(Debug, Default)]
struct Tally {
    calls: Cell<u32>,
    refused: Cell<u32>,
    marked: Cell<u32>,
    refused_by_the_listener: Cell<u32>,
    left_to_the_packet: Cell<u32>,
}

impl Tally {
    fn check(&self) -> Result<()> {
        let passed = self.calls.get() - self.refused.get();
        let others = [&self.refused, &self.marked, &self.refused_by_the_listener, &self.left_to_the_packet];
        let mut all = others.map(Cell::get).into_iter().chain([passed]);
        ensure!(all.all(|count| count > 0), "the worlds are too alike: {self:?}");
        Ok(())
    }
}

/// Has the packet's workload connect to its other end, and send to it where that is UDP.
fn compare(
    kernel: &Kernel,
    tally: &Tally,
    reported: &mut HashSet<Kind>,
    compiled: &Compiled,
    case: &Case,
) -> Result<()> {
    let packet = &case.packet;
    let to = SocketAddr::new(on_the_wire(case), packet.port);
    let kind = if packet.protocol == Protocol::TCP { Type::STREAM } else { Type::DGRAM };
    let calls: &[Hook] =
        if kind == Type::STREAM { &[Hook::Connect] } else { &[Hook::Connect, Hook::Sendmsg] };
    let _other_end = kernel.other_end(case, packet.port)?;
    let expected = asked(tally, compiled, case);
    for hook in calls {
        let by_connect = *hook == Hook::Connect;
        let errno = kernel.have(packet.local, move || call(kind, by_connect, to))??;
        told(kernel, reported, errno, *hook, compiled, case, &expected)
            .with_context(|| format!("{hook:?} to {to}, {case:?}: {expected:?}"))?;
        count(tally, &expected);
    }
    Ok(())
}

/// Connects or sends. The error's number, or 0.
fn call(kind: Type, by_connect: bool, to: SocketAddr) -> Result<i32> {
    let socket = Socket::new(Domain::for_address(to), kind, None)?;
    socket.set_nonblocking(true)?;
    let done =
        if by_connect { socket.connect(&to.into()) } else { socket.send_to(b"?", &to.into()).map(drop) };
    Ok(done.err().and_then(|error| error.raw_os_error()).unwrap_or(0))
}

/// The other end's address as the caller writes it.
fn on_the_wire(case: &Case) -> IpAddr {
    match IpAddr::from(case.far().0) {
        IpAddr::V4(ip) if case.look.mapped => ip.to_ipv6_mapped().into(),
        ip => ip,
    }
}

/// Who is asked, in turn, and what the tables say: this end, and on loopback the listener.
fn asked(tally: &Tally, compiled: &Compiled, case: &Case) -> Vec<Decision> {
    let target = target(case);
    let address = Address::from(target);
    let entry = compiled.peer(address);
    let is_local = entry.flags & PeerEntry::LOCAL != 0 && entry.subject == SubjectId::NONE;
    let listener = case.packet.socket.filter(|_| address.is_loopback() || is_local);
    let out = Packet { address: Some(target), socket: listener, direction: Direction::Egress, ..case.packet };
    let mut decision = out.decision(compiled);
    if decision.reason.refuses() && !address.is_loopback() {
        // The listener may not be whom the address leads to.
        let by_address = Packet { socket: None, ..out }.decision(compiled);
        if !by_address.reason.refuses() {
            decision = by_address;
            tally.left_to_the_packet.set(tally.left_to_the_packet.get() + 1);
        }
    }
    let mut asked = vec![decision];
    if let Some(listener) = listener.filter(|_| address.is_loopback()) {
        let local = case.packet.local;
        let arrives = Packet { local: listener, socket: Some(local), direction: Direction::Ingress, ..out };
        asked.push(arrives.decision(compiled));
    }
    // Once refused, nobody else is asked.
    let end = asked.iter().position(|decision| decision.verdict == Verdict::Denied);
    asked.truncate(end.map_or(asked.len(), |refused| refused + 1));
    asked
}

/// The unspecified address is loopback (connect(2) of Linux).
fn target(case: &Case) -> IpAddr {
    match IpAddr::from(case.far().0) {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    }
}

/// What has been reported, the first at once, then one record a second: the caller, the other end's address and port, the
/// protocol.
type Kind = (usize, IpAddr, u16, u8);

/// The caller is told EPERM if one who is asked refuses, and there is a record of each refusal whose kind is new.
fn told(
    kernel: &Kernel,
    reported: &mut HashSet<Kind>,
    errno: i32,
    hook: Hook,
    compiled: &Compiled,
    case: &Case,
    expected: &[Decision],
) -> Result<()> {
    // Before anything can fail: what is left would be taken for the next call's.
    let all = kernel.records();
    let lost = kernel.lose()?;
    let refused = expected.iter().any(|decision| decision.verdict == Verdict::Denied);
    // What is sent is judged once more as a packet, by its address where it leaves the host.
    let leaves =
        Packet { address: Some(target(case)), socket: None, direction: Direction::Egress, ..case.packet };
    let may_be_stopped = hook == Hook::Sendmsg && leaves.decision(compiled).verdict == Verdict::Denied;
    if refused || !may_be_stopped {
        ensure!((errno == EPERM) == refused, "error {errno}");
    }
    let kind = (case.packet.local.0, target(case), case.packet.port, case.packet.protocol.0);
    let is_new = !lost && !reported.contains(&kind);
    if !all.is_empty() {
        reported.insert(kind);
    }
    let mut found = all.iter().filter(|record| record.hook == hook as u32).peekable();
    for decision in expected.iter().filter(|decision| decision.reason.refuses()) {
        let wanted = (decision.verdict as u8, decision.reason as u8, decision.rule.0, case.packet.port);
        let told = found.next_if(|r| (r.verdict, r.reason, r.rule, r.port) == wanted).is_some();
        ensure!(told || !is_new, "reported is {all:?}");
    }
    ensure!(found.next().is_none(), "reported is {all:?}");
    Ok(())
}

fn count(tally: &Tally, expected: &[Decision]) {
    let add = |counter: &Cell<u32>, yes: bool| counter.set(counter.get() + u32::from(yes));
    let of = |verdict| expected.iter().any(|decision| decision.verdict == verdict);
    add(&tally.calls, true);
    add(&tally.refused, of(Verdict::Denied));
    add(&tally.marked, of(Verdict::WouldDeny));
    add(&tally.refused_by_the_listener, expected.len() == 2 && of(Verdict::Denied));
}

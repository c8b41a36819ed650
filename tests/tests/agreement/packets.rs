//! Each packet is built and run through `egress` or `ingress` by the kernel.

use std::{
    cell::{Cell, RefCell},
    collections::HashSet,
};

use anyhow::{Context as _, Result, ensure};
use bulkhead_common::{Decision, Direction, Endpoint, Event, PeerEntry, Protocol, Reason, RuleId, Verdict};
use bulkhead_policy::{Compiled, WorkloadId, compile};
use bulkhead_worlds::{Packet, World};

use crate::{
    case::Case,
    hold,
    kernel::{Kernel, Seen},
};

/// Worlds a run, so that packets are 24,000.
const WORLDS: u32 = 400;

#[test]
fn the_packet_programs_say_what_the_tables_say() -> Result<()> {
    let mut kernel = Kernel::new()?;
    a_packet_is_that_of_the_callers_workload(&mut kernel)?;
    let kernel = RefCell::new(kernel);
    let tally = Tally::default();
    let kinds = RefCell::new(HashSet::new());
    hold(WORLDS, |world, now_ns, cases| {
        let mut compiled = compile(&world.policy(), &world.inventory());
        for (_, _, peer) in &mut compiled.peers {
            // On loopback there are addresses of this host alone, and a world's packets have any.
            peer.flags |= PeerEntry::LOCAL;
        }
        let mut kernel = kernel.borrow_mut();
        kernel.install(&compiled, now_ns)?;
        cases.iter().try_for_each(|case| compare(&kernel, &mut kinds.borrow_mut(), &tally, &compiled, case))
    })?;
    println!("{tally:?}");
    tally.check()
}

/// What was seen, so that agreement on nothing is no success.
#[derive(Debug, Default)]
struct Tally {
    allowed_by_a_rule: Cell<u32>,
    passed_otherwise: Cell<u32>,
    refused: Cell<u32>,
    marked: Cell<u32>,
    malformed: Cell<u32>,
    essential: Cell<u32>,
    other_end_here: Cell<u32>,
    records: Cell<u32>,
}

impl Tally {
    fn count(&self, case: &Case, decision: Decision) {
        let add = |counter: &Cell<u32>| counter.set(counter.get() + 1);
        match (decision.verdict, decision.reason) {
            (_, Reason::Malformed) => add(&self.malformed),
            (_, Reason::Essential) => add(&self.essential),
            (_, Reason::Rule) => add(&self.allowed_by_a_rule),
            (Verdict::Allowed, _) => add(&self.passed_otherwise),
            (Verdict::Denied, _) => add(&self.refused),
            (Verdict::WouldDeny, _) => add(&self.marked),
        }
        if case.packet.socket.is_some() {
            add(&self.other_end_here);
        }
    }

    fn check(&self) -> Result<()> {
        let all = [
            &self.allowed_by_a_rule,
            &self.passed_otherwise,
            &self.refused,
            &self.marked,
            &self.malformed,
            &self.essential,
            &self.other_end_here,
            &self.records,
        ];
        ensure!(all.iter().all(|counter| counter.get() > 0), "the worlds are too alike: {self:?}");
        Ok(())
    }
}

/// Where the kernel gives the packet of a test run no cgroup, all of them would pass for nobody's.
fn a_packet_is_that_of_the_callers_workload(kernel: &mut Kernel) -> Result<()> {
    let world = World::shop();
    let compiled = compile(&world.policy(), &world.inventory());
    kernel.install(&compiled, 0)?;
    let passes = |kernel: &Kernel, port| {
        let packet = Packet {
            local: WorkloadId(0),
            socket: Some(WorkloadId(1)),
            address: Some([127, 0, 0, 1].into()),
            direction: Direction::Egress,
            protocol: Protocol::TCP,
            port,
            now_ns: 0,
        };
        kernel.run(&Case::plain(packet)).map(|seen| seen.passes)
    };
    ensure!(passes(kernel, 443)?, "a connection that the only rule allows is refused");
    ensure!(
        !passes(kernel, 80)?,
        "this kernel gives the packet of a test run no cgroup: run this test on Linux 5.16 or newer"
    );
    Ok(())
}

/// Runs one packet.
fn compare(
    kernel: &Kernel,
    kinds: &mut HashSet<Kind>,
    tally: &Tally,
    compiled: &Compiled,
    case: &Case,
) -> Result<()> {
    let seen = kernel.run(case)?;
    let expected = expected(compiled, case);
    verdict(&seen, expected)
        .and_then(|()| record(kernel, compiled, case, expected, seen.record.as_ref(), kinds))
        .with_context(|| format!("{case:?}"))?;
    tally.count(case, expected);
    tally.records.set(tally.records.get() + u32::from(seen.record.is_some()));
    Ok(())
}

/// What the verdict function says of the packet; what is malformed or essential, it is not asked about.
pub(crate) fn expected(compiled: &Compiled, case: &Case) -> Decision {
    const ISOLATED: u32 = Endpoint::ISOLATE_EGRESS | Endpoint::ISOLATE_INGRESS;
    let local = compiled.endpoints[case.packet.local.0];
    if local.flags & ISOLATED == 0 {
        Decision::new(&local, Reason::NotIsolated, RuleId::NONE)
    } else if case.is_malformed() {
        Decision::new(&local, Reason::Malformed, RuleId::NONE)
    } else if case.is_essential() {
        Decision::new(&local, Reason::Essential, RuleId::NONE)
    } else {
        case.packet.decision(compiled)
    }
}

fn verdict(seen: &Seen, expected: Decision) -> Result<()> {
    let passes = expected.verdict != Verdict::Denied;
    let said = if seen.passes { "passes" } else { "is refused" };
    ensure!(seen.passes == passes, "the packet {said} and should be {expected:?}");
    Ok(())
}

/// Refusals that make one record a second: cgroup, address, service port, protocol, direction.
type Kind = (u64, [u8; 16], u16, u8, u8);

/// A refusal makes a record that says what the tables say; the first of its kind must.
fn record(
    kernel: &Kernel,
    compiled: &Compiled,
    case: &Case,
    expected: Decision,
    record: Option<&Event>,
    kinds: &mut HashSet<Kind>,
) -> Result<()> {
    if !expected.reason.refuses() {
        ensure!(record.is_none(), "a packet that should be {expected:?} is reported: {record:?}");
        return Ok(());
    }
    let packet = &case.packet;
    let (address, flow) = (case.far().0, packet.flow(&compiled.endpoints, |ip| compiled.peer(ip.into())));
    let cgroup = kernel.cgroup(packet.local);
    let kind = (cgroup, address.octets(), flow.port, flow.protocol.0, flow.direction as u8);
    let due = !case.is_malformed() && !kinds.contains(&kind);
    let Some(record) = record else {
        ensure!(!due || kernel.lose()?, "the first refusal of its kind is not reported: {expected:?}");
        return Ok(());
    };
    // What is malformed is of the kind that could be read.
    kinds.insert((cgroup, address.octets(), record.port, record.protocol, record.direction));
    let found = (record.verdict, record.reason, record.rule, record.subject, record.cgroup);
    let local = compiled.endpoints[packet.local.0];
    let wanted = (expected.verdict as u8, expected.reason as u8, expected.rule.0, local.subject.0, cgroup);
    ensure!(found == wanted, "reported is {record:?} and not {expected:?}");
    ensure!(record.generation == kernel.generation(), "another generation is reported: {record:?}");
    ensure!(record.peer_address == address, "another address is reported: {record:?}");
    if !case.is_malformed() {
        let found = (record.protocol, record.port, record.direction);
        let wanted = (flow.protocol.0, flow.port, flow.direction as u8);
        ensure!(found == wanted, "another flow is reported: {record:?} and not {flow:?}");
        let found = (record.peer_subject, record.peer_class);
        let wanted = (flow.peer.subject.0, flow.peer.class.0);
        ensure!(found == wanted, "another peer is reported: {record:?} and not {flow:?}");
    }
    Ok(())
}

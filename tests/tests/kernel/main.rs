//! The programs in the kernel against the compiled tables: the worlds of the policy's own property tests, each packet
//! built and run through `egress` or `ingress` by the kernel.
//!
//! Always the same worlds; `PROPTEST_RNG_SEED` draws others and `PROPTEST_CASES` more. Failing seeds are kept in
//! `main.regressions` beside this file and tried first.

#![forbid(unsafe_code)]

mod case;
mod frame;
mod kernel;
mod worker;

use std::{
    cell::{Cell, RefCell},
    collections::HashSet,
    env, fmt,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use bulkhead_common::{Decision, Direction, Endpoint, Event, Protocol, Reason, RuleId, Verdict};
use bulkhead_policy::{Compiled, WorkloadId, compile};
use bulkhead_worlds::{PACKETS, World, world};
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, FileFailurePersistence, RngSeed, TestRunner},
};

use self::{
    case::{Case, Look, look},
    kernel::Kernel,
};

/// Worlds a run, so that packets are 24,000.
const WORLDS: u32 = 400;
/// Any number: which worlds they are.
const SEED: u64 = 7;

fn config() -> Config {
    let set = |name| env::var_os(name).is_some();
    let from_environment = Config::default();
    Config {
        cases: if set("PROPTEST_CASES") { from_environment.cases } else { WORLDS },
        rng_seed: if set("PROPTEST_RNG_SEED") { from_environment.rng_seed } else { RngSeed::Fixed(SEED) },
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        source_file: Some(file!()),
        max_shrink_iters: 500,
        max_shrink_time: 60_000,
        ..from_environment
    }
}

#[test]
fn the_programs_say_what_the_tables_say() -> Result<()> {
    let mut kernel = Kernel::new()?;
    a_packet_is_that_of_the_callers_workload(&mut kernel)?;
    let kernel = RefCell::new(kernel);
    let tally = Tally::default();
    let kinds = RefCell::new(HashSet::new());
    let config = config();
    let seed = config.rng_seed;
    let worlds = (world(), vec(look(), PACKETS).prop_map(Looks));
    let agree = |(world, looks): (World, Looks)| {
        compare(&mut kernel.borrow_mut(), &mut kinds.borrow_mut(), &tally, &world, &looks.0)
            .map_err(|error| TestCaseError::fail(format!("{error:#}")))
    };
    TestRunner::new(config)
        .run(&worlds, agree)
        .map_err(|error| anyhow!("with PROPTEST_RNG_SEED={seed}: {error}"))?;
    println!("{tally:?}");
    tally.check()
}

/// Of one world's packets. A failure shows the one that matters.
struct Looks(Vec<Look>);

impl fmt::Debug for Looks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} packets", self.0.len())
    }
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
        let packet = bulkhead_worlds::Packet {
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
        "this kernel gives the packet of a test run no cgroup: run this test on Linux 6.1 or newer"
    );
    Ok(())
}

/// Runs the packets of one world.
fn compare(
    kernel: &mut Kernel,
    kinds: &mut HashSet<Kind>,
    tally: &Tally,
    world: &World,
    looks: &[Look],
) -> Result<()> {
    let compiled = compile(&world.policy(), &world.inventory());
    let now_ns = world.packets.first().map_or(0, |packet| packet.now_ns);
    kernel.install(&compiled, now_ns)?;
    for (packet, look) in world.packets.iter().zip(looks) {
        let case = Case::new(&bulkhead_worlds::Packet { now_ns, ..*packet }, look);
        let seen = kernel.run(&case)?;
        let expected = expected(&compiled, &case);
        let compared = verdict(&seen, expected)
            .and_then(|()| record(kernel, &compiled, &case, expected, seen.record.as_ref(), kinds));
        compared.with_context(|| format!("{case:?}"))?;
        tally.count(&case, expected);
        tally.records.set(tally.records.get() + u32::from(seen.record.is_some()));
    }
    Ok(())
}

/// What the verdict function says of the packet; what is malformed or essential, it is not asked about.
fn expected(compiled: &Compiled, case: &Case) -> Decision {
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

fn verdict(seen: &kernel::Seen, expected: Decision) -> Result<()> {
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
    let (address, flow) = (case.far().0, packet.flow(compiled));
    let cgroup = kernel.cgroup(packet.local);
    let kind = (cgroup, address.0, flow.port, flow.protocol.0, flow.direction as u8);
    let due = !case.is_malformed() && !kinds.contains(&kind);
    let Some(record) = record else {
        ensure!(!due, "the first refusal of its kind is not reported: {expected:?}");
        return Ok(());
    };
    // What is malformed is of the kind that could be read.
    kinds.insert((cgroup, address.0, record.port, record.protocol, record.direction));
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
        let found = (record.peer_subject, record.peer_class, record.address_class);
        let wanted = (flow.peer.subject.0, flow.peer.class.0, flow.peer.address.0);
        ensure!(found == wanted, "another peer is reported: {record:?} and not {flow:?}");
    }
    Ok(())
}

//! A generation that is only compared: what is counted is just what it would have decided otherwise than the one in force.

use std::{cell::RefCell, collections::BTreeMap};

use anyhow::{Context as _, Result, ensure};
use bulkhead_common::{Decision, PeerEntry, Verdict};
use bulkhead_policy::{Compiled, compile};
use bulkhead_worlds::World;

use crate::{case::Case, hold, kernel::Kernel, packets::expected};

/// Worlds a run, so that packets are 3,000: loading the programs that compare takes a while.
const WORLDS: u32 = 25;

/// Subject, direction, protocol, port, verdict, reason, rule and the verdict in force.
type Kind = (u32, u8, u8, u16, u8, u8, u32, Option<u8>);

#[test]
fn differences_are_those_of_the_tables() -> Result<()> {
    let kernel = RefCell::new(Kernel::new()?);
    let tally = RefCell::new([0_u64; 3]);
    hold(WORLDS, |world, now_ns, cases| {
        let half = world.rules.iter().rev().step_by(2);
        let in_force = compiled(&world.with_rules(half));
        let mut kernel = kernel.borrow_mut();
        kernel.install(&in_force, now_ns)?;
        // What a shadow allows and the other does not is seen as well as what it does not.
        for shadow in [compiled(world), compiled(&world.with_rules([].iter()))] {
            kernel.install_as(&shadow, now_ns, |datapath, generation| {
                datapath.prepare(generation)?;
                datapath.compare(generation.number)
            })?;
            let mut wanted = BTreeMap::new();
            for case in cases {
                let decision = expected(&in_force, case);
                let passes = kernel.run(case)?.passes;
                ensure!(passes == (decision.verdict != Verdict::Denied), "a shadow interferes: {case:?}");
                if let Some(kind) = difference(decision, expected(&shadow, case), &shadow, case) {
                    *wanted.entry(kind).or_insert(0) += 1;
                }
            }
            let number = kernel.generation();
            let counted = kernel.tell(|datapath| datapath.tally().differences(number))?;
            // Classes are counted apart.
            let mut counts: BTreeMap<Kind, u64> = BTreeMap::new();
            for (key, count) in counted.context("nothing is compared")?.kinds {
                let flow = (key.direction, key.protocol, key.port);
                let verdict = (key.verdict, key.reason, key.rule);
                let in_force = key.verdict_in_force();
                let kind = (key.subject, flow.0, flow.1, flow.2, verdict.0, verdict.1, verdict.2, in_force);
                *counts.entry(kind).or_default() += count.packets;
            }
            ensure!(counts == wanted, "counted {counts:?}, to be counted {wanted:?}");
            let mut tally = tally.borrow_mut();
            for (kind, count) in wanted {
                tally[usize::from(kind.4)] += count;
            }
        }
        Ok(())
    })?;
    let tally = tally.into_inner();
    println!("allowed, denied and marked by the shadow alone: {tally:?}");
    ensure!(tally.iter().all(|count| *count > 0), "the worlds are too alike: {tally:?}");
    Ok(())
}

fn compiled(world: &World) -> Compiled {
    let mut compiled = compile(&world.policy(), &world.inventory());
    for (_, _, peer) in &mut compiled.peers {
        // On loopback there are addresses of this host alone, and a world's packets have any.
        peer.flags |= PeerEntry::LOCAL;
    }
    compiled
}

/// What is to be counted of a packet.
fn difference(in_force: Decision, other: Decision, shadow: &Compiled, case: &Case) -> Option<Kind> {
    if in_force.verdict == other.verdict {
        return None;
    }
    let flow = case.packet.flow(&shadow.endpoints, |ip| shadow.peer(ip.into()));
    let subject = shadow.endpoints[case.packet.local.0].subject.0;
    let rule = if other.verdict == Verdict::Allowed { other.rule } else { in_force.rule };
    let (verdict, reason) = (other.verdict as u8, other.reason as u8);
    let in_force = Some(in_force.verdict as u8);
    Some((subject, flow.direction as u8, flow.protocol.0, flow.port, verdict, reason, rule.0, in_force))
}

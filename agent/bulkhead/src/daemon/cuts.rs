//! The open connections that another policy would cut.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use bulkhead_common::{Address, Decision, Direction, Protocol, Verdict};
use bulkhead_datapath::Live;
use bulkhead_policy::{
    Asked, Compiled, OneEnd, Place, Policy, describe_peer, nearest_rule, protocol_name, service,
};

use super::{
    enforcement::Held,
    guard::{self, Holders},
};
use crate::control::{Cut, End, NearestRule, Process};

/// A connection that does not pass by the new policy, at the end that is here.
#[derive(Debug)]
pub(super) struct Refused {
    live: Live,
    end: OneEnd,
    decision: Decision,
}

/// Those of `live` that would not pass by `new` at `now_ns` (nanoseconds since the Unix epoch).
pub(super) fn refused(live: Vec<Live>, new: &Held, now_ns: u64) -> Vec<Refused> {
    let compiled = new.compiled();
    let refused = live.into_iter().filter_map(|live| {
        let (end, decision) = judge(&live, new, &compiled, now_ns)?;
        (decision.verdict != Verdict::Allowed).then_some(Refused { live, end, decision })
    });
    refused.collect()
}

/// What a policy makes of a connection at the end that is here; none: that end is left alone. Of one that is older than the
/// programs either orientation will do.
fn judge(live: &Live, held: &Held, compiled: &Compiled, now_ns: u64) -> Option<(OneEnd, Decision)> {
    let own = held.workload(live.cgroup)?;
    let peer = held.workload(live.peer_cgroup);
    let judged = |direction| {
        let end = OneEnd {
            own,
            direction,
            peer,
            peer_address: Address::from(live.remote.ip()),
            protocol: Protocol(live.protocol),
            port: live.service_port(direction),
        };
        (end, compiled.decide(&end, now_ns))
    };
    let ways = [Direction::Egress, Direction::Ingress];
    let possible = ways.into_iter().filter(|way| live.opened.is_none_or(|opened| opened == *way));
    possible.map(judged).min_by_key(|(_, decision)| severity(decision.verdict))
}

/// Open connections that would be cut, in words.
#[derive(Debug, Default)]
pub(super) struct Cuts {
    /// First what must not be cut by surprise. At most [`TOLD`] of them.
    pub(super) told: Vec<Cut>,
    /// How many more there are.
    pub(super) more: usize,
}

/// So many are told: one socket may talk to tens of thousands.
const TOLD: usize = 1_000;

/// So many processes are named of each: whoever holds a socket may have any number of children that hold it, too.
const NAMED: usize = 16;

/// Those that pass by any of the policies before. `session`: the process that asks, and those above it.
pub(super) fn cut(
    refused: Vec<Refused>,
    before: &[&Held],
    new: &Policy,
    session: &[u32],
    now_ns: u64,
) -> Cuts {
    if refused.is_empty() {
        return Cuts::default();
    }
    let before: Vec<_> = before.iter().map(|held| (held, held.compiled())).collect();
    let passes = |refused: &Refused| {
        before.iter().any(|(held, compiled)| {
            judge(&refused.live, held, compiled, now_ns)
                .is_none_or(|(_, now)| severity(now.verdict) < severity(refused.decision.verdict))
        })
    };
    let mut known = HashMap::new();
    let guarded = refused.into_iter().filter(passes).map(|refused| {
        // What is open on one socket has the same holders, which are looked at once.
        let of_socket = Arc::as_ptr(&refused.live.pids).cast::<u32>();
        let holders = known.entry(of_socket).or_insert_with(|| Holders::of(&refused.live.pids));
        (guard::of(&refused.live, holders, session), refused)
    });
    let mut cut: Vec<_> = guarded.collect();
    cut.sort_by_key(|(guard, refused)| {
        let workload = new.workloads[refused.end.own.0].name.clone();
        (refused.decision.verdict != Verdict::Denied, guard.is_none(), workload)
    });
    let more = cut.len().saturating_sub(TOLD);
    cut.truncate(TOLD);
    let told = cut.into_iter().map(|(guard, refused)| refused.in_words(new, guard, now_ns)).collect();
    Cuts { told, more }
}

/// How much a verdict cuts.
fn severity(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Allowed => 0,
        Verdict::WouldDeny => 1,
        Verdict::Denied => 2,
    }
}

impl Refused {
    fn in_words(self, policy: &Policy, guard: Option<&str>, now_ns: u64) -> Cut {
        let Self { live, end, decision } = self;
        let name = |pid: &u32| Process { pid: *pid, comm: guard::comm(*pid).unwrap_or_default() };
        let processes = live.pids.iter().take(NAMED).map(name).collect();
        let peer_name = match end.peer {
            Some(workload) => Some(policy.workloads[workload.0].name.clone()),
            None => describe_peer(policy, live.remote.ip()).0.map(str::to_owned),
        };
        let address = |at: SocketAddr, name| End { address: at.ip(), port: at.port(), name };
        Cut {
            verdict: if decision.verdict == Verdict::Denied { "denied" } else { "would-deny" }.to_owned(),
            workload: policy.workloads[end.own.0].name.clone(),
            direction: live.opened.map(|way| {
                match way {
                    Direction::Egress => "egress",
                    Direction::Ingress => "ingress",
                }
                .to_owned()
            }),
            protocol: protocol_name(end.protocol),
            service: live.opened.map(|_| service(end.protocol, end.port)),
            local: address(live.local, None),
            peer: address(live.remote, peer_name),
            guard: guard.map(str::to_owned),
            processes,
            nearest_rule: nearest(policy, &live, &end, now_ns),
        }
    }
}

fn nearest(policy: &Policy, live: &Live, end: &OneEnd, now_ns: u64) -> Option<NearestRule> {
    let asked = Asked {
        direction: end.direction,
        subject: end.own,
        peer_workload: end.peer,
        peer_address: end.peer.is_none().then(|| live.remote.ip()),
        peer_is: &[],
        protocol: end.protocol,
        port: end.port,
        now_ns,
    };
    let nearest = nearest_rule(policy, &asked)?;
    let rule = &policy.rules[nearest.rule];
    let Place { file, line, .. } = &rule.place;
    Some(NearestRule {
        id: rule.id.clone(),
        file: file.to_string(),
        line: *line,
        differs: nearest.differs.into_iter().map(str::to_owned).collect(),
    })
}

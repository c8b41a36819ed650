//! The open connections that another policy would cut.

use std::net::SocketAddr;

use bulkhead_common::{Address, Decision, Direction, Protocol, Verdict};
use bulkhead_datapath::Live;
use bulkhead_policy::{
    Asked, Compiled, OneEnd, Place, Policy, describe_peer, nearest_rule, protocol_name, service,
};

use super::{enforcement::Held, guard};
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

/// Those that pass by the policy before, in words: first what must not be cut by surprise. `caller`: the process that asks.
pub(super) fn cut(
    refused: Vec<Refused>,
    old: &Held,
    new: &Policy,
    caller: Option<u32>,
    now_ns: u64,
) -> Vec<Cut> {
    if refused.is_empty() {
        return Vec::new();
    }
    let compiled = old.compiled();
    let session = guard::ancestors(caller);
    let passes = |refused: &Refused| {
        judge(&refused.live, old, &compiled, now_ns)
            .is_none_or(|(_, now)| severity(now.verdict) < severity(refused.decision.verdict))
    };
    let cut = refused.into_iter().filter(passes).map(|refused| refused.in_words(new, &session, now_ns));
    let mut cut: Vec<Cut> = cut.collect();
    cut.sort_by_key(|cut| (cut.verdict != "denied", cut.guard.is_none(), cut.workload.clone()));
    cut
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
    fn in_words(self, policy: &Policy, session: &[u32], now_ns: u64) -> Cut {
        let Self { live, end, decision } = self;
        let name = |pid: &u32| Process { pid: *pid, comm: guard::comm(*pid).unwrap_or_default() };
        let processes: Vec<Process> = live.pids.iter().map(name).collect();
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
            guard: guard::of(&live, &processes, session).map(str::to_owned),
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

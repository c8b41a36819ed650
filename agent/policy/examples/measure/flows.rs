//! What the agents of a site write into their histories: mostly what its rules allow, every few seconds again.

use std::net::IpAddr;

use bulkhead_common::Protocol;
use bulkhead_policy::{End, Policy, WorkloadId, describe_peer, protocol_name, service};
use bulkhead_report::{Flow, FlowEnd, FlowKind, FlowPeer, Rule};
use jiff::{SignedDuration, Timestamp};

use crate::site::Numbers;

/// How many others a workload tries to reach that it may not.
const OTHERS: usize = 10;

/// Flows without end, of which hardly two have the same numbers; the same ones every time.
pub(crate) struct Flows<'p> {
    policy: &'p Policy,
    numbers: Numbers,
    time: Timestamp,
}

impl<'p> Flows<'p> {
    pub(crate) fn new(policy: &'p Policy) -> Self {
        Self { policy, numbers: Numbers(3), time: Timestamp::constant(1_795_291_200, 0) }
    }

    fn index(&mut self, end: usize) -> usize {
        usize::try_from(self.numbers.below(end as u64)).unwrap_or(0)
    }

    fn end(&self, workload: WorkloadId) -> FlowEnd {
        let workload = &self.policy.workloads[workload.0];
        let environment = workload.environment.map(|id| self.policy.environments[id.0].name.clone());
        FlowEnd { name: Some(workload.name.clone()), environment }
    }

    /// What a rule allows, as the one end of it counts it or the other.
    fn allowed(&mut self) -> Option<FlowKind> {
        let rule = &self.policy.rules[self.index(self.policy.rules.len())];
        let (&[End::Workload(from)], [to]) = (&rule.from[..], &rule.to[..]) else { return None };
        let port = rule.ports.first()?.spans().first()?.first;
        let (direction, workload, peer) = match to {
            End::Workload(to) if self.numbers.below(2) == 0 => ("ingress", *to, self.workload_peer(from)),
            End::Workload(to) => ("egress", from, self.workload_peer(*to)),
            End::Cidr(range) => {
                let like = IpAddr::from(range.first());
                let environment = describe_peer(self.policy, like).1.map(str::to_owned);
                let around = environment.iter().map(|name| format!("env:{name}"));
                let is = Some(around.chain([range.to_string()]).collect());
                ("egress", from, FlowPeer { environment, is, like: Some(like), ..FlowPeer::default() })
            }
            _ => return None,
        };
        let (file, line) = (rule.place.file.to_string(), rule.place.line);
        Some(FlowKind {
            verdict: "allowed",
            direction,
            protocol: protocol_name(Protocol::TCP),
            service: service(Protocol::TCP, port),
            workload: self.end(workload),
            peer,
            rule: Some(Rule { id: rule.id.clone(), file, line }),
            reason: "rule",
            generation: 12,
        })
    }

    /// A workload that tries what no rule allows: with everybody else, or another workload.
    fn refused(&mut self) -> FlowKind {
        let workload = WorkloadId(self.index(self.policy.workloads.len()));
        let peer = if self.numbers.below(2) == 0 {
            FlowPeer { is: Some(Vec::new()), ..FlowPeer::default() }
        } else {
            let other = workload.0 + 1 + self.index(OTHERS);
            self.workload_peer(WorkloadId(other % self.policy.workloads.len()))
        };
        let port = [22, 53, 80, 443, 3_306, 5_432, 6_379, 8_080][self.index(8)];
        FlowKind {
            verdict: "denied",
            direction: "egress",
            protocol: protocol_name(Protocol::TCP),
            service: service(Protocol::TCP, port),
            workload: self.end(workload),
            peer,
            rule: None,
            reason: "no-rule",
            generation: 12,
        }
    }

    fn workload_peer(&self, workload: WorkloadId) -> FlowPeer {
        let FlowEnd { name, environment } = self.end(workload);
        FlowPeer { is: Some(name.iter().cloned().collect()), name, environment, ..FlowPeer::default() }
    }
}

impl Iterator for Flows<'_> {
    type Item = Flow;

    fn next(&mut self) -> Option<Flow> {
        let kind = if self.numbers.below(10) == 0 { None } else { self.allowed() };
        let kind = kind.unwrap_or_else(|| self.refused());
        self.time += SignedDuration::from_micros(self.numbers.below(2_000).cast_signed());
        let is_refused = kind.rule.is_none();
        let connections = 1 + self.numbers.below(20);
        let packets = connections * (1 + self.numbers.below(200));
        Some(Flow {
            time: self.time,
            since: self.time - SignedDuration::from_secs(2),
            kind,
            count: connections,
            calls: if is_refused { connections } else { 0 },
            packets: if is_refused { 0 } else { packets },
            bytes: if is_refused { 0 } else { packets * (60 + self.numbers.below(1_000)) },
            connections: if is_refused { 0 } else { connections },
            first_seen: Timestamp::constant(1_795_204_800, 0),
            last_seen: self.time - SignedDuration::from_millis(300),
        })
    }
}

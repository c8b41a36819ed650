//! Rules that open nothing.

use bulkhead_common::Protocol;

use super::super::{Cidr, End, Mode, Peer, Policy, Ports, WorkloadId};
use crate::text::{Code, Diagnostic, Findings};

pub(super) fn rules(policy: &Policy, findings: &mut Findings) {
    let ends = Ends::new(policy);
    let any_open = (0..policy.workloads.len()).any(|w| isolated(policy, WorkloadId(w)) != [true; 2]);
    for rule in &policy.rules {
        let sides = [&rule.from[..], &rule.to[..]];
        let (why, help) = if !sides.iter().any(|side| ends.name_workload(side)) {
            // An environment behind interfaces is asked by the router, not by a workload.
            if sides.iter().any(|side| ends.are_routed(side)) {
                continue;
            }
            let help = "name a workload, or an environment that has one, at one end";
            ("neither end is a workload".to_owned(), help)
        } else if let Some(why) = sides.iter().find_map(|side| ends.are_nobody(side)) {
            (why, "remove it, or say who is meant")
        } else if let Some(name) = ends.one_workload(sides) {
            (format!("`{name}` may always reach itself"), "remove it, or name who else is meant")
        } else if let Some(family) = ends.other_family(sides, &rule.ports) {
            let help = "\"icmp\" is ICMP of both families; \"icmpv6\" and types by their number are of one";
            (format!("only {family} is at one end"), help)
        } else if any_open && !sides.iter().zip([0, 1]).any(|(side, n)| ends.are_isolated(side, n)) {
            let help = "remove it, or isolate the workload that it names";
            ("what it opens is open without it".to_owned(), help)
        } else {
            continue;
        };
        let fault = format!("rule `{}` opens nothing: {why}", rule.id);
        findings.add(Diagnostic::warning(Code::IdleRule, &rule.place, fault).help(help));
    }
}

/// Is the workload's egress isolated, and its ingress?
fn isolated(policy: &Policy, w: WorkloadId) -> [bool; 2] {
    let workload = &policy.workloads[w.0];
    [workload.egress_open, workload.ingress_open].map(|open| !open && policy.mode(w) != Mode::Off)
}

/// In which families somebody may have addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Families {
    v4: bool,
    v6: bool,
}

impl Families {
    const BOTH: Self = Self { v4: true, v6: true };
    const NONE: Self = Self { v4: false, v6: false };

    fn of(cidrs: &[Cidr]) -> Self {
        Self { v4: cidrs.iter().any(|c| c.is_v4()), v6: cidrs.iter().any(|c| !c.is_v4()) }
    }

    fn of_peer(peer: &Peer) -> Self {
        if peer.names.is_empty() { Self::of(&peer.cidrs) } else { Self::BOTH }
    }

    fn of_ports(ports: &[Ports]) -> Self {
        let all = |protocol| {
            !ports.is_empty() && ports.iter().flat_map(Ports::spans).all(|s| s.protocol == protocol)
        };
        Self { v4: !all(Protocol::ICMPV6), v6: !all(Protocol::ICMP) }
    }

    fn or(self, other: Self) -> Self {
        Self { v4: self.v4 || other.v4, v6: self.v6 || other.v6 }
    }

    fn and(self, other: Self) -> Self {
        Self { v4: self.v4 && other.v4, v6: self.v6 && other.v6 }
    }
}

/// Whom the ends of rules name, as far as the policy tells.
struct Ends<'p> {
    policy: &'p Policy,
    environments: Vec<Members>,
}

/// Who is in an environment.
struct Members {
    has_workload: bool,
    /// Is the egress of one of them isolated, and somebody's ingress?
    isolated: [bool; 2],
    families: Families,
}

impl<'p> Ends<'p> {
    fn new(policy: &'p Policy) -> Self {
        let own = policy.environments.iter().map(|e| {
            let routed = if e.interfaces.is_empty() { Families::NONE } else { Families::BOTH };
            let families = routed.or(Families::of(&e.cidrs));
            Members { has_workload: false, isolated: [false; 2], families }
        });
        let mut environments: Vec<_> = own.collect();
        for (n, workload) in policy.workloads.iter().enumerate() {
            let Some(environment) = workload.environment else { continue };
            let members = &mut environments[environment.0];
            let [egress, ingress] = isolated(policy, WorkloadId(n));
            members.isolated = [members.isolated[0] || egress, members.isolated[1] || ingress];
            (members.has_workload, members.families) = (true, Families::BOTH);
        }
        for peer in &policy.peers {
            let Some(environment) = peer.environment else { continue };
            let members = &mut environments[environment.0];
            members.families = members.families.or(Families::of_peer(peer));
        }
        Self { policy, environments }
    }

    fn name_workload(&self, ends: &[End]) -> bool {
        ends.iter().any(|end| match end {
            End::Workload(_) => true,
            End::Environment(e) => self.environments[e.0].has_workload,
            _ => false,
        })
    }

    /// Is the egress (0) or ingress (1) of a workload among them isolated?
    fn are_isolated(&self, ends: &[End], side: usize) -> bool {
        ends.iter().any(|end| match end {
            End::Workload(w) => isolated(self.policy, *w)[side],
            End::Environment(e) => self.environments[e.0].isolated[side],
            _ => false,
        })
    }

    fn are_routed(&self, ends: &[End]) -> bool {
        let is_routed = |end: &End| matches!(end, End::Environment(e) if !self.policy.environments[e.0].interfaces.is_empty());
        ends.iter().any(is_routed)
    }

    fn families(&self, end: End) -> Families {
        match end {
            End::Cidr(cidr) => Families::of(&[cidr]),
            End::Peer(p) => Families::of_peer(&self.policy.peers[p]),
            End::Environment(e) => self.environments[e.0].families,
            End::Any | End::Host | End::Dns | End::Private | End::Internet | End::Workload(_) => {
                Families::BOTH
            }
        }
    }

    fn families_of(&self, ends: &[End]) -> Families {
        ends.iter().fold(Families::NONE, |all, end| all.or(self.families(*end)))
    }

    /// Why there is nobody at this side, if so.
    fn are_nobody(&self, ends: &[End]) -> Option<String> {
        let first = ends.first().filter(|_| self.families_of(ends) == Families::NONE)?;
        Some(match first {
            End::Environment(e) => format!("nobody is in `{}`", self.policy.environments[e.0].name),
            other => format!("`{}` has no address and no name", self.policy.end_name(*other)),
        })
    }

    /// The workload that both sides name and nobody else.
    fn one_workload(&self, sides: [&[End]; 2]) -> Option<&str> {
        match sides {
            [[End::Workload(from)], [End::Workload(to)]] if from == to => {
                Some(&self.policy.workloads[from.0].name)
            }
            _ => None,
        }
    }

    /// The family of one side, if none of the ports is of it.
    fn other_family(&self, sides: [&[End]; 2], ports: &[Ports]) -> Option<&'static str> {
        let asked = Families::of_ports(ports);
        sides.into_iter().map(|side| self.families_of(side)).find_map(|side| match side {
            _ if side.and(asked) != Families::NONE => None,
            Families { v4: true, .. } => Some("IPv4"),
            _ => Some("IPv6"),
        })
    }
}

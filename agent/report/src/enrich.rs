//! From the kernel's record to everything that is known of a refusal.

use std::{fmt, net::IpAddr, path::Path, sync::Arc};

use bulkhead_common::{Departure, Direction, Event, Protocol, Reason, RuleId, Started, SubjectId, Verdict};
use bulkhead_policy::{Asked, NearRules, Place, Policy, WorkloadId, describe_peer, protocol_name, service};

use crate::{
    Denial, Departed, NearestRule, Peer, Policies, Process, Rule, Workload, clock, process,
    socket::NamedSocket, unit::unit_of,
};

/// Finds the path of a cgroup by its id; the process may be asked, unless it is 0.
type PathOfCgroup = dyn Fn(u64, u32) -> Option<String> + Send;

/// Makes denials of records.
pub struct Enricher {
    policies: Policies,
    path_of_cgroup: Box<PathOfCgroup>,
    programs: process::Programs,
    /// Rules of the policy by which something was refused last.
    near: Option<(Arc<Policy>, NearRules)>,
}

impl fmt::Debug for Enricher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Enricher").finish_non_exhaustive()
    }
}

impl Enricher {
    /// For records of generations compiled from these policies; of others nothing is named. `path_of_cgroup` gets a cgroup's
    /// id and the process that made the call, or 0.
    pub fn new(
        policies: Policies,
        path_of_cgroup: impl Fn(u64, u32) -> Option<String> + Send + 'static,
    ) -> Self {
        let programs = process::Programs::default();
        Self { policies, path_of_cgroup: Box::new(path_of_cgroup), programs, near: None }
    }

    /// Goes once through all that a look-up does, for a process that is there. The first refused program may be gone
    /// before a look-up that still has to be read from disk, page by page, has begun.
    pub fn warm_up(&mut self) {
        let event = Event {
            pid: std::process::id(),
            time: 1,
            subject: 1,
            verdict: Verdict::Denied as u8,
            reason: Reason::NoRule as u8,
            generation: self.policies.last(),
            ..bytemuck::Zeroable::zeroed()
        };
        let _line = self.look_up(&event);
    }

    /// Notes what a process runs, as it begins: if it ends before it can be looked up, that is what it was.
    pub fn note(&mut self, started: &Started) {
        if (self.path_of_cgroup)(started.cgroup, 0).is_some() {
            self.programs.note(started.pid);
        }
    }

    /// A process that was moved out of its workload, in words.
    pub fn departure(&self, departure: &Departure) -> Departed {
        let path = |cgroup, pid| (self.path_of_cgroup)(cgroup, pid);
        let policy = self.policies.of(departure.generation).unwrap_or_default();
        let name = |subject| workload(&policy, subject).map(|workload| names(&policy, workload).0);
        Departed {
            pid: departure.pid,
            comm: command(departure.comm.bytes()),
            from: name(departure.from_subject),
            from_cgroup: path(departure.from, 0),
            to: name(departure.to_subject),
            to_cgroup: path(departure.to, departure.pid),
            by_pid: departure.by,
            by_comm: command(departure.by_comm.bytes()),
        }
    }

    /// What is known of this record, looked up now: in a moment the process may be gone. None if the record makes no
    /// sense, as of programs of another version.
    pub fn look_up(&mut self, event: &Event) -> Option<Denial> {
        let process = (event.pid != 0).then(|| Process {
            pid: event.pid,
            comm: command(event.comm.bytes()),
            exe: process::exe(event.pid, event.time).or_else(|| self.programs.path(event.pid)),
            uid: event.uid,
        });
        let reason = *Reason::ALL.get(usize::from(event.reason))?;
        let (verdict, mode) = match event.verdict {
            v if v == Verdict::Denied as u8 => ("denied", "enforce"),
            v if v == Verdict::WouldDeny as u8 => ("would-deny", "audit"),
            _ => return None,
        };
        let direction = match event.direction {
            d if d == Direction::Egress as u8 => Direction::Egress,
            d if d == Direction::Ingress as u8 => Direction::Ingress,
            _ => return None,
        };
        let protocol = Protocol(event.protocol);
        let address = IpAddr::from(event.peer_address);
        let asked_for = NamedSocket::of(event);
        let of_generation = self.policies.of(event.generation).unwrap_or_default();
        let policy = &*of_generation;
        let subject = workload(policy, event.subject);
        let peer_workload = workload(policy, event.peer_subject);
        let asked = subject.map(|subject| Asked {
            direction,
            subject,
            peer_workload,
            // The socket of an unidentified cgroup names nobody: what its address allows is not asked.
            peer_address: (event.peer_cgroup == 0).then_some(address),
            peer_is: &[],
            protocol,
            port: event.port,
            now_ns: clock::now(),
        });
        Some(Denial {
            time: clock::time_of_day(event.time),
            verdict,
            mode,
            direction: match direction {
                Direction::Egress => "egress",
                Direction::Ingress => "ingress",
            },
            protocol: match &asked_for {
                Some(socket) => socket.protocol.clone(),
                None => protocol_name(protocol),
            },
            workload: self.local_end(policy, event, subject),
            process,
            peer: match &asked_for {
                Some(_) => Peer { address: None, port: None, name: None, environment: None },
                None => other_end(policy, event, peer_workload, address, protocol),
            },
            rule: rule(policy, event.rule),
            reason: reason.name(),
            nearest_rule: asked
                .filter(|_| matches!(reason, Reason::NoRule | Reason::Expired))
                .and_then(|asked| self.near_rules(&of_generation).nearest(policy, &asked))
                .and_then(|nearest| {
                    Some(NearestRule {
                        rule: rule(policy, u32::try_from(nearest.rule).ok()?)?,
                        differs: nearest.differs,
                    })
                }),
            count: 1,
            suppressed: 0,
            generation: event.generation,
            service: asked_for.map_or_else(|| service(protocol, event.port), |socket| socket.service),
        })
    }

    /// The rules of a policy by their ends: found once, not for each refusal.
    fn near_rules(&mut self, policy: &Arc<Policy>) -> &NearRules {
        self.near.take_if(|(known, _)| !Arc::ptr_eq(known, policy));
        let (_, near) = self.near.get_or_insert_with(|| (Arc::clone(policy), NearRules::new(policy)));
        near
    }

    fn local_end(&self, policy: &Policy, event: &Event, subject: Option<WorkloadId>) -> Workload {
        let (name, environment) = subject.map(|s| names(policy, s)).unzip();
        let cgroup = (self.path_of_cgroup)(event.cgroup, event.pid);
        let unit = cgroup.as_deref().and_then(unit_of).map(str::to_owned);
        Workload { name, environment: environment.flatten(), cgroup, unit }
    }
}

pub(crate) fn workload(policy: &Policy, subject: u32) -> Option<WorkloadId> {
    let known = subject != SubjectId::NONE.0 && subject != SubjectId::UNIDENTIFIED.0;
    let index = usize::try_from(subject.checked_sub(1)?).ok()?;
    (known && index < policy.workloads.len()).then_some(WorkloadId(index))
}

/// Name and environment of a workload.
pub(crate) fn names(policy: &Policy, workload: WorkloadId) -> (String, Option<String>) {
    let workload = &policy.workloads[workload.0];
    let environment = workload.environment.map(|e| policy.environments[e.0].name.clone());
    (workload.name.clone(), environment)
}

fn other_end(
    policy: &Policy,
    event: &Event,
    workload: Option<WorkloadId>,
    address: IpAddr,
    protocol: Protocol,
) -> Peer {
    let (name, environment) = if let Some(workload) = workload {
        let (name, environment) = names(policy, workload);
        (Some(name), environment)
    } else {
        let (name, environment) = describe_peer(policy, address);
        (name.map(str::to_owned), environment.map(str::to_owned))
    };
    Peer { address: Some(address), port: protocol.has_ports().then_some(event.peer_port), name, environment }
}

pub(crate) fn rule(policy: &Policy, rule: u32) -> Option<Rule> {
    if rule == RuleId::NONE.0 {
        return None;
    }
    let rule = policy.rules.get(usize::try_from(rule).ok()?)?;
    Some(Rule { id: rule.id.clone(), file: file_name(&rule.place), line: rule.place.line })
}

/// Reports name the file without its folder: that is the same on every host.
fn file_name(place: &Place) -> String {
    let path = Path::new(&*place.file);
    path.file_name().map_or_else(|| place.file.to_string(), |name| name.to_string_lossy().into_owned())
}

/// A command name, NUL-padded.
fn command(comm: &[u8]) -> String {
    let end = comm.iter().position(|byte| *byte == 0).unwrap_or(comm.len());
    String::from_utf8_lossy(&comm[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bulkhead_common::Address;
    use bulkhead_policy::{Source, load};

    use super::*;

    #[test]
    fn what_the_address_of_an_unidentified_cgroup_would_be_allowed_is_not_near() {
        let text = r#"
            [workload.web]
            select = { cgroup = "/web" }
            [[allow]]
            id = "web-host"
            from = "web"
            to = "host"
        "#;
        let policies = Policies::default();
        let policy = load(&[Source::new("p.toml", text)]).unwrap().policy;
        policies.note(7, Arc::new(policy), BTreeMap::new());
        let event = Event {
            generation: 7,
            subject: 1,
            peer_subject: SubjectId::UNIDENTIFIED.0,
            peer_cgroup: 4711,
            peer_address: Address::v4([127, 0, 0, 1]),
            protocol: Protocol::TCP.0,
            port: 80,
            verdict: Verdict::Denied as u8,
            reason: Reason::NoRule as u8,
            ..bytemuck::Zeroable::zeroed()
        };
        let denial = Enricher::new(policies, |_, _| None).look_up(&event).unwrap();
        let nearest = denial.nearest_rule.unwrap();
        assert_eq!((nearest.rule.id.as_str(), nearest.differs), ("web-host", vec!["to"]));
    }
}

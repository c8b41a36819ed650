//! A policy as recorded flows are put to it.

use std::net::Ipv4Addr;

use bulkhead_common::{Address, Decision, Flow as Asked, Peer, PeerId, RuleId, SubjectId, Verdict};

use super::{
    Flow, Simulation,
    names::{Name, Names, Table},
};
use crate::{
    compile::{Compiled, Compiler},
    flow_record::Is,
    inventory::Inventory,
    language::{End, Policy, WorkloadId},
    one_end::OneEnd,
};

/// A compiled policy, and the classes of those whom it names and records know by no address of theirs.
pub(super) struct Judge {
    compiled: Compiled,
    dns: PeerId,
    host: PeerId,
    /// Of peers that have DNS names.
    named: Table<Name, PeerId>,
}

/// Where an end is whose address is not recorded: on this host.
const HERE: Address = Address::v4(Ipv4Addr::LOCALHOST.octets());

impl Judge {
    pub(super) fn new(policy: &Policy, inventory: &Inventory, all_names: &mut Names) -> Self {
        let mut compiler = Compiler::new(policy, inventory.clone());
        let (dns, host) = (compiler.class_of(&[End::Dns]), compiler.class_of(&[End::Host]));
        let mut named = Table::default();
        for (n, peer) in policy.peers.iter().enumerate().filter(|(_, peer)| !peer.names.is_empty()) {
            let name = all_names.number(peer.name.as_bytes());
            if name != Names::OTHERS {
                named.insert(name, compiler.class_of(&[End::Peer(n)]));
            }
        }
        Self { compiled: compiler.compiled(), dns, host, named }
    }

    /// What comes of the flows at their own ends. None: its own end is no workload, and is left alone.
    pub(super) fn verdicts(
        &self,
        flows: &[Flow],
        workload: impl Fn(Name) -> Option<WorkloadId>,
    ) -> [Option<Verdict>; Simulation::AT_ONCE] {
        let mut verdicts = [None; Simulation::AT_ONCE];
        let mut numbers = Vec::with_capacity(flows.len());
        let mut ends = Vec::with_capacity(flows.len());
        for (n, flow) in flows.iter().enumerate() {
            let Flow { direction, peer_address, protocol, port, now_ns, .. } = *flow;
            if let Some(own) = workload(flow.own) {
                let peer = flow.peer.and_then(&workload);
                let peer_address = peer_address.unwrap_or(HERE);
                numbers.push(n);
                ends.push((OneEnd { own, direction, peer, peer_address, protocol, port }, now_ns));
            }
        }
        let found: [Verdict; Simulation::AT_ONCE] = self.compiled.verdicts(&ends);
        for ((n, (end, _)), verdict) in numbers.into_iter().zip(ends).zip(found) {
            let flow = &flows[n];
            verdicts[n] = Some(match verdict {
                Verdict::Allowed => verdict,
                _ if flow.unjudged.is_some() => self.unjudged(&end, flow),
                _ if self.is_also_known(&end, flow) => Verdict::Allowed,
                _ => verdict,
            });
        }
        verdicts
    }

    /// What comes of a flow where no policy has a say: the reason for it, as the end's mode has it.
    fn unjudged(&self, end: &OneEnd, flow: &Flow) -> Verdict {
        let local = &self.compiled.endpoints[end.own.0];
        flow.unjudged.map_or(Verdict::Denied, |reason| Decision::new(local, reason, RuleId::NONE).verdict)
    }

    /// May the flow pass for what else the record tells of the other end?
    fn is_also_known(&self, end: &OneEnd, flow: &Flow) -> bool {
        let Is { of_address, dns, host } = flow.peer_is;
        let named = flow.peer.and_then(|name| self.named.get(&name)).copied();
        // A workload that is known by its own address, and not by its socket.
        let by_address =
            (of_address && end.peer.is_some()).then(|| self.compiled.peer(end.peer_address).class);
        let classes = [dns.then_some(self.dns), host.then_some(self.host), named, by_address];
        classes.into_iter().flatten().filter(|class| *class != PeerId::NONE).any(|class| {
            let peer = Peer { subject: SubjectId::NONE, class };
            let asked = Asked { direction: end.direction, protocol: end.protocol, port: end.port, peer };
            self.compiled.judge(end.own, &asked, flow.now_ns).verdict == Verdict::Allowed
        })
    }
}

//! What the operator must know where the kernel does not refuse sockets whose packets pass by the programs.

use bulkhead_datapath::Unguarded;
use bulkhead_policy::{Mode, Policy};
use bulkhead_workloads::{Capable, Listed, with_raw_packets};

/// How many processes a warning names.
const NAMED: usize = 8;

/// Processes that could use such sockets.
pub(super) type Capables = (Vec<Capable>, bool);

/// Why they are not refused, and to whom.
#[derive(Debug)]
pub(super) struct Unseen {
    why: Unguarded,
    capable: Capables,
}

impl Unseen {
    pub(super) fn new(why: Unguarded, capable: Capables) -> Self {
        Self { why, capable }
    }

    pub(super) fn update(&mut self, capable: Capables) {
        self.capable = capable;
    }

    pub(super) fn warning(&self, policy: &Policy) -> String {
        let (named, more) = &self.capable;
        let who = if named.is_empty() {
            "No process of a workload has CAP_NET_RAW now, without which packet sockets cannot be made"
                .to_owned()
        } else {
            let processes = named.iter().map(|process| {
                let workload = &policy.workloads[process.workload.0].name;
                format!("{}[{}] of {workload}", process.comm, process.pid)
            });
            let and_more = if *more { " and more" } else { "" };
            format!(
                "These could send any packet, since they have CAP_NET_RAW: {}{and_more}. Take it from them",
                processes.collect::<Vec<_>>().join(", ")
            )
        };
        format!("packet sockets, vsock, TUN and the like are not refused to workloads: {}. {who}", self.why)
    }
}

/// The processes of isolated workloads that could, among those in `cgroups`.
pub(super) fn capable(policy: &Policy, cgroups: &[Listed]) -> Capables {
    let isolated = cgroups.iter().filter(|cgroup| {
        let workload = &policy.workloads[cgroup.workload.0];
        policy.mode(cgroup.workload) != Mode::Off && !(workload.egress_open && workload.ingress_open)
    });
    with_raw_packets(isolated, NAMED)
}

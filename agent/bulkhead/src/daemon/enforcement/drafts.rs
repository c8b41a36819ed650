//! The rule that would allow what was refused.

use std::net::IpAddr;

use bulkhead_common::Direction;
use bulkhead_policy::{OneEnd, Policy, Ports, draft};
use jiff::Timestamp;

use super::Enforcement;
use crate::{
    control::{Drafted, Refusal, Refused, Reply},
    daemon::priority,
};

impl Enforcement {
    /// Drafts a rule, on another thread: the policy is compiled for it. Who asked may be gone.
    pub(in crate::daemon) fn tell_draft(&self, refused: &Refused, to: Reply<Drafted>) {
        let held = self.in_force();
        let end = match end(held.policy(), refused) {
            Ok(end) => end,
            Err(error) => return drop(to.send(Err(refusal(error)))),
        };
        let (sources, inventory) = (held.sources().to_vec(), held.inventory().clone());
        tokio::task::spawn_blocking(move || {
            priority::ordinary();
            let now = u64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(u64::MAX);
            let drafted = draft(&sources, &inventory, &end, now);
            let drafted = drafted.map(|draft| Drafted { text: draft.text, words: draft.words });
            let _ = to.send(drafted.map_err(|why| refusal(why.to_string())));
        });
    }
}

fn refusal(error: String) -> Refusal {
    Refusal { error, ..Refusal::default() }
}

/// What was refused, in terms of the policy in force; or what it does not know.
fn end(policy: &Policy, refused: &Refused) -> Result<OneEnd, String> {
    let Refused { workload, direction, service, peer_address, peer_name } = refused;
    let own = policy
        .workload(workload)
        .ok_or_else(|| format!("the policy in force has no workload {workload:?} (any more)"))?;
    let direction = match direction.as_str() {
        "egress" => Direction::Egress,
        "ingress" => Direction::Ingress,
        other => return Err(format!("the direction {other:?} is neither egress nor ingress")),
    };
    let ports: Ports =
        service.parse().map_err(|_| format!("{service:?} is no service that a rule could name"))?;
    // `icmp/8` is all codes of a type, and whatever has no ports all of them: any of it stands for it.
    let span = ports.spans().first().ok_or("no service")?;
    let address: IpAddr = peer_address.parse().map_err(|_| format!("{peer_address:?} is no address"))?;
    Ok(OneEnd {
        own,
        direction,
        peer: peer_name.as_deref().and_then(|name| policy.workload(name)),
        peer_address: address.into(),
        protocol: span.protocol,
        port: span.first,
    })
}

//! The reference (docs/policy.md) read word by word. Nothing but types is shared with the compiler.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bulkhead_common::{Direction, Reason, Verdict};
use bulkhead_policy::{Cidr, End, EnvironmentId, Inventory, Mode, Policy, Ports, WorkloadId};
use bulkhead_worlds::Packet;

/// What must come of a packet, and the rules that may be named as the cause.
pub(crate) struct Answer {
    pub(crate) verdict: Verdict,
    pub(crate) reason: Reason,
    pub(crate) rules: Vec<usize>,
}

pub(crate) fn evaluate(policy: &Policy, inventory: &Inventory, packet: &Packet) -> Answer {
    let allowed = |reason| Answer { verdict: Verdict::Allowed, reason, rules: vec![] };
    let local = &policy.workloads[packet.local.0];
    let mode = local.environment.map_or(Mode::Enforce, |e| policy.environments[e.0].mode);
    let open = match packet.direction {
        Direction::Egress => local.egress_open,
        Direction::Ingress => local.ingress_open,
    };
    if open || mode == Mode::Off {
        return allowed(Reason::NotIsolated);
    }
    let who = packet.socket.or_else(|| owner(inventory, packet.address?));
    if who == Some(packet.local) {
        return allowed(Reason::SameWorkload);
    }
    let matching: Vec<usize> = (0..policy.rules.len())
        .filter(|r| {
            let rule = &policy.rules[*r];
            let (own, far) = match packet.direction {
                Direction::Egress => (&rule.from, &rule.to),
                Direction::Ingress => (&rule.to, &rule.from),
            };
            own.iter().any(|end| names(policy, *end, packet.local))
                && far.iter().any(|end| {
                    *end == End::Any
                        || match (packet.socket, packet.address) {
                            // On one host addresses tell no workloads apart.
                            (Some(workload), _) => names(policy, *end, workload),
                            (None, address) => address.is_some_and(|ip| holds(policy, inventory, *end, ip)),
                        }
                })
                && (rule.ports.is_empty()
                    || rule.ports.iter().flat_map(Ports::spans).any(|s| {
                        s.protocol == packet.protocol && s.first <= packet.port && packet.port <= s.last
                    }))
        })
        .collect();
    let current = |r: &usize| policy.rules[*r].expires.is_none_or(|end| packet.now_ns < end);
    let holding: Vec<usize> = matching.iter().copied().filter(current).collect();
    if !holding.is_empty() {
        return Answer { verdict: Verdict::Allowed, reason: Reason::Rule, rules: holding };
    }
    let reason = if matching.is_empty() { Reason::NoRule } else { Reason::Expired };
    let verdict = if mode == Mode::Audit { Verdict::WouldDeny } else { Verdict::Denied };
    Answer { verdict, reason, rules: matching }
}

/// Does a rule's end name a workload?
fn names(policy: &Policy, end: End, workload: WorkloadId) -> bool {
    match end {
        End::Workload(w) => w == workload,
        End::Environment(e) => policy.workloads[workload.0].environment == Some(e),
        End::Any | End::Host | End::Dns | End::Private | End::Internet | End::Peer(_) | End::Cidr(_) => false,
    }
}

/// The workload that has the address to itself.
fn owner(inventory: &Inventory, ip: IpAddr) -> Option<WorkloadId> {
    if loopback(ip) || ip.is_unspecified() { None } else { inventory.addresses.get(&ip).copied().flatten() }
}

/// Does a rule's end name whoever has this address?
fn holds(policy: &Policy, inventory: &Inventory, end: End, ip: IpAddr) -> bool {
    match end {
        End::Any => true,
        End::Host => {
            let local = inventory.local.contains(&ip) && !ip.is_unspecified();
            loopback(ip) || (local && !inventory.addresses.contains_key(&ip))
        }
        End::Dns => inventory.resolvers.contains(&ip),
        End::Private => private(ip),
        End::Internet => internet(ip),
        End::Workload(w) => owner(inventory, ip) == Some(w),
        End::Environment(e) => environment(policy, inventory, ip) == Some(e),
        End::Peer(p) => {
            let peer = &policy.peers[p];
            peer.cidrs.iter().any(|c| inside(*c, ip))
                || peer.names.iter().any(|n| inventory.names.get(n).is_some_and(|ips| ips.contains(&ip)))
        }
        End::Cidr(cidr) => inside(cidr, ip),
    }
}

/// The environment of the workload that has the address to itself; else that of the narrowest range that holds it
/// and is in one; none if two environments have that range.
fn environment(policy: &Policy, inventory: &Inventory, ip: IpAddr) -> Option<EnvironmentId> {
    if let Some(e) = owner(inventory, ip).and_then(|w| policy.workloads[w.0].environment) {
        return Some(e);
    }
    let mut ranges: Vec<(u8, EnvironmentId)> = Vec::new();
    for (n, e) in policy.environments.iter().enumerate() {
        ranges.extend(e.cidrs.iter().filter(|c| inside(**c, ip)).map(|c| (c.prefix_len(), EnvironmentId(n))));
    }
    for peer in &policy.peers {
        let Some(e) = peer.environment else { continue };
        ranges.extend(peer.cidrs.iter().filter(|c| inside(**c, ip)).map(|c| (c.prefix_len(), e)));
        let resolved = peer.names.iter().filter_map(|n| inventory.names.get(n)).any(|ips| ips.contains(&ip));
        ranges.extend(resolved.then_some((128, e)));
    }
    let narrowest = ranges.iter().map(|(len, _)| *len).max()?;
    let mut environments = ranges.iter().filter(|(len, _)| *len == narrowest).map(|(_, e)| *e);
    let first = environments.next();
    environments.all(|e| Some(e) == first).then_some(first).flatten()
}

fn inside(cidr: Cidr, ip: IpAddr) -> bool {
    // The text is what an author reads.
    let text = cidr.to_string();
    let (first, len) =
        text.split_once('/').map_or((text.as_str(), None), |(a, l)| (a, l.parse::<u32>().ok()));
    match (first.parse().unwrap(), ip) {
        (IpAddr::V4(first), IpAddr::V4(ip)) => {
            let drop = 32 - len.unwrap_or(32);
            u64::from(u32::from(first)) >> drop == u64::from(u32::from(ip)) >> drop
        }
        (IpAddr::V6(first), IpAddr::V6(ip)) => {
            let drop = 128 - len.unwrap_or(128);
            drop == 128 || u128::from(first) >> drop == u128::from(ip) >> drop
        }
        _ => false,
    }
}

fn loopback(ip: IpAddr) -> bool {
    ip.is_loopback()
}

fn private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            ip.is_private() || ip.is_link_local() || (ip.octets()[0] == 100 && ip.octets()[1] >> 6 == 1)
        }
        IpAddr::V6(ip) => {
            ip.is_unique_local() || ip.is_unicast_link_local() || ip.segments()[..3] == [0x64, 0xff9b, 1]
        }
    }
}

fn internet(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let special = ip.octets()[0] == 0 || ip.is_loopback() || ip >= Ipv4Addr::new(224, 0, 0, 0);
            !special && !private(IpAddr::V4(ip))
        }
        IpAddr::V6(ip) => {
            let nat64 = ip.segments()[..6] == [0x64, 0xff9b, 0, 0, 0, 0];
            nat64 || (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0) <= ip && ip.segments()[0] < 0x4000)
        }
    }
}

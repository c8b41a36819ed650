//! What the policy's text says of an address.

use std::net::IpAddr;

use bulkhead_common::Address;

use crate::{
    compile::{Claim, Zone},
    language::{Cidr, End, EnvironmentId, Policy},
};

/// The most specific `[peer]` that holds the address, and the environment that the address is in.
pub fn describe_peer(policy: &Policy, ip: IpAddr) -> (Option<&str>, Option<&str>) {
    let address = Address::from(ip);
    let named =
        policy.peers.iter().filter_map(|p| narrowest(&p.cidrs, address).map(|len| (len, p.name.as_str())));
    // Of equals the first one: `max_by_key` takes the last.
    let name = named.rev().max_by_key(|(len, _)| *len).map(|(_, name)| name);
    let environment = environment_of(policy, address).map(|e| policy.environments[e.0].name.as_str());
    (name, environment)
}

/// The environment of the narrowest range that holds the address and is in one.
pub(crate) fn environment_of(policy: &Policy, address: Address) -> Option<EnvironmentId> {
    let own = policy.environments.iter().enumerate().map(|(n, e)| (EnvironmentId(n), &e.cidrs));
    let peers = policy.peers.iter().filter_map(|p| Some((p.environment?, &p.cidrs)));
    let mut best: Option<(u8, Claim<EnvironmentId>)> = None;
    for (environment, cidrs) in own.chain(peers) {
        let Some(len) = narrowest(cidrs, address) else { continue };
        best = match best {
            Some((held, _)) if held > len => best,
            Some((held, claim)) if held == len => Some((held, Claim::add(Some(claim), environment))),
            _ => Some((len, Claim::One(environment))),
        };
    }
    match best {
        Some((_, Claim::One(environment))) => Some(environment),
        Some((_, Claim::Several)) | None => None,
    }
}

/// Does `end` name the address, as far as the policy alone tells? `host` is loopback only, `dns` nothing.
pub(crate) fn names_address(policy: &Policy, end: End, address: Address) -> bool {
    match end {
        End::Any => true,
        End::Host => IpAddr::from(address).is_loopback(),
        End::Dns | End::Workload(_) => false,
        End::Private => Zone::of(address) == Zone::Private,
        End::Internet => Zone::of(address) == Zone::Internet,
        End::Environment(e) => environment_of(policy, address) == Some(e),
        End::Peer(p) => narrowest(&policy.peers[p].cidrs, address).is_some(),
        End::Cidr(cidr) => cidr.holds(address),
    }
}

fn narrowest(cidrs: &[Cidr], address: Address) -> Option<u8> {
    cidrs.iter().filter(|c| c.holds(address)).map(|c| c.prefix_len()).max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ip, policy};

    #[test]
    fn the_narrowest_range_names_an_address() {
        let p = policy(
            "[environment.lan]\ncidrs = [\"10.0.0.0/8\"]\n[environment.iot]\ncidrs = [\"10.40.0.0/16\"]\n\
             [peer.nas]\nenvironment = \"lan\"\ncidrs = [\"10.40.0.9\"]\n[peer.all]\ncidrs = [\"0.0.0.0/0\"]",
        );
        assert_eq!(describe_peer(&p, ip("10.40.0.9")), (Some("nas"), Some("lan")));
        assert_eq!(describe_peer(&p, ip("10.40.0.8")), (Some("all"), Some("iot")));
        assert_eq!(describe_peer(&p, ip("10.1.0.8")), (Some("all"), Some("lan")));
        assert_eq!(describe_peer(&p, ip("2001:4860::1")), (None, None));
    }
}

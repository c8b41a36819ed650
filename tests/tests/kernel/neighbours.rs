//! Neighbour discovery always works for the kernel, and for nobody who pretends to be it.

use std::net::IpAddr;

use anyhow::Result;
use bulkhead_tests::{
    probe::{Family, Kind},
    scene::PORT,
    verdicts::{allowed, at, refused},
};

use crate::{Case, site::Site};

pub(crate) const CASES: &[Case] = &[
    ("neighbours::only_the_kernels_own_discovery_needs_no_rule", only_the_kernels_own),
    ("neighbours::a_rule_lets_a_workload_discover", a_rule_lets_a_workload),
];

const ROUTER_SOLICITATION: u8 = 133;
const REDIRECT: u8 = 137;

/// All nodes of a link (RFC 4291 section 2.7.1).
const EVERYBODY_HERE: &str = "ff02::1";

/// A message of neighbour discovery without options (RFC 4861 section 4): type, code, checksum, and an address.
fn discovery(kind: u8) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    message.extend(std::net::Ipv6Addr::LOCALHOST.octets());
    message
}

fn only_the_kernels_own(site: &Site) -> Result<()> {
    let (lab, there) = (site.lab(), site.partner());
    let (app, partner) = (lab.probe("/app")?, lab.stranger(there)?);
    partner.serve(Kind::Udp, at(there.v6, PORT))?;
    let everybody: IpAddr = EVERYBODY_HERE.parse()?;
    let raw = app.open(Kind::RawIcmp, Family::V6)?;
    raw.limit_hops(255)?;
    for kind in ROUTER_SOLICITATION..=REDIRECT {
        let sent = raw.send_bytes(at(everybody, 0), discovery(kind))?;
        refused(&format!("app's own message of type {kind}"), sent)?;
    }
    // Nobody knows the partner's link-layer address any more: the kernel must ask for it.
    lab.host().ip("neigh flush dev lan0")?;
    allowed("a datagram to a neighbour", app.udp(at(there.v6, PORT))?)
}

fn a_rule_lets_a_workload(site: &Site) -> Result<()> {
    let everybody: IpAddr = EVERYBODY_HERE.parse()?;
    let neighbour = site.lab().probe("/neighbour")?;
    let raw = neighbour.open(Kind::RawIcmp, Family::V6)?;
    raw.limit_hops(255)?;
    for kind in ROUTER_SOLICITATION..=REDIRECT {
        let sent = raw.send_bytes(at(everybody, 0), discovery(kind))?;
        allowed(&format!("a message of type {kind} by a rule"), sent)?;
    }
    Ok(())
}

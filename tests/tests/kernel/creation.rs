//! Sockets that are refused as they are asked for: those of no use but to send what no rule allows, and those whose
//! packets no program sees.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use bulkhead_tests::{
    Place, Probe,
    probe::{Family, Kind},
    verdicts::{
        Checks,
        Expected::{self, Allowed, Refused},
        at,
    },
};
use serde_json::json;

use crate::{Case, Skip, site::Site};

pub(crate) const CASES: &[Case] = &[
    ("creation::a_raw_socket_needs_a_rule_for_its_protocol", raw_needs_a_rule),
    ("creation::a_refused_socket_is_reported_with_its_process", refused_socket_is_reported),
    ("creation::an_audited_workload_gets_its_raw_socket_and_a_report", audited_gets_its_raw_socket),
    ("creation::a_raw_socket_from_before_is_held_to_its_packets", raw_from_before),
    ("creation::what_no_program_sees_is_refused_by_the_security_hooks", unseen_is_refused),
    ("creation::a_tun_device_is_refused_by_the_security_hooks", tun_is_refused),
    ("creation::without_the_security_hooks_the_status_names_who_could", status_names_who_could),
];

const RAW: [(Kind, &str); 4] =
    [(Kind::RawIcmp, "icmp"), (Kind::RawTcp, "tcp/*"), (Kind::RawUdp, "udp/*"), (Kind::RawIp, "ip/255")];

fn raw_needs_a_rule(site: &Site) -> Result<()> {
    let lab = site.lab();
    // By kind as in `RAW`.
    let expected: [(&str, [Expected; 4]); 6] = [
        ("/six/nested", [Allowed; 4]),
        ("/ci", [Refused, Allowed, Allowed, Refused]),
        ("/web", [Allowed, Allowed, Allowed, Refused]),
        ("/app", [Allowed, Allowed, Allowed, Refused]),
        ("/sniffer", [Allowed; 4]),
        ("/other", [Allowed; 4]),
    ];
    let mut checks = Checks::default();
    for (cgroup, expected) in expected {
        let probe = lab.probe(cgroup)?;
        for ((kind, _), expected) in RAW.into_iter().zip(expected) {
            for family in [Family::V4, Family::V6] {
                let outcome = probe.try_open(kind, family)?;
                checks.add(&format!("{kind:?} {family:?} for {cgroup}"), expected, outcome);
            }
        }
    }
    checks.finish()
}

fn refused_socket_is_reported(site: &Site) -> Result<()> {
    // Nobody else of this workload asks for raw sockets: repeats of a kind are reported with the first one's process.
    let job = site.lab().probe("/jobs/job-raw")?;
    for (kind, service) in RAW {
        Refused.check(&format!("{kind:?}"), job.try_open(kind, Family::V4)?)?;
        site.agent().denials().expect(&json!({
            "verdict": "denied", "reason": "raw-socket", "direction": "egress", "service": service, "rule": null,
            "workload": {"name": "job"}, "process": {"pid": job.pid(), "comm": "bulkhead-probe"},
            "peer": {"address": null, "port": null, "name": null},
        }))?;
    }
    Ok(())
}

fn audited_gets_its_raw_socket(site: &Site) -> Result<()> {
    let watched = site.lab().probe("/watched")?;
    Allowed.check("a raw socket", watched.try_open(Kind::RawTcp, Family::V4)?)?;
    site.agent().denials().expect(&json!({
        "verdict": "would-deny", "mode": "audit", "reason": "raw-socket", "service": "tcp/*",
        "workload": {"name": "watched"}, "process": {"pid": watched.pid()},
    }))?;
    Ok(())
}

/// A process brings a raw socket along to a workload that would not get one.
fn raw_from_before(site: &Site) -> Result<()> {
    let lab = site.lab();
    let there = at(site.partner().v4, 0);
    let probe = lab.probe("/sniffer")?;
    let raw = probe.open(Kind::RawIcmp, Family::V4)?;
    Allowed.check("sniffer's echo request to the partner", raw.exchange(Some(there))?)?;
    probe.move_to(&lab.cgroup("/ci")?)?;
    // The socket stays sniffer's: its packets are held to sniffer's rules, and there are no new ones.
    Refused.check("the same to a stranger", raw.send(Some(at(site.stranger().v4, 0)))?)?;
    Refused.check("another raw socket in ci", probe.try_open(Kind::RawIcmp, Family::V4)?)
}

const UNSEEN: [(Kind, &str); 5] = [
    (Kind::Packet, "packet"),
    (Kind::Xdp, "xdp"),
    (Kind::Vsock, "vsock"),
    (Kind::Smc, "smc"),
    (Kind::Tipc, "tipc"),
];

/// Does this kernel run BPF programs at its security hooks? (The programs themselves are tested by what they refuse.)
fn has_security_hooks() -> bool {
    let modules = fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    modules.trim().split(',').any(|module| module == "bpf")
}

const NO_HOOKS: Skip = Skip("the kernel runs no BPF security programs");

fn unseen_is_refused(site: &Site) -> Result<()> {
    if !has_security_hooks() {
        bail!(NO_HOOKS);
    }
    let lab = site.lab();
    let (ci, sniffer, watched) = (lab.probe("/ci")?, lab.probe("/sniffer")?, lab.probe("/watched")?);
    let nobody = lab.probe("/other")?;
    for (kind, name) in UNSEEN {
        for (workload, probe) in [("ci", &ci), ("sniffer", &sniffer)] {
            Refused.check(&format!("{name} for {workload}"), probe.try_open(kind, Family::V4)?)?;
            site.agent().denials().expect(&json!({
                "verdict": "denied", "reason": "unseen-socket", "protocol": name, "service": name,
                "workload": {"name": workload}, "process": {"comm": "bulkhead-probe"}, "peer": {"address": null},
            }))?;
        }
        not_refused(&format!("{name} for nobody"), &nobody, kind)?;
        not_refused(&format!("{name} for watched"), &watched, kind)?;
        site.agent().denials().expect(&json!({
            "verdict": "would-deny", "reason": "unseen-socket", "protocol": name, "workload": {"name": "watched"},
        }))?;
    }
    // What stays on the host is left alone: a Unix socket between two probes.
    let other = lab.probe("/ci")?;
    ci.open(Kind::Tcp, Family::V4)?.pass_to(&other)?;
    Ok(())
}

/// The kernel may lack the family, and says so otherwise.
fn not_refused(attempt: &str, probe: &Probe, kind: Kind) -> Result<()> {
    let outcome = probe.try_open(kind, Family::V4)?;
    ensure!(!outcome.is_blocked(), "{attempt}: {outcome:?}");
    Ok(())
}

fn tun_is_refused(site: &Site) -> Result<()> {
    if !has_security_hooks() {
        bail!(NO_HOOKS);
    }
    let lab = site.lab();
    let make = |cgroup: &str, device: &str| -> Result<bool> {
        let place = Place::new(lab.cgroup(cgroup)?, lab.host());
        Ok(place.command(ip()?).args(["tuntap", "add", "dev", device, "mode", "tun"]).status()?.success())
    };
    ensure!(make("/other", "tun7")?, "nobody cannot make a TUN device: is there no /dev/net/tun?");
    ensure!(!make("/ci", "tun8")?, "ci has made a TUN device");
    site.agent().denials().expect(&json!({
        "verdict": "denied", "reason": "unseen-socket", "service": "tun", "workload": {"name": "ci"},
        "process": {"comm": "ip"},
    }))?;
    lab.host().ip("link delete tun7")
}

/// The path of ip(8): a shell may have one of its own, of the same name.
fn ip() -> Result<PathBuf> {
    let places = ["/bin/ip", "/usr/bin/ip", "/sbin/ip", "/usr/sbin/ip"].map(PathBuf::from);
    places.into_iter().find(|path| path.is_file()).context("there is no ip(8) (package iproute2)")
}

fn status_names_who_could(site: &Site) -> Result<()> {
    let ci = site.lab().probe("/ci")?;
    let told = || -> Result<Vec<String>> {
        let status = site.agent().status()?;
        let warnings = status["warnings"].as_array().into_iter().flatten();
        let warnings = warnings.filter_map(|warning| warning.as_str());
        Ok(warnings.filter(|warning| warning.contains("packet sockets")).map(str::to_owned).collect())
    };
    if has_security_hooks() {
        ensure!(told()?.is_empty(), "{:?}", told()?);
        return Ok(());
    }
    let named = format!("bulkhead-probe[{}] of ci", ci.pid());
    bulkhead_tests::pace::until("the status names the process", || {
        Ok(told()?.iter().any(|warning| warning.contains(&named)))
    })
}

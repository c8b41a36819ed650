//! Workloads that share one address are told apart by their sockets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use bulkhead_tests::{Lab, Outcome, Probe, probe::Kind};
use serde_json::json;

use crate::verdicts::{
    Checks,
    Expected::{self, Allowed, Blocked, Refused},
    at,
};

pub(crate) const PORT: u16 = 5432;

/// web may reach db, ci may not; db is in nobody's reach otherwise.
pub(crate) const POLICY: &str = r#"
[environment.prod]
[environment.dev]
[workload.web]
environment = "prod"
select = { cgroup = "/web" }
[workload.db]
environment = "prod"
select = { cgroup = "/db" }
[workload.ci]
environment = "dev"
select = { cgroup = "/ci" }

[[allow]]
id = "web-db"
from = "web"
to = "db"
ports = ["tcp/5432", "udp/5432"]
"#;

/// A way to ask.
type Way = fn(&Probe, std::net::SocketAddr) -> Result<Outcome>;

const WAYS: [(&str, Way); 3] =
    [("tcp", Probe::tcp), ("connected udp", Probe::udp), ("unconnected udp", Probe::udp_unconnected)];

/// Another address of loopback. For TCP only: answers by UDP come from 127.0.0.1, whichever was asked.
const OTHER_LOOPBACK: Ipv4Addr = Ipv4Addr::new(127, 77, 0, 1);

/// Addresses of this host: loopback, others that the kernel takes for loopback, and the LAN's.
fn addresses(lab: &Lab) -> Vec<IpAddr> {
    vec![
        Ipv4Addr::LOCALHOST.into(),
        Ipv4Addr::UNSPECIFIED.into(),
        lab.host().v4,
        Ipv6Addr::LOCALHOST.into(),
        Ipv6Addr::UNSPECIFIED.into(),
        lab.host().v6,
        Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(),
    ]
}

fn check_all(lab: &Lab, checks: &mut Checks, name: &str, client: &Probe, expected: Expected) -> Result<()> {
    for address in addresses(lab) {
        for (way, ask) in WAYS {
            let outcome = ask(client, at(address, PORT))?;
            checks.add(&format!("{way} from {name} to db at {address}"), expected, outcome);
        }
    }
    let outcome = client.tcp(at(OTHER_LOOPBACK, PORT))?;
    checks.add(&format!("tcp from {name} to db at {OTHER_LOOPBACK}"), expected, outcome);
    Ok(())
}

/// One socket of each kind for every address of both families.
fn serve(db: &Probe) -> Result<()> {
    db.serve(Kind::Tcp, at(Ipv6Addr::UNSPECIFIED, PORT))?;
    db.serve(Kind::Udp, at(Ipv6Addr::UNSPECIFIED, PORT))?;
    Ok(())
}

/// A server that is older than the agent must be known as well as one that is younger.
fn one_may_and_one_may_not(server_is_older: bool) -> Result<()> {
    let lab = Lab::new()?;
    let (web, ci, db) = (lab.probe("/web")?, lab.probe("/ci")?, lab.probe("/db")?);
    if server_is_older {
        serve(&db)?;
    }
    let agent = lab.agent(POLICY)?.start()?;
    if !server_is_older {
        serve(&db)?;
    }

    let mut checks = Checks::default();
    check_all(&lab, &mut checks, "web", &web, Allowed)?;
    check_all(&lab, &mut checks, "ci", &ci, Refused)?;
    check_all(&lab, &mut checks, "db itself", &db, Allowed)?;
    checks.finish()?;

    let wanted =
        json!({"workload": {"name": "ci"}, "peer": {"name": "db", "environment": "prod", "port": PORT}});
    agent.denials().expect(&wanted)?;
    agent.denials().expect_none(&json!({"workload": {"name": "web"}}))?;
    agent.stop()?;
    Ok(())
}

#[test]
fn one_workload_may_reach_a_third_and_the_other_may_not() -> Result<()> {
    one_may_and_one_may_not(false)
}

#[test]
fn a_server_older_than_the_agent_is_known() -> Result<()> {
    one_may_and_one_may_not(true)
}

#[test]
fn a_process_in_no_workload_reaches_only_what_is_open() -> Result<()> {
    let lab = Lab::new()?;
    let (nobody, web, db) = (lab.probe("/other")?, lab.probe("/web")?, lab.probe("/db")?);
    let elsewhere = lab.network()?;
    let remote = lab.stranger(&elsewhere)?;
    serve(&db)?;
    let open = nobody.serve(Kind::Tcp, IpAddr::from(Ipv4Addr::LOCALHOST))?;
    let remote = remote.serve(Kind::Tcp, elsewhere.v4)?;
    let agent = lab.agent(POLICY)?.start()?;
    let mut checks = Checks::default();
    for address in [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into(), lab.host().v4] {
        for (way, ask) in WAYS {
            let outcome = ask(&nobody, at(address, PORT))?;
            checks.add(&format!("{way} from a process in no workload to db at {address}"), Blocked, outcome);
        }
    }
    checks.add("nobody to nobody", Allowed, nobody.tcp(open.address)?);
    checks.add("nobody to another machine", Allowed, nobody.tcp(remote.address)?);
    checks.add("web to nobody's server", Refused, web.tcp(open.address)?);
    checks.finish()?;
    agent.stop()?;
    Ok(())
}

#[test]
fn a_ping_to_the_own_host_needs_a_rule() -> Result<()> {
    let lab = Lab::new()?;
    let (web, ci) = (lab.probe("/web")?, lab.probe("/ci")?);
    let rule = "[[allow]]\nfrom = \"web\"\nto = \"host\"\nports = [\"icmp\"]\n";
    let agent = lab.agent(&format!("{POLICY}{rule}"))?.start()?;
    let mut checks = Checks::default();
    for address in [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into(), lab.host().v4, lab.host().v6] {
        checks.add(&format!("ping from web to {address}"), Allowed, web.ping(address)?);
        checks.add(&format!("ping from ci to {address}"), Refused, ci.ping(address)?);
    }
    checks.finish()?;
    agent.stop()?;
    Ok(())
}

//! Workloads that share one address are told apart by their sockets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result};
use bulkhead_tests::{
    Agent, Lab, Outcome, Probe,
    probe::{Family, Kind},
    scene::{POLICY, PORT},
    verdicts::{
        Checks,
        Expected::{self, Allowed, Blocked, Refused},
        at,
    },
};
use serde_json::json;

use crate::{Case, site::Site};

pub(crate) const CASES: &[Case] = &[
    ("loopback::one_workload_may_reach_a_third_and_the_other_may_not", one_may_and_one_may_not),
    ("loopback::a_server_older_than_the_agent_is_known", a_server_older_than_the_agent_is_known),
    ("loopback::a_process_in_no_workload_reaches_only_what_is_open", nobody_reaches_only_what_is_open),
    ("loopback::an_address_of_the_host_leads_to_no_workload", an_address_leads_to_no_workload),
    ("loopback::who_listens_here_is_not_who_is_in_a_container", who_listens_here_is_not_in_a_container),
    ("loopback::a_ping_to_the_own_host_needs_a_rule", a_ping_to_the_own_host_needs_a_rule),
    ("loopback::ports_in_time_wait_are_taken_again", ports_in_time_wait_are_taken_again),
];

/// A way to ask.
type Way = fn(&Probe, std::net::SocketAddr) -> Result<Outcome>;

const WAYS: [(&str, Way); 3] =
    [("tcp", Probe::tcp), ("connected udp", Probe::udp), ("unconnected udp", Probe::udp_unconnected)];

/// Another address of loopback. For TCP only: answers by UDP come from 127.0.0.1, whichever was asked.
const OTHER_LOOPBACK: Ipv4Addr = Ipv4Addr::new(127, 77, 0, 1);

/// The only port that calls come from, where that matters.
const CALLER_PORT: u16 = 40_000;

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

fn one_may_and_one_may_not(site: &Site) -> Result<()> {
    let lab = site.lab();
    let db = lab.probe("/db")?;
    serve(&db)?;
    reach(lab, site.agent(), &db)
}

fn a_server_older_than_the_agent_is_known(_: &Site) -> Result<()> {
    let lab = Lab::new()?;
    let db = lab.probe("/db")?;
    serve(&db)?;
    let agent = lab.agent(POLICY)?.start()?;
    reach(&lab, &agent, &db)?;
    agent.stop()?;
    Ok(())
}

/// web reaches db, ci does not, and db reaches itself.
fn reach(lab: &Lab, agent: &Agent, db: &Probe) -> Result<()> {
    let (web, ci) = (lab.probe("/web")?, lab.probe("/ci")?);
    let mut checks = Checks::default();
    check_all(lab, &mut checks, "web", &web, Allowed)?;
    check_all(lab, &mut checks, "ci", &ci, Refused)?;
    check_all(lab, &mut checks, "db itself", db, Allowed)?;
    checks.finish()?;

    let who = |name: &str, pid: u32| json!({"workload": {"name": name}, "process": {"pid": pid}});
    let mut wanted = who("ci", ci.pid());
    wanted["peer"] = json!({"name": "db", "environment": "prod", "port": PORT});
    agent.denials().expect(&wanted)?;
    agent.denials().expect_none(&who("web", web.pid()))
}

fn nobody_reaches_only_what_is_open(site: &Site) -> Result<()> {
    let (lab, elsewhere) = (site.lab(), site.stranger());
    let (nobody, web, db) = (lab.probe("/other")?, lab.probe("/web")?, lab.probe("/db")?);
    let remote = lab.stranger(elsewhere)?;
    serve(&db)?;
    let open = nobody.serve(Kind::Tcp, IpAddr::from(Ipv4Addr::LOCALHOST))?;
    let remote = remote.serve(Kind::Tcp, elsewhere.v4)?;
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
    checks.finish()
}

/// What rules say of the host's addresses is of processes in no workload: together, a rule from web to them and one from them
/// to db would else let web reach db, whatever is forbidden.
fn an_address_leads_to_no_workload(_: &Site) -> Result<()> {
    const BY_ADDRESS: &str = r#"
        [workload.web]
        select = { cgroup = "/web" }
        [workload.db]
        select = { cgroup = "/db" }
        [[forbid]]
        from = "web"
        to = "db"
        [[allow]]
        from = "web"
        to = ["host", "private", "internet", "127.0.0.0/8", "::/0"]
        [[allow]]
        from = ["host", "private", "internet", "127.0.0.0/8", "::/0"]
        to = "db"
    "#;
    let lab = Lab::new()?;
    let (nobody, web, db) = (lab.probe("/other")?, lab.probe("/web")?, lab.probe("/db")?);
    serve(&db)?;
    let open = nobody.serve(Kind::Tcp, IpAddr::from(Ipv4Addr::LOCALHOST))?;
    let agent = lab.agent(BY_ADDRESS)?.start()?;
    let mut checks = Checks::default();
    check_all(&lab, &mut checks, "web", &web, Blocked)?;
    check_all(&lab, &mut checks, "a process in no workload", &nobody, Allowed)?;
    checks.add("web to nobody's server", Allowed, web.tcp(open.address)?);
    // Packets are asked of the socket's workload alone, and so its calls are of whoever makes them.
    for kind in [Kind::Tcp, Kind::Udp] {
        let passed = db.open(kind, Family::V4)?.pass_to(&web)?;
        let outcome = passed.connect(at(lab.host().v4, PORT))?;
        checks.add(&format!("{kind:?} from web by db's socket"), Refused, outcome);
    }
    checks.finish()?;
    agent.stop()?;
    Ok(())
}

/// The same port is open on every address of the host, which a look-up there finds for an address of a container too.
fn who_listens_here_is_not_in_a_container(_: &Site) -> Result<()> {
    let lab = Lab::new()?;
    let (alone, shared) = (lab.network()?, lab.network()?);
    let (web, ci) = (lab.probe("/web")?, lab.probe("/ci")?);
    let (db, one) = (lab.probe_in("/db", &alone)?, lab.probe_in("/one", &shared)?);
    let _other = lab.probe_in("/other", &shared)?;
    for server in [&ci, &db, &one] {
        serve(server)?;
    }
    let policy = format!(
        r#"
        [workload]
        web.select = {{ cgroup = "/web" }}
        ci.select = {{ cgroup = "/ci" }}
        db.select = {{ cgroup = "/db" }}
        one.select = {{ cgroup = "/one" }}
        other.select = {{ cgroup = "/other" }}
        [[allow]]
        from = "web"
        to = ["db", "{}", "{}"]
        [[allow]]
        from = "host"
        to = ["db", "one"]
        [[allow]]
        from = "web"
        to = "one"
        "#,
        shared.v4, shared.v6
    );
    let agent = lab.agent(&policy)?.start()?;
    let mut checks = Checks::default();
    for address in [alone.v4, alone.v6, shared.v4, shared.v6, lab.host().v4, lab.host().v6] {
        let here = address == lab.host().v4 || address == lab.host().v6;
        for (way, ask) in WAYS {
            let expected = if here { Refused } else { Allowed };
            checks.add(&format!("{way} from web to {address}"), expected, ask(&web, at(address, PORT))?);
        }
    }
    checks.finish()?;
    agent.stop()?;
    Ok(())
}

fn a_ping_to_the_own_host_needs_a_rule(site: &Site) -> Result<()> {
    let lab = site.lab();
    let (web, ci) = (lab.probe("/web")?, lab.probe("/ci")?);
    let mut checks = Checks::default();
    for address in [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into(), lab.host().v4, lab.host().v6] {
        checks.add(&format!("ping from web to {address}"), Allowed, web.ping(address)?);
        checks.add(&format!("ping from ci to {address}"), Refused, ci.ping(address)?);
    }
    checks.finish()
}

/// A connection that has just been closed leaves its pair of ports with the server, in `TIME_WAIT`, and the next one may
/// have the same. The listener takes it, and not who was there before.
fn ports_in_time_wait_are_taken_again(site: &Site) -> Result<()> {
    let lab = site.lab();
    let probe = lab.probe("/db")?;
    for address in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into(), lab.host().v4] {
        let listener = probe.open(Kind::Tcp, Family::of(at(address, PORT)))?;
        listener.bind(at(address, PORT))?;
        listener.listen()?;
        probe.move_to(&lab.cgroup("/web")?)?;
        listener
            .churn(CALLER_PORT, 20)
            .with_context(|| format!("over and over to {address}; reported: {}", site.agent().denials()))?;
        probe.move_to(&lab.cgroup("/db")?)?;
    }
    Ok(())
}

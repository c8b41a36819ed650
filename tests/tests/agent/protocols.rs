//! Each protocol × family × direction × verdict, between a workload and other machines.

use anyhow::Result;
use bulkhead_tests::{Lab, Network, Outcome, Probe, probe::Kind};

use crate::verdicts::{
    Checks,
    Expected::{self, Allowed, Blocked, Refused},
    at,
};

/// The port that the policy opens, and another.
const OPEN: u16 = 5432;
const SHUT: u16 = 5433;

/// Of two other machines the policy knows one, in both directions and on one port.
const POLICY: &str = r#"
[environment.prod]
[workload.app]
environment = "prod"
select = { cgroup = "/app" }
[peer.partner]
environment = "prod"
cidrs = ["10.77.0.2", "fd77::2"]

[[allow]]
from = "app"
to = "partner"
ports = ["tcp/5432", "udp/5432", "icmp"]

[[allow]]
from = "partner"
to = "app"
ports = ["tcp/5432", "udp/5432", "icmp"]
"#;

/// How a client asks.
#[derive(Clone, Copy, Debug)]
enum Way {
    Tcp,
    ConnectedUdp,
    UnconnectedUdp,
    Ping,
}

impl Way {
    fn ask(self, client: &Probe, server: &Network, v6: bool, port: u16) -> Result<Outcome> {
        let address = if v6 { server.v6 } else { server.v4 };
        match self {
            Self::Tcp => client.tcp(at(address, port)),
            Self::ConnectedUdp => client.udp(at(address, port)),
            Self::UnconnectedUdp => client.udp_unconnected(at(address, port)),
            Self::Ping => client.ping(address),
        }
    }
}

struct Host<'a> {
    name: &'a str,
    network: &'a Network,
    probe: Probe,
}

impl<'a> Host<'a> {
    fn new(name: &'a str, network: &'a Network, probe: Probe) -> Result<Self> {
        for port in [OPEN, SHUT] {
            for address in [network.v4, network.v6] {
                probe.serve(Kind::Tcp, at(address, port))?;
                probe.serve(Kind::Udp, at(address, port))?;
            }
        }
        Ok(Self { name, network, probe })
    }
}

fn table(way: Way) -> Result<()> {
    let lab = Lab::new()?;
    let (there, elsewhere) = (lab.network()?, lab.network()?);
    let app = Host::new("app", lab.host(), lab.probe("/app")?)?;
    let partner = Host::new("partner", &there, lab.stranger(&there)?)?;
    let stranger = Host::new("stranger", &elsewhere, lab.stranger(&elsewhere)?)?;
    let agent = lab.agent(POLICY)?.start()?;

    let mut checks = Checks::default();
    let mut check = |from: &Host<'_>, to: &Host<'_>, port, expected: Expected| -> Result<()> {
        for v6 in [false, true] {
            let outcome = way.ask(&from.probe, to.network, v6, port)?;
            let family = if v6 { "IPv6" } else { "IPv4" };
            let attempt = format!("{way:?} over {family} from {} to {} port {port}", from.name, to.name);
            checks.add(&attempt, expected, outcome);
        }
        Ok(())
    };
    check(&app, &partner, OPEN, Allowed)?;
    check(&partner, &app, OPEN, Allowed)?;
    check(&app, &stranger, OPEN, Refused)?;
    // A ping to app's address is answered by the kernel for the host, whoever listens: no workload's to refuse.
    if !matches!(way, Way::Ping) {
        check(&stranger, &app, OPEN, Blocked)?;
        check(&app, &partner, SHUT, Refused)?;
        check(&partner, &app, SHUT, Blocked)?;
    }
    checks.finish()?;
    agent.stop()?;

    for port in [OPEN, SHUT] {
        assert_eq!(
            way.ask(&app.probe, stranger.network, false, port)?,
            Outcome::Answered,
            "after the agent's end"
        );
    }
    Ok(())
}

#[test]
fn tcp() -> Result<()> {
    table(Way::Tcp)
}

#[test]
fn connected_udp() -> Result<()> {
    table(Way::ConnectedUdp)
}

#[test]
fn unconnected_udp() -> Result<()> {
    table(Way::UnconnectedUdp)
}

#[test]
fn raw_ping() -> Result<()> {
    table(Way::Ping)
}

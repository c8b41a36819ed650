//! Each protocol × family × direction × verdict, between a workload and other machines.

use anyhow::Result;
use bulkhead_tests::{
    Network, Outcome, Probe,
    probe::Kind,
    verdicts::{
        Checks,
        Expected::{self, Allowed, Blocked, Refused},
        at,
    },
};

use crate::{Case, site::Site};

pub(crate) const CASES: &[Case] = &[
    ("protocols::tcp", |site| table(site, Way::Tcp)),
    ("protocols::connected_udp", |site| table(site, Way::ConnectedUdp)),
    ("protocols::unconnected_udp", |site| table(site, Way::UnconnectedUdp)),
    ("protocols::raw_ping", |site| table(site, Way::Ping)),
];

/// The port that the policy opens, and another.
const OPEN: u16 = 5432;
const SHUT: u16 = 5433;

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

fn table(site: &Site, way: Way) -> Result<()> {
    let lab = site.lab();
    let (there, elsewhere) = (site.partner(), site.stranger());
    let app = Host::new("app", lab.host(), lab.probe("/app")?)?;
    let partner = Host::new("partner", there, lab.stranger(there)?)?;
    let stranger = Host::new("stranger", elsewhere, lab.stranger(elsewhere)?)?;

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
    checks.finish()
}

//! Other ways to speak TCP and UDP are no ways out. One other machine is a friend, whom app may reach by every
//! protocol and port, and one is not.

use std::net::IpAddr;

use anyhow::Result;
use bulkhead_tests::{
    Agent, Lab, Network, Outcome, Probe,
    probe::{Family, Kind, Socket},
};

use crate::verdicts::{Checks, Expected, Expected::Allowed, Expected::Refused, allowed, at, refused};

/// The servers' port.
const PORT: u16 = 5432;
/// The port at which the friend may call app.
const OWN_PORT: u16 = 8080;

/// A host with app on it, and two other machines.
struct World {
    lab: Lab,
    friends: Network,
    strangers: Network,
}

impl World {
    fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let (friends, strangers) = (lab.network()?, lab.network()?);
        Ok(Self { lab, friends, strangers })
    }

    fn agent(&self) -> Result<Agent> {
        let (v4, v6) = (self.friends.v4, self.friends.v6);
        let policy = format!(
            "[workload.app]\nselect = {{ cgroup = \"/app\" }}\n\
             [peer.friend]\ncidrs = [\"{v4}\", \"{v6}\"]\n\
             [[allow]]\nfrom = \"app\"\nto = \"friend\"\n\
             [[allow]]\nfrom = \"friend\"\nto = \"app\"\nports = [\"tcp/{OWN_PORT}\"]\n"
        );
        self.lab.agent(&policy)?.start()
    }

    /// Both other machines serve; what app gets at each is as it should be.
    fn check(&self, kind: Kind, name: &str, ask: impl Fn(&Probe, IpAddr) -> Result<Outcome>) -> Result<()> {
        let app = self.lab.probe("/app")?;
        let (friend, stranger) = (self.lab.stranger(&self.friends)?, self.lab.stranger(&self.strangers)?);
        let machines: [(&Probe, &Network, Expected); 2] =
            [(&friend, &self.friends, Allowed), (&stranger, &self.strangers, Refused)];
        for (probe, network, _) in machines {
            probe.serve(kind, at(network.v4, PORT))?;
            probe.serve(kind, at(network.v6, PORT))?;
        }
        let agent = self.agent()?;
        let mut checks = Checks::default();
        for (_, network, expected) in machines {
            for address in [network.v4, network.v6] {
                checks.add(&format!("{name} to {address}"), expected, ask(&app, address)?);
            }
        }
        checks.finish()?;
        agent.stop()?;
        Ok(())
    }
}

fn open(probe: &Probe, kind: Kind, address: IpAddr) -> Result<Socket<'_>> {
    probe.open(kind, Family::of(at(address, PORT)))
}

#[test]
fn several_paths_are_tcp() -> Result<()> {
    World::new()?.check(Kind::Mptcp, "MPTCP", |app, address| {
        open(app, Kind::Mptcp, address)?.connect_and_exchange(at(address, PORT))
    })
}

#[test]
fn data_that_comes_with_the_connection_needs_a_rule_first() -> Result<()> {
    World::new()?.check(Kind::Tcp, "TCP Fast Open", |app, address| {
        open(app, Kind::Tcp, address)?.connect_with_data(at(address, PORT))
    })
}

#[test]
fn udp_with_half_a_checksum_is_a_protocol_of_its_own() -> Result<()> {
    World::new()?.check(Kind::UdpLite, "connected UDP-Lite", |app, address| {
        open(app, Kind::UdpLite, address)?.connect_and_exchange(at(address, PORT))
    })?;
    World::new()?.check(Kind::UdpLite, "unconnected UDP-Lite", |app, address| {
        open(app, Kind::UdpLite, address)?.exchange(Some(at(address, PORT)))
    })
}

#[test]
fn a_socket_that_listened_connects_as_any_other() -> Result<()> {
    let world = World::new()?;
    let (friend, stranger) = (world.friends.v4, world.strangers.v4);
    let app = world.lab.probe("/app")?;
    let (near, far) = (world.lab.stranger(&world.friends)?, world.lab.stranger(&world.strangers)?);
    near.serve(Kind::Tcp, at(friend, PORT))?;
    far.serve(Kind::Tcp, at(stranger, PORT))?;
    let agent = world.agent()?;
    let own = at(world.lab.host().v4, OWN_PORT);
    for (name, peer, expected) in [("a stranger", stranger, Refused), ("a friend", friend, Allowed)] {
        let socket = app.open(Kind::Tcp, Family::V4)?;
        socket.bind(own)?;
        socket.listen()?;
        // The mark of a listener is what the socket should not profit from.
        allowed("a connection to app", near.open(Kind::Tcp, Family::V4)?.connect(own)?)?;
        socket.shut_down()?;
        let outcome = socket.connect_and_exchange(at(peer, PORT))?;
        expected.check(&format!("connect() of a former listener to {name}"), outcome)?;
    }
    agent.stop()?;
    Ok(())
}

#[test]
fn another_peer_in_the_first_ones_place_needs_a_rule() -> Result<()> {
    let world = World::new()?;
    let app = world.lab.probe("/app")?;
    let (near, far) = (world.lab.stranger(&world.friends)?, world.lab.stranger(&world.strangers)?);
    for (probe, network) in [(&near, &world.friends), (&far, &world.strangers)] {
        for kind in [Kind::Tcp, Kind::Udp] {
            probe.serve(kind, at(network.v4, PORT))?;
            probe.serve(kind, at(network.v6, PORT))?;
        }
    }
    let agent = world.agent()?;
    let (friends, strangers) = (&world.friends, &world.strangers);
    for (friend, stranger) in [(friends.v4, strangers.v4), (friends.v6, strangers.v6)] {
        for kind in [Kind::Tcp, Kind::Udp] {
            let socket = open(&app, kind, friend)?;
            allowed("the friend", socket.connect_and_exchange(at(friend, PORT))?)?;
            socket.disconnect()?;
            refused(&format!("{kind:?} to {stranger}"), socket.connect(at(stranger, PORT))?)?;
            allowed("the friend again", socket.connect_and_exchange(at(friend, PORT))?)?;
        }
    }
    agent.stop()?;
    Ok(())
}

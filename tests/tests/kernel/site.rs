//! Where the tests of this tier take place.

use anyhow::Result;
use bulkhead_tests::{Agent, Lab, Network, scene};

/// What is allowed besides [`scene::POLICY`]: app and one of two other machines, both ways, on one port.
const BEYOND: &str = r#"
[workload.app]
environment = "prod"
select = { cgroup = "/app" }
[workload.job]
environment = "dev"
select = { cgroup = ["/jobs/job-*", "/jobs/task-*.scope", "/jobs/**/x-*"] }
[workload.secret]
environment = "prod"
select = { cgroup = "/ci/*/a-very-secret-web" }
[environment.watched]
mode = "audit"
[workload.watched]
environment = "watched"
select = { cgroup = "/watched" }
[workload.sniffer]
environment = "prod"
select = { cgroup = "/sniffer" }
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
[[allow]]
from = "secret"
to = "db"
ports = ["tcp/5432"]
[[allow]]
from = "web"
to = "host"
ports = ["icmp"]
[[allow]]
from = "sniffer"
to = "partner"
[[allow]]
from = "partner"
to = "sniffer"
[[allow]]
from = "app"
to = "10.77.0.3"
ports = ["tcp/7777"]
expires = 2100-01-01T00:00:00Z

[workload.six]
environment = "prod"
select = { cgroup = "/six" }
[workload.neighbour]
environment = "prod"
select = { cgroup = "/neighbour" }
[[allow]]
from = "six"
to = "::/0"
[[allow]]
from = "neighbour"
to = "ff02::1"
ports = ["icmpv6"]
[[allow]]
from = "web"
to = "ci"
ports = ["tcp/8080", "udp/8080"]
[[allow]]
from = "ci"
to = "web"
ports = ["tcp/9998", "udp/9998"]

[workload.herald]
environment = "prod"
select = { cgroup = "/herald" }
[[allow]]
from = "herald"
to = "ff15::78"
ports = ["udp/5353"]
[[allow]]
from = "any"
to = "herald"
ports = ["udp/5353"]
"#;

/// A lab with an agent over it that all tests share: to verify the programs takes an emulated machine half a minute.
pub(crate) struct Site {
    // Fields drop in this order: the agent first, then what it watches.
    agent: Agent,
    partner: Network,
    stranger: Network,
    lab: Lab,
}

impl Site {
    /// Makes it.
    pub(crate) fn new() -> Result<Self> {
        let lab = Lab::new()?;
        // The first to join the LAN has the address that the policy names.
        let (partner, stranger) = (lab.network()?, lab.network()?);
        let agent = lab.agent(&format!("{}{BEYOND}", scene::POLICY))?.start()?;
        Ok(Self { agent, partner, stranger, lab })
    }

    /// The lab. What a test puts into it goes with the test.
    pub(crate) fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The agent.
    pub(crate) fn agent(&self) -> &Agent {
        &self.agent
    }

    /// The network of the machine that the policy knows.
    pub(crate) fn partner(&self) -> &Network {
        &self.partner
    }

    /// The network of a machine that no policy knows.
    pub(crate) fn stranger(&self) -> &Network {
        &self.stranger
    }

    /// Stops the agent, which must leave nothing behind.
    pub(crate) fn end(self) -> Result<()> {
        self.agent.stop()?;
        Ok(())
    }
}

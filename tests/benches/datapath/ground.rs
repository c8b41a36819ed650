//! Grounds to measure on: hosts of their own that differ in who guards them alone.

use std::{
    fmt::Write as _,
    io::Write as _,
    net::{Ipv4Addr, SocketAddr},
    process::Stdio,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use bulkhead_common::Direction;
use bulkhead_datapath::Empty;
use bulkhead_tests::{
    Agent, Lab, Machine, Place, Probe, Socket,
    cgroup::{Cgroup, mount_point},
    machine::UNITS,
    probe::{Family, Kind},
};
use serde_json::Value;

use crate::sizes::peer;

/// Where the one side serves.
const PORT: u16 = 5432;
/// Where iperf3 does.
const STREAM_PORT: u16 = 5201;
/// How many addresses the guards have to know.
const ADDRESSES: u32 = 1_000;

/// Who guards a host. Dropping it ends that.
pub(crate) enum Guard {
    Nobody,
    Empty { _attached: Empty },
    Systemd(Machine),
    Bulkhead(Box<Agent>),
}

/// A host with a guard, and the process that makes its traffic.
pub(crate) struct Ground {
    // Fields drop in this order.
    probe: Probe,
    guard: Guard,
    /// The cgroups of the two ends.
    ends: [Cgroup; 2],
    lab: Lab,
}

/// What [`Ground`] is made of: a guard, and the paths of the two ends' cgroups.
type Guarded = (Guard, [&'static str; 2]);

const ENDS: [&str; 2] = ["/web", "/db"];

impl Guard {
    /// Nothing attached.
    #[expect(clippy::unnecessary_wraps, reason = "made as the others are")]
    pub(crate) fn nobody(_: &Lab) -> Result<Guarded> {
        Ok((Self::Nobody, ENDS))
    }

    /// A program that does nothing.
    pub(crate) fn empty(lab: &Lab) -> Result<Guarded> {
        Ok((Self::Empty { _attached: Empty::attach(lab.root()?.path())? }, ENDS))
    }

    /// A unit of a real systemd that may talk to so many addresses, and loopback.
    pub(crate) fn systemd(lab: &Lab) -> Result<Guarded> {
        let mut unit =
            "[Service]\nExecStart=sleep infinity\nIPAddressDeny=any\nIPAddressAllow=localhost\n".to_owned();
        for address in addresses() {
            writeln!(unit, "IPAddressAllow={address}")?;
        }
        let machine = Machine::boot(lab, &[(&format!("{UNITS}/bench.service"), &unit)])?;
        Ok((Self::Systemd(machine), ["/system.slice/bench.service"; 2]))
    }

    /// nftables that lets what is established pass, then one cgroup reach a set of addresses.
    pub(crate) fn nftables(lab: &Lab) -> Result<Guarded> {
        let mount = mount_point()?;
        let below = |path: &str| -> Result<String> {
            let cgroup = lab.cgroup(path)?;
            let path = cgroup.path().strip_prefix(&mount)?;
            Ok(format!("socket cgroupv2 level {} \"{}\"", path.components().count(), path.display()))
        };
        let (web, db) = (below(ENDS[0])?, below(ENDS[1])?);
        let peers = addresses().map(|a| a.to_string()).collect::<Vec<_>>().join(", ");
        let rules = format!(
            "table inet bench {{
                set peers {{ type ipv4_addr; elements = {{ 127.0.0.1, {peers} }} }}
                chain output {{
                    type filter hook output priority 0; policy accept;
                    ct state established,related accept
                    {web} ip daddr @peers meta l4proto {{ tcp, udp }} th dport {PORT} accept
                    {web} drop
                    {db} drop
                }}
                chain input {{
                    type filter hook input priority 0; policy accept;
                    ct state established,related accept
                    {db} ip saddr @peers meta l4proto {{ tcp, udp }} th dport {PORT} accept
                    {db} drop
                    {web} drop
                }}
            }}"
        );
        load_rules(lab, &rules)?;
        Ok((Self::Nobody, ENDS))
    }

    /// Bulkhead, and two workloads.
    pub(crate) fn bulkhead(lab: &Lab) -> Result<Guarded> {
        Ok((Self::agent(lab)?, ENDS))
    }

    /// Bulkhead, and a process that is in no workload.
    pub(crate) fn beside(lab: &Lab) -> Result<Guarded> {
        Ok((Self::agent(lab)?, ["/neighbour"; 2]))
    }

    /// Bulkhead under a policy of so many rules, each for one peer that web may call or that may call web, and so many
    /// workloads. All peers are behind a device that swallows what it gets.
    pub(crate) fn sized(lab: &Lab, (rules, way): (u32, Direction), workloads: u32) -> Result<Guarded> {
        lab.host()
            .ip("link add sink type bridge\nlink set sink arp off up\nroute add 11.0.0.0/8 dev sink\n")?;
        let mut policy = policy("");
        for number in 1..workloads {
            writeln!(
                policy,
                "[workload.w{number}]\nenvironment = \"prod\"\nselect = {{ cgroup = \"/others/{number}\" }}\n\
                 [[allow]]\nfrom = \"w{number}\"\nto = \"db\"\nports = [\"tcp/{}\"]",
                1 + number % 60_000
            )?;
        }
        for number in 0..rules {
            // The ports differ: peers that may do the same would be one to the tables.
            let (address, own) = (peer(number), 1_000 + number % 50_000);
            let (from, to) = match way {
                Direction::Egress => ("web".to_owned(), address.to_string()),
                Direction::Ingress => (address.to_string(), "web".to_owned()),
            };
            writeln!(
                policy,
                "[[allow]]\nfrom = \"{from}\"\nto = \"{to}\"\nports = [\"udp/443\", \"tcp/{own}\"]"
            )?;
        }
        Ok((Self::Bulkhead(Box::new(lab.agent(&policy)?.start()?)), ENDS))
    }

    fn agent(lab: &Lab) -> Result<Self> {
        let peers = addresses().map(|a| format!("\"{a}\"")).collect::<Vec<_>>().join(", ");
        let others = format!("[peer.others]\nenvironment = \"prod\"\ncidrs = [{peers}]\n");
        let policy = format!(
            "{}[[allow]]\nfrom = \"web\"\nto = \"others\"\nports = [\"tcp/{PORT}\", \"udp/{PORT}\"]\n",
            policy(&others)
        );
        Ok(Self::Bulkhead(Box::new(lab.agent(&policy)?.start()?)))
    }

    /// The process that holds the guard's programs.
    fn holder(&self) -> u32 {
        match self {
            Self::Nobody | Self::Empty { .. } => std::process::id(),
            Self::Systemd(machine) => machine.init(),
            Self::Bulkhead(agent) => agent.pid(),
        }
    }
}

impl Ground {
    /// A host under a guard.
    pub(crate) fn new(guard: impl FnOnce(&Lab) -> Result<Guarded>) -> Result<Self> {
        let lab = Lab::new()?;
        let (guard, [from, to]) = guard(&lab)?;
        let ends = [lab.cgroup(from)?, lab.cgroup(to)?];
        let probe = Probe::start(&Place::new(ends[0].clone(), lab.host()))?;
        Ok(Self { probe, guard, ends, lab })
    }

    /// Takes it down.
    pub(crate) fn end(self) -> Result<()> {
        if let Guard::Bulkhead(agent) = self.guard {
            agent.stop()?;
        }
        Ok(())
    }

    /// The agent, if it is one that guards.
    pub(crate) fn agent(&self) -> Option<&Agent> {
        match &self.guard {
            Guard::Bulkhead(agent) => Some(agent),
            _ => None,
        }
    }

    /// The host.
    pub(crate) fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The process that holds the guard's programs.
    pub(crate) fn programs(&self) -> u32 {
        self.guard.holder()
    }

    /// A datagram socket of the first end.
    pub(crate) fn datagrams(&self) -> Result<Socket<'_>> {
        self.probe.open(Kind::Udp, Family::V4)
    }
}

/// Sockets on a ground, ready to be measured.
pub(crate) struct Stand<'a> {
    ground: &'a Ground,
    from: Socket<'a>,
    to: Socket<'a>,
    listener: Socket<'a>,
}

impl<'a> Stand<'a> {
    /// A connected pair of datagram sockets and a listener.
    pub(crate) fn new(ground: &'a Ground) -> Result<Self> {
        let Ground { probe, ends: [web, db], .. } = ground;
        let here = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
        probe.move_to(db)?;
        let to = probe.open(Kind::Udp, Family::V4)?;
        to.bind(here)?;
        let listener = probe.open(Kind::Tcp, Family::V4)?;
        listener.bind(here)?;
        listener.listen()?;
        probe.move_to(web)?;
        let from = probe.open(Kind::Udp, Family::V4)?;
        from.connect(here)?;
        Ok(Self { ground, from, to, listener })
    }

    /// Sends datagrams from one to the other; only the sending counts.
    pub(crate) fn burst(&self, times: u32) -> Result<Duration> {
        self.from.burst(&self.to, times)
    }

    /// Opens and closes TCP connections.
    pub(crate) fn churn(&self, times: u32) -> Result<Duration> {
        self.listener.churn(0, times)
    }

    /// Sends datagrams to each of these in turn, from a socket that is not connected.
    pub(crate) fn scatter(&self, to: &[SocketAddr], times: u32) -> Result<()> {
        let taken = self.ground.datagrams()?.repeat(to, vec![0; 32], times)?;
        ensure!(taken == times, "only {taken} of {times} datagrams were taken");
        Ok(())
    }

    /// Sends as much as TCP can for a second; tells how many bits a second arrived.
    pub(crate) fn stream(&self) -> Result<f64> {
        let Ground { ends: [web, db], lab, .. } = self.ground;
        let port = STREAM_PORT.to_string();
        let mut server = Place::new(db.clone(), lab.host())
            .command("iperf3")
            .args(["--server", "--one-off", "--port", &port])
            .stdout(Stdio::null())
            .spawn()
            .context("nsenter cannot be started (package util-linux)")?;
        let client =
            ["--client", "127.0.0.1", "--port", &port, "--time", "1", "--json", "--connect-timeout", "3000"];
        // The server takes a moment to listen.
        let bits = (0..100).find_map(|_| {
            thread::sleep(Duration::from_millis(20));
            let output = Place::new(web.clone(), lab.host()).run("iperf3", &client).ok()?;
            let report: Value = serde_json::from_slice(&output.stdout).ok()?;
            report["end"]["sum_received"]["bits_per_second"].as_f64()
        });
        server.kill()?;
        server.wait()?;
        bits.context("iperf3 measured nothing (package iperf3)")
    }

    /// The process that holds the guard's programs.
    pub(crate) fn programs(&self) -> u32 {
        self.ground.programs()
    }
}

/// web may reach db; and what else there is.
fn policy(more: &str) -> String {
    format!(
        "[environment.prod]
        [workload.web]
        environment = \"prod\"
        select = {{ cgroup = \"/web\" }}
        [workload.db]
        environment = \"prod\"
        select = {{ cgroup = \"/db\" }}
        [[allow]]
        from = \"web\"
        to = \"db\"
        ports = [\"tcp/{PORT}\", \"udp/{PORT}\", \"tcp/{STREAM_PORT}\"]
        {more}
"
    )
}

fn addresses() -> impl Iterator<Item = Ipv4Addr> {
    // Not neighbours, or they would be one range.
    (0..ADDRESSES).map(|n| Ipv4Addr::from(0x0a50_0000 + n * 2))
}

/// nft(8) takes a cgroup's path as one below /sys/fs/cgroup, wherever the hierarchy is mounted.
fn load_rules(lab: &Lab, rules: &str) -> Result<()> {
    let mounted = "mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec nft -f -";
    let mut nft = lab
        .host()
        .command("unshare")
        .args(["--mount", "sh", "-c", mounted])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("nsenter cannot be started (package util-linux)")?;
    nft.stdin.take().context("no standard input")?.write_all(rules.as_bytes())?;
    let done = nft.wait_with_output()?;
    ensure!(done.status.success(), "nft: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

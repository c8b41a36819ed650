//! Network namespaces that have no name: open files keep them alive, so nothing is left when the owner is gone.

use std::{
    cell::Cell,
    fs::File,
    io::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsRawFd as _,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::sched::{CloneFlags, unshare};

/// A network namespace with its loopback interface up, and perhaps an address on a [`Lan`].
#[derive(Debug)]
pub struct Network {
    file: File,
    /// Its IPv4 address on the LAN; loopback if it is on none.
    pub v4: IpAddr,
    /// Its IPv6 address on the LAN; loopback if it is on none.
    pub v6: IpAddr,
}

impl Network {
    /// A namespace that reaches nobody but itself.
    pub fn isolated() -> Result<Self> {
        let made = thread::spawn(|| -> Result<File> {
            unshare(CloneFlags::CLONE_NEWNET).context("a network namespace cannot be made; are you root?")?;
            Ok(File::open("/proc/thread-self/ns/net")?)
        });
        let file = made.join().map_err(|_| anyhow!("the thread that makes a namespace panicked"))??;
        let network = Self { file, v4: Ipv4Addr::LOCALHOST.into(), v6: Ipv6Addr::LOCALHOST.into() };
        network.ip("link set lo up")?;
        Ok(network)
    }

    /// The file to enter it by, valid as long as this value lives.
    pub fn path(&self) -> PathBuf {
        open_file(&self.file)
    }

    /// A command that runs in this namespace.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command
    }

    /// Lets everybody have sockets for ICMP echoes.
    pub fn allow_ping_sockets(&self) -> Result<()> {
        let everybody = "net.ipv4.ping_group_range=0 2147483647";
        let done = self.command("sysctl").args(["-qw", everybody]).status();
        ensure!(done.context("nsenter cannot be started")?.success(), "ping sockets cannot be allowed");
        Ok(())
    }

    /// Runs lines of ip(8) in this namespace.
    pub fn ip(&self, lines: &str) -> Result<()> {
        let mut child = self
            .command("ip")
            .args(["-batch", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("nsenter cannot be started (package util-linux)")?;
        child.stdin.take().context("no standard input")?.write_all(lines.as_bytes())?;
        let done = child.wait_with_output()?;
        ensure!(done.status.success(), "ip: {}\n{lines}", String::from_utf8_lossy(&done.stderr));
        Ok(())
    }
}

/// The path by which other processes open a file that is open here.
pub(crate) fn open_file(file: &File) -> PathBuf {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()).into()
}

/// Namespaces on one Ethernet segment: the host's bridge, and others that are containers of that host or other
/// machines, as their processes' cgroups say. Every address is in 10.77.0.0/24 and fd77::/64.
#[derive(Debug)]
pub struct Lan {
    host: Network,
    next: Cell<u8>,
}

impl Lan {
    const BRIDGE: &str = "lan0";

    /// A LAN with the host on it.
    pub fn new() -> Result<Self> {
        let mut host = Network::isolated()?;
        let bridge = Self::BRIDGE;
        (host.v4, host.v6) = addresses(1);
        let (v4, v6) = (host.v4, host.v6);
        host.ip(&format!(
            "link add {bridge} type bridge\naddr add {v4}/24 dev {bridge}\naddr add {v6}/64 dev {bridge} nodad\n\
             link set {bridge} up\n"
        ))?;
        Ok(Self { host, next: Cell::new(2) })
    }

    /// The namespace of the host.
    pub fn host(&self) -> &Network {
        &self.host
    }

    /// Another namespace on the LAN, with the host as its router.
    pub fn join(&self) -> Result<Network> {
        let number = self.next.replace(self.next.get() + 1);
        let (bridge, port) = (Self::BRIDGE, format!("port{number}"));
        let mut network = Network::isolated()?;
        (network.v4, network.v6) = addresses(number);
        let (v4, v6) = (network.v4, network.v6);
        self.host.ip(&format!(
            "link add {port} type veth peer name eth0 netns {}\nlink set {port} master {bridge} up\n",
            network.path().display()
        ))?;
        network.ip(&format!(
            "addr add {v4}/24 dev eth0\naddr add {v6}/64 dev eth0 nodad\nlink set eth0 up\n\
             route add default via {}\nroute add default via {} dev eth0\n",
            self.host.v4, self.host.v6
        ))?;
        Ok(network)
    }
}

fn addresses(number: u8) -> (IpAddr, IpAddr) {
    let v6 = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, number.into());
    (Ipv4Addr::new(10, 77, 0, number).into(), v6.into())
}

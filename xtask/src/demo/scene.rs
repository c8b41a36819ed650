//! Who is there: cgroups, networks, servers.

use std::{
    env,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use bulkhead_tests::{Lab, Network, Place};

use super::serve::Service;

/// Somebody in the demo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    Web,
    Db,
    Secrets,
    Backup,
    Ci,
    Customer,
    Mirror,
}

impl Who {
    pub(crate) const ALL: [Self; 7] =
        [Self::Web, Self::Db, Self::Secrets, Self::Backup, Self::Ci, Self::Customer, Self::Mirror];

    /// The name in policies/demo.toml, or of a machine.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Web => "web",
            Self::Db => "db",
            Self::Secrets => "secrets",
            Self::Backup => "backup",
            Self::Ci => "ci",
            Self::Customer => "customer",
            Self::Mirror => "mirror",
        }
    }

    /// Its environment, if it is a workload.
    pub(crate) const fn environment(self) -> Option<&'static str> {
        match self {
            Self::Web | Self::Db | Self::Secrets | Self::Backup => Some("prod"),
            Self::Ci => Some("dev"),
            Self::Customer | Self::Mirror => None,
        }
    }

    /// Name and environment.
    pub(crate) fn label(self) -> String {
        match self.environment() {
            Some(environment) => format!("{} ({environment})", self.name()),
            None => self.name().to_owned(),
        }
    }

    /// The cgroup, if it is a workload of the host.
    const fn cgroup(self) -> Option<&'static str> {
        match self {
            Self::Web => Some("/prod/web"),
            Self::Db => Some("/prod/db"),
            Self::Secrets => Some("/prod/secrets"),
            Self::Backup => Some("/prod/backup"),
            Self::Ci => Some("/dev/ci"),
            Self::Customer | Self::Mirror => None,
        }
    }

    /// What it serves.
    const fn serves(self) -> Option<Service> {
        match self {
            Self::Web | Self::Customer | Self::Mirror => Some(Service::Http),
            Self::Db => Some(Service::Database),
            Self::Secrets => Some(Service::Secrets),
            Self::Backup | Self::Ci => None,
        }
    }

    const fn what(self) -> &'static str {
        match self {
            Self::Web => "HTTP server in a container",
            Self::Db => "database in a container",
            Self::Secrets => "listener on the host, port 8200",
            Self::Backup => "job on the host",
            Self::Ci => "CI job on the host",
            Self::Customer => "another machine",
            Self::Mirror => "another machine, a package mirror",
        }
    }
}

/// All of them, running.
#[derive(Debug)]
pub(crate) struct Scene {
    // Fields drop in this order: servers first, then where they run.
    servers: Vec<Server>,
    web: Network,
    db: Network,
    customer: Network,
    mirror: Network,
    lab: Lab,
}

impl Scene {
    /// Makes the networks and starts the servers.
    pub(crate) fn set() -> Result<Self> {
        let lab = Lab::new()?;
        // In this order they get the addresses that policies/demo.toml names.
        let (web, db, customer, mirror) = (lab.network()?, lab.network()?, lab.network()?, lab.network()?);
        let mut scene = Self { servers: Vec::new(), web, db, customer, mirror, lab };
        for who in Who::ALL {
            let place = scene.place(who)?;
            if let Some(service) = who.serves() {
                let server = Server::start(&place, service)
                    .with_context(|| format!("{} cannot be started", who.name()))?;
                scene.servers.push(server);
            }
        }
        Ok(scene)
    }

    /// Where it all happens.
    pub(crate) fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The cgroup that the agent watches.
    pub(crate) fn root(&self) -> Result<PathBuf> {
        Ok(self.lab.root()?.path().to_owned())
    }

    /// Where somebody's processes run.
    pub(crate) fn place(&self, who: Who) -> Result<Place<'_>> {
        let cgroup = who.cgroup().map_or_else(|| self.lab.outside(), |path| self.lab.cgroup(path))?;
        Ok(Place::new(cgroup, self.network(who)))
    }

    fn network(&self, who: Who) -> &Network {
        match who {
            Who::Web => &self.web,
            Who::Db => &self.db,
            Who::Customer => &self.customer,
            Who::Mirror => &self.mirror,
            Who::Secrets | Who::Backup | Who::Ci => self.lab.host(),
        }
    }

    /// Prints who is there.
    pub(crate) fn introduce(&self) {
        for who in Who::ALL {
            let address = self.network(who).v4;
            println!("    {:<15} {address:<10}  {}", who.label(), who.what());
        }
    }
}

/// A server of the demo: this program, in the part of it.
#[derive(Debug)]
struct Server(Child);

impl Server {
    fn start(place: &Place<'_>, service: Service) -> Result<Self> {
        let own = env::current_exe()?;
        let child = place
            .command(Path::new(&own))
            .args(["demo", "--serve", service.argument()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("nsenter cannot be started (package util-linux)")?;
        let mut server = Self(child);
        let mut said = String::new();
        let output = server.0.stdout.take().context("no standard output")?;
        BufReader::new(output).read_line(&mut said)?;
        ensure!(said == "listening\n", "it ended: {}", server.0.wait()?);
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be gone by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

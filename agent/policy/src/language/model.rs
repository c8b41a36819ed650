use std::fmt;

use super::{Cidr, Ports, Selector};
use crate::text::Place;

/// A policy in which every name is resolved.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// In the order of files and lines, as all of these.
    pub environments: Vec<Environment>,
    /// Processes on this host.
    pub workloads: Vec<Workload>,
    /// Named addresses.
    pub peers: Vec<Peer>,
    /// Who may open connections to whom.
    pub rules: Vec<Rule>,
    /// What no rule may allow.
    pub forbids: Vec<Forbid>,
    /// What the policy promises.
    pub tests: Vec<Test>,
    /// Is nothing refused, whatever the environments' modes say?
    pub(crate) dry_run: bool,
}

/// Index into [`Policy::environments`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EnvironmentId(pub usize);

/// Index into [`Policy::workloads`]. The workload's number in the kernel's tables is one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkloadId(pub usize);

/// How seriously an environment takes its policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// What no rule allows is refused.
    #[default]
    Enforce,
    /// What no rule allows is reported.
    Audit,
    /// Its workloads are left alone.
    Off,
}

impl Mode {
    /// The name that policies and reports use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Audit => "audit",
            Self::Off => "off",
        }
    }
}

/// A trust boundary.
#[derive(Clone, Debug)]
pub struct Environment {
    /// Its name.
    pub name: String,
    /// How seriously it is taken.
    pub mode: Mode,
    /// On a router: interfaces that it is behind.
    pub interfaces: Vec<String>,
    /// Addresses in it.
    pub cidrs: Vec<Cidr>,
    /// Where it is declared.
    pub place: Place,
}

/// Processes that one of its selectors names.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Its name.
    pub name: String,
    /// The environment that it is in.
    pub environment: Option<EnvironmentId>,
    /// What names its processes, each with its place.
    pub selectors: Vec<(Selector, Place)>,
    /// May everybody connect to it?
    pub ingress_open: bool,
    /// May it connect to everybody?
    pub egress_open: bool,
    /// Where it is declared.
    pub place: Place,
}

/// Addresses with a name.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// The environment that it is in.
    pub environment: Option<EnvironmentId>,
    /// Its addresses.
    pub cidrs: Vec<Cidr>,
    /// Its DNS names, lower case; a first label `*` stands for one or more labels.
    pub names: Vec<String>,
    /// Where it is declared.
    pub place: Place,
}

impl Peer {
    /// Is this one of its DNS names, or one that they stand for?
    pub(crate) fn has_name(&self, name: &str) -> bool {
        self.names.iter().any(|own| {
            let below = own.strip_prefix('*').and_then(|rest| name.strip_suffix(rest));
            own == name || below.is_some_and(|labels| !labels.is_empty())
        })
    }
}

/// One `[[allow]]`.
#[derive(Clone, Debug)]
pub struct Rule {
    /// As written, or derived from what the rule says.
    pub id: String,
    /// Who may open connections.
    pub from: Vec<End>,
    /// To whom.
    pub to: Vec<End>,
    /// Where to; none: every protocol and port.
    pub ports: Vec<Ports>,
    /// Nanoseconds since the Unix epoch from which on it holds no more; at least 1.
    pub expires: Option<u64>,
    /// Why it is there.
    pub reason: Option<String>,
    /// Where it is written.
    pub place: Place,
}

/// One `[[forbid]]`.
#[derive(Clone, Debug)]
pub struct Forbid {
    /// Who must not open connections.
    pub from: Vec<End>,
    /// To whom.
    pub to: Vec<End>,
    /// Where to; none: every protocol and port.
    pub ports: Vec<Ports>,
    /// Rules that may, as indices into [`Policy::rules`].
    pub except: Vec<usize>,
    /// Why.
    pub reason: Option<String>,
    /// Where it is written.
    pub place: Place,
}

/// One `[[test]]`.
#[derive(Clone, Debug)]
pub struct Test {
    /// What it shows.
    pub name: String,
    /// Who connects: each of them.
    pub from: Vec<End>,
    /// To whom: each of them.
    pub to: Vec<End>,
    /// To which ports: each of them.
    pub ports: Vec<Ports>,
    /// What must come of it.
    pub expect: Expectation,
    /// Where it is written.
    pub place: Place,
}

/// What a [`Test`] expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expectation {
    /// The connection is allowed.
    Allow,
    /// The connection is refused, or would be if its environment were enforced.
    Deny,
}

/// One of the ends that a rule names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    /// Everybody.
    Any,
    /// This machine's addresses.
    Host,
    /// This machine's DNS resolvers.
    Dns,
    /// Addresses that are not routed on the internet.
    Private,
    /// Addresses that are.
    Internet,
    /// Everything in an environment.
    Environment(EnvironmentId),
    /// A workload.
    Workload(WorkloadId),
    /// A peer, as index into [`Policy::peers`].
    Peer(usize),
    /// Addresses.
    Cidr(Cidr),
}

impl End {
    /// The ends with a name of their own.
    pub(crate) const BUILT_IN: [(&'static str, Self); 5] = [
        ("any", Self::Any),
        ("host", Self::Host),
        ("dns", Self::Dns),
        ("private", Self::Private),
        ("internet", Self::Internet),
    ];
}

impl Policy {
    /// Refuses nothing from now on: what is enforced is audited.
    pub fn dry_run(&mut self) {
        self.dry_run = true;
    }

    /// How seriously the workload's environment is taken. A workload in no environment is enforced.
    pub fn mode(&self, workload: WorkloadId) -> Mode {
        let declared =
            self.workloads[workload.0].environment.map_or(Mode::Enforce, |e| self.environments[e.0].mode);
        if self.dry_run && declared == Mode::Enforce { Mode::Audit } else { declared }
    }

    /// The workload of this name.
    pub fn workload(&self, name: &str) -> Option<WorkloadId> {
        self.workloads.iter().position(|w| w.name == name).map(WorkloadId)
    }

    /// The workloads in an environment.
    pub fn members(&self, environment: EnvironmentId) -> impl Iterator<Item = WorkloadId> {
        let all = self.workloads.iter().enumerate();
        all.filter(move |(_, w)| w.environment == Some(environment)).map(|(n, _)| WorkloadId(n))
    }

    /// `end` as policies write it.
    pub fn end_name(&self, end: End) -> impl fmt::Display {
        match end {
            End::Environment(e) => format!("env:{}", self.environments[e.0].name),
            End::Workload(w) => self.workloads[w.0].name.clone(),
            End::Peer(p) => self.peers[p].name.clone(),
            End::Cidr(cidr) => cidr.to_string(),
            built_in => {
                End::BUILT_IN.iter().find(|(_, e)| *e == built_in).map_or("", |(name, _)| name).to_owned()
            }
        }
    }
}

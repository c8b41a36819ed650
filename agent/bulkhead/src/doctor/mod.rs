//! `bulkhead doctor`: does this machine have what enforcement takes? With an agent or without.
//!
//! Each check says what it has found; where that is not as it should be, also what follows and what to do. Nothing is
//! changed, but by the self-test in cgroups of its own.

mod agent;
mod cgroups;
mod clock;
mod containers;
mod finding;
mod kernel;
mod pins;
mod privileges;
mod processes;
mod self_test;
mod settings;

use std::{io, path::PathBuf};

use bulkhead_workloads::CgroupRoot;

pub(crate) use self::self_test::visit;
use self::{agent::Agent, finding::Finding};
use crate::{
    cli::Output,
    output::{self, Outcome},
};

/// Where to look.
#[derive(Debug)]
pub(crate) struct Places {
    pub(crate) bpffs: PathBuf,
    /// None: the root of the hierarchy.
    pub(crate) cgroup_root: Option<PathBuf>,
    pub(crate) control_socket: PathBuf,
}

/// Looks at all of it.
pub(crate) fn doctor(places: &Places, self_test: bool, output: Output) -> io::Result<Outcome> {
    let agent = Agent::ask(&places.control_socket)?;
    let root = CgroupRoot::find(places.cgroup_root.as_deref());
    let pinned = pins::Pins::below(&places.bpffs);
    let mut findings = vec![
        kernel::release(),
        kernel::types(),
        kernel::lockdown(),
        kernel::security_programs(),
        privileges::capabilities(),
        privileges::memory_lock(),
        settings::compiler(),
        settings::statistics(),
        settings::unprivileged(),
    ];
    findings.extend(cgroups::layout());
    findings.push(cgroups::root(places.cgroup_root.is_some(), &root));
    findings.push(pins::bpffs(&places.bpffs));
    findings.extend(pinned.findings());
    findings.push(agent.finding(pinned.enforce()));
    findings.push(processes::privileged(agent.workloads().as_deref()));
    findings.push(clock::clock());
    findings.push(containers::runtimes());
    if self_test {
        findings.extend(self_test::self_test(root.as_ref()));
    }
    Ok(Outcome {
        text: match output {
            Output::Json => finding::json(&findings),
            Output::Human => finding::human(&findings, output::color(&io::stdout())),
        },
        finding: findings.iter().any(Finding::is_failure),
    })
}

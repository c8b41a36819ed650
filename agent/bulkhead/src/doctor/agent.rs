//! Whether an agent runs.

use std::{io, path::Path};

use bulkhead_workloads::CgroupRoot;

use super::finding::Finding;
use crate::{
    control::{ClientError, STATUS, Status, get},
    output::plural,
};

/// What the agent on a control socket answers.
#[derive(Debug)]
pub(super) struct Agent(Result<Box<Status>, ClientError>);

impl Agent {
    pub(super) fn ask(control_socket: &Path) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self(runtime.block_on(get(control_socket, STATUS)).map(Box::new)))
    }

    /// The cgroups that are in a workload, as /proc/PID/cgroup spells them; none: nobody tells.
    pub(super) fn workloads(&self) -> Option<Vec<String>> {
        let status = self.0.as_ref().ok()?;
        let root = CgroupRoot::find(Some(&status.cgroup_root)).ok()?;
        let cgroups = status.workloads.iter().flat_map(|workload| &workload.cgroups);
        Some(cgroups.map(|path| root.spell(path)).collect())
    }

    /// `pins_enforce`: do pinned programs go on without it?
    pub(super) fn finding(&self, pins_enforce: bool) -> Finding {
        const CHECK: &str = "agent";
        match &self.0 {
            Ok(status) => running(CHECK, status),
            Err(ClientError::NoAgent(socket)) if pins_enforce => Finding::warning(
                CHECK,
                format_args!("none answers on {}, and pinned programs are attached", socket.display()),
                "the kernel goes on refusing by the last policy; nothing is reported, and addresses that change are not \
                 followed",
                "`bulkhead run`, which takes over; or `bulkhead detach`, which ends enforcement",
            ),
            Err(ClientError::NoAgent(socket)) => {
                Finding::ok(CHECK, format_args!("none answers on {}", socket.display()))
                    .which_means("nothing is enforced or reported")
            }
            Err(error) => Finding::warning(
                CHECK,
                error,
                "whether it enforces is not known",
                "run `bulkhead doctor` as root; if that is no help, start the agent again",
            ),
        }
    }
}

fn running(check: &'static str, status: &Status) -> Finding {
    let doing = if status.dry_run { "dry run: nothing is refused" } else { "enforcing" };
    let found = format!("bulkhead {} (pid {}), {doing}", status.version, status.pid);
    if status.version != env!("CARGO_PKG_VERSION") {
        return Finding::warning(
            check,
            format_args!("{found}; this is {}", env!("CARGO_PKG_VERSION")),
            "what this version tells of itself need not hold for the agent",
            "start the agent again",
        );
    }
    if !status.warnings.is_empty() {
        return Finding::warning(
            check,
            format_args!("{found}, with {}", plural(status.warnings.len(), "warning")),
            "part of the policy may not be in force",
            "read them: `bulkhead status`",
        );
    }
    Finding::ok(check, found)
}

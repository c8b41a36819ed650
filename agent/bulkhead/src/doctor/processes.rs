//! Processes that may undo what is enforced.

use std::collections::BTreeMap;

use bulkhead_datapath::facts;
use bulkhead_workloads::{Privileged, privileged as find};

use super::finding::Finding;
use crate::output::plural;

/// How many cgroups are named.
const NAMED: usize = 8;

/// Those outside the root cgroup; where the agent tells what its workloads are, those in workloads.
pub(super) fn privileged(workloads: Option<&[String]>) -> Finding {
    let raw_counts = facts::security_programs().is_err();
    let found = find(raw_counts);
    let capabilities = if raw_counts {
        "CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_BPF or CAP_NET_RAW"
    } else {
        "CAP_NET_ADMIN, CAP_SYS_ADMIN or CAP_BPF"
    };
    judge(&found, workloads, capabilities)
}

fn judge(all: &[Privileged], workloads: Option<&[String]>, capabilities: &str) -> Finding {
    const CHECK: &str = "privileged-processes";
    const CONSEQUENCE: &str = "such a process can detach the programs, leave its cgroup or send packets past them: no \
                               policy holds it";
    let Some(workloads) = workloads else {
        let Some(named) = name(all.iter()) else {
            return Finding::ok(CHECK, format_args!("none outside the root cgroup has {capabilities}"));
        };
        return Finding::ok(CHECK, format_args!("with {capabilities}: {named}")).which_means(format_args!(
            "{CONSEQUENCE}. Take these capabilities from what you make a workload"
        ));
    };
    let held = all.iter().filter(|process| workloads.iter().any(|cgroup| is_in(&process.cgroup, cgroup)));
    match name(held) {
        None => Finding::ok(CHECK, format_args!("none of a workload has {capabilities}")),
        Some(named) => Finding::warning(
            CHECK,
            format_args!("workloads have processes with {capabilities}: {named}"),
            CONSEQUENCE,
            "take the capabilities from them (CapabilityBoundingSet= of a unit, --cap-drop of a container)",
        ),
    }
}

fn is_in(cgroup: &str, workload: &str) -> bool {
    cgroup.strip_prefix(workload).is_some_and(|below| below.is_empty() || below.starts_with('/'))
}

/// Processes by their cgroup; none: there are none.
fn name<'a>(processes: impl Iterator<Item = &'a Privileged>) -> Option<String> {
    let mut by_cgroup: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for process in processes {
        by_cgroup.entry(&process.cgroup).or_default().push(format!("{}[{}]", process.comm, process.pid));
    }
    let named = by_cgroup.iter().take(NAMED).map(|(cgroup, processes)| {
        let more = processes.len() - 1;
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("{}{more} in {cgroup}", processes[0])
    });
    let left = by_cgroup.len().saturating_sub(NAMED);
    let more = (left > 0).then(|| format!("those in {}", plural(left, "more cgroup")));
    let named = named.chain(more).collect::<Vec<_>>().join(", ");
    (!by_cgroup.is_empty()).then_some(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32, cgroup: &str) -> Privileged {
        Privileged { pid, comm: "sshd".to_owned(), cgroup: cgroup.to_owned() }
    }

    #[test]
    fn with_an_agent_only_those_of_workloads_are_a_warning() {
        let all = [process(7, "/system.slice/web.service/worker"), process(8, "/system.slice/sshd.service")];
        let unknown = format!("{:?}", judge(&all, None, "CAP_BPF"));
        assert!(unknown.contains("result: Ok") && unknown.contains("sshd[8]"), "{unknown}");
        let said = |workload: &str| format!("{:?}", judge(&all, Some(&[workload.to_owned()]), "CAP_BPF"));
        let of_web = said("/system.slice/web.service");
        assert!(of_web.contains("result: Warning") && of_web.contains("sshd[7] in"), "{of_web}");
        assert!(!of_web.contains("sshd[8]"), "{of_web}");
        assert!(said("/system.slice/we").contains("none of a workload"));
    }

    #[test]
    fn many_are_named_by_their_cgroups() {
        let all: Vec<_> = (0..20).map(|n| process(n, &format!("/a/{}", n / 2))).collect();
        let named = name(all.iter()).unwrap();
        assert!(named.starts_with("sshd[0] and 1 more in /a/0, sshd[2]"), "{named}");
        assert!(named.ends_with(", those in 2 more cgroups"), "{named}");
    }
}

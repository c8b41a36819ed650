//! What this process may do, and how much memory it may take: the agent, started likewise, may do the same.

use bulkhead_datapath::facts::{self, Privileges};
use rustix::process::{Resource, getrlimit};

use super::finding::Finding;

/// Has it the capabilities that loading and attaching take?
pub(super) fn capabilities() -> Finding {
    const CHECK: &str = "capabilities";
    match facts::privileges() {
        Ok(Privileges { missing, .. }) if !missing.is_empty() => Finding::failure(
            CHECK,
            format_args!("{} missing", missing.join(", ")),
            "`bulkhead run`, started like this, does not start",
            "run it as root, or give it CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON",
        ),
        Ok(Privileges { missing_to_tag, .. }) if !missing_to_tag.is_empty() => Finding::warning(
            CHECK,
            format_args!("{} missing", missing_to_tag.join(", ")),
            "sockets that are older than the agent are told apart by their packets alone, not by calls",
            "give it CAP_SYS_PTRACE and CAP_SYS_ADMIN, or start workloads after it",
        ),
        Ok(_) => Finding::ok(CHECK, "all that loading, attaching and tagging take"),
        Err(error) => Finding::failure(
            CHECK,
            format_args!("{:#}", anyhow::Error::new(error)),
            "`bulkhead run` does not start",
            "`mount -t proc proc /proc`",
        ),
    }
}

/// Before Linux 5.11 maps count as locked memory, of which a process may have little.
pub(super) fn memory_lock() -> Finding {
    const CHECK: &str = "memory-lock";
    if !facts::kernel_is_before(5, 11) {
        return Finding::ok(CHECK, "BPF maps are no locked memory on this kernel: no limit to set");
    }
    let limit = getrlimit(Resource::Memlock);
    let Some(most) = limit.maximum else { return Finding::ok(CHECK, "no limit to locked memory") };
    if facts::privileges().is_ok_and(|privileges| privileges.raises_limits) {
        return Finding::ok(
            CHECK,
            format_args!("at most {most} bytes of locked memory, which the agent raises"),
        );
    }
    Finding::failure(
        CHECK,
        format_args!("at most {most} bytes of locked memory, and no CAP_SYS_RESOURCE to raise it"),
        "`bulkhead run`, started like this, does not start: the kernel takes BPF maps for locked memory",
        "`ulimit -l unlimited`, or LimitMEMLOCK=infinity in its unit",
    )
}

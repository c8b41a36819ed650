//! What the kernel was built and booted with.

use std::fs;

use bulkhead_datapath::{DatapathError, Unguarded, facts};

use super::finding::Finding;

/// Is it new enough?
pub(super) fn release() -> Finding {
    const CHECK: &str = "kernel";
    let found = format!("Linux {}", facts::kernel_release());
    if facts::kernel_is_before(5, 10) {
        let consequence =
            "`bulkhead run` does not start: the programs need socket storage in cgroup programs";
        return Finding::failure(CHECK, found, consequence, "boot Linux 5.10 or newer");
    }
    if facts::kernel_is_before(5, 11) {
        return Finding::warning(
            CHECK,
            found,
            "MPTCP sockets are refused to isolated workloads, since no program sees their further connections",
            "boot Linux 5.11 or newer if workloads use MPTCP",
        );
    }
    let finding = Finding::ok(CHECK, found);
    if facts::kernel_is_before(6, 6) {
        return finding.which_means(
            "before Linux 6.6 no program sees the kernel's answer to an IPv6 connection's first packet; its next packet is \
             judged",
        );
    }
    finding
}

/// Does it describe its structures?
pub(super) fn types() -> Finding {
    const CHECK: &str = "kernel-types";
    match facts::kernel_types() {
        Ok(()) => Finding::ok(CHECK, "/sys/kernel/btf/vmlinux tells all that the programs read"),
        Err(error) => {
            let found = match error {
                DatapathError::KernelTypes { source } => format!("/sys/kernel/btf/vmlinux: {source}"),
                other => other.to_string(),
            };
            Finding::failure(
                CHECK,
                found,
                "`bulkhead run` does not start: a new cgroup could not be identified before its first process runs",
                "boot a kernel with CONFIG_DEBUG_INFO_BTF=y, as distributions build it",
            )
        }
    }
}

/// Does it let programs read its memory?
pub(super) fn lockdown() -> Finding {
    const CHECK: &str = "lockdown";
    let modes = fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    match mode(&modes) {
        Some("confidentiality") => Finding::failure(
            CHECK,
            "the kernel is locked down for confidentiality",
            "`bulkhead run` does not start: the kernel refuses programs that read its structures",
            "boot with `lockdown=integrity`, or without the parameter",
        ),
        Some(mode) => {
            Finding::ok(CHECK, format_args!("{mode}: nothing that the programs do is kept from them"))
        }
        None => Finding::ok(CHECK, "none, as far as the kernel tells"),
    }
}

/// The mode in force among all, such as `none [integrity] confidentiality`.
fn mode(modes: &str) -> Option<&str> {
    Some(modes.split_once('[')?.1.split_once(']')?.0)
}

/// Does it run programs at its security hooks?
pub(super) fn security_programs() -> Finding {
    const CHECK: &str = "lsm";
    const CONSEQUENCE: &str = "packet sockets (AF_PACKET, AF_XDP), vsock, SMC, TIPC and TUN devices are not refused to \
                               workloads: what they send passes unseen";
    let why = match facts::security_programs() {
        Ok(()) => return Finding::ok(CHECK, "the kernel runs BPF security programs"),
        Err(why) => why,
    };
    let (found, remedy) = match &why {
        Unguarded::NotRun { now } => (
            format!("the kernel runs no BPF security programs (its modules: {now})"),
            format!(
                "boot with `lsm={now},bpf`; until then take CAP_NET_RAW and CAP_NET_ADMIN from workloads"
            ),
        ),
        Unguarded::Unknown(error) => (
            format!("/sys/kernel/security/lsm, which tells whether BPF security programs are run: {error}"),
            "`mount -t securityfs securityfs /sys/kernel/security`".to_owned(),
        ),
        other => (other.to_string(), "take CAP_NET_RAW and CAP_NET_ADMIN from workloads".to_owned()),
    };
    Finding::warning(CHECK, found, CONSEQUENCE, remedy)
}

#[cfg(test)]
mod tests {
    use super::mode;

    #[test]
    fn the_mode_in_force_is_the_one_in_brackets() {
        assert_eq!(mode("none integrity [confidentiality]\n"), Some("confidentiality"));
        assert_eq!(mode("[none] integrity confidentiality\n"), Some("none"));
        assert_eq!(mode(""), None);
    }
}

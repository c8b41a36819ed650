//! Settings of the kernel that have to do with BPF programs.

use std::fs;

use super::finding::Finding;

/// Are programs compiled to machine code?
pub(super) fn compiler() -> Finding {
    const CHECK: &str = "bpf-compiler";
    match read("net/core/bpf_jit_enable").as_deref() {
        Some("0") => Finding::warning(
            CHECK,
            "the kernel interprets BPF programs (net.core.bpf_jit_enable is 0)",
            "every packet of a workload costs several times as much",
            "`sysctl -w net.core.bpf_jit_enable=1`",
        ),
        Some(_) => Finding::ok(CHECK, "BPF programs are compiled to machine code"),
        None => untold(CHECK, "net.core.bpf_jit_enable"),
    }
}

/// Is every run of a program measured?
pub(super) fn statistics() -> Finding {
    const CHECK: &str = "bpf-statistics";
    match read("kernel/bpf_stats_enabled").as_deref() {
        Some("0") => Finding::ok(CHECK, "runs of BPF programs are not measured"),
        Some(_) => Finding::warning(
            CHECK,
            "the kernel measures every run of a BPF program (kernel.bpf_stats_enabled is 1)",
            "every packet of a workload costs about 60 ns more for each program that it meets",
            "`sysctl -w kernel.bpf_stats_enabled=0` when the measurement is over",
        ),
        None => untold(CHECK, "kernel.bpf_stats_enabled"),
    }
}

/// May anybody load programs?
pub(super) fn unprivileged() -> Finding {
    const CHECK: &str = "unprivileged-bpf";
    match read("kernel/unprivileged_bpf_disabled").as_deref() {
        Some("0") => Finding::warning(
            CHECK,
            "every user may load BPF programs (kernel.unprivileged_bpf_disabled is 0)",
            "workloads reach a part of the kernel with a history of holes; Bulkhead itself needs no such right",
            "`sysctl -w kernel.unprivileged_bpf_disabled=2`",
        ),
        Some(_) => Finding::ok(CHECK, "only privileged processes may load BPF programs"),
        None => untold(CHECK, "kernel.unprivileged_bpf_disabled"),
    }
}

fn untold(check: &'static str, setting: &str) -> Finding {
    Finding::ok(check, format_args!("{setting} cannot be read here"))
}

/// What a setting is; none: the kernel has none of this name, or does not tell.
fn read(name: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/sys/{name}")).ok()?;
    Some(text.trim().to_owned())
}

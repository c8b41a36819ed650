//! Container runtimes.

use std::{collections::BTreeSet, path::Path};

use bulkhead_workloads::Layout;

use super::finding::Finding;

/// A runtime, and how it is known.
struct Runtime {
    name: &'static str,
    /// Where it answers, if it does: not all have a daemon.
    socket: &'static str,
    /// How the names of its containers' cgroups begin.
    prefix: &'static str,
    /// A selector of them, as systemd makes them.
    selector: &'static str,
}

const RUNTIMES: [Runtime; 5] = [
    Runtime {
        name: "docker",
        socket: "run/docker.sock",
        prefix: "docker-",
        selector: "/system.slice/docker-*.scope",
    },
    Runtime {
        name: "podman",
        socket: "run/podman/podman.sock",
        prefix: "libpod-",
        selector: "/machine.slice/libpod-*.scope",
    },
    Runtime {
        name: "Kubernetes",
        socket: "run/k3s/containerd/containerd.sock",
        prefix: "kubepods",
        selector: "/kubepods.slice/**",
    },
    Runtime {
        name: "containerd",
        socket: "run/containerd/containerd.sock",
        prefix: "cri-containerd-",
        selector: "/kubepods.slice/**",
    },
    Runtime { name: "cri-o", socket: "run/crio/crio.sock", prefix: "crio-", selector: "/kubepods.slice/**" },
];

/// Those of this host.
pub(super) fn runtimes() -> Finding {
    judge(Path::new("/"), &Layout::read().unwrap_or_default().names())
}

fn judge(root: &Path, cgroups: &BTreeSet<String>) -> Finding {
    const CHECK: &str = "containers";
    let is_here = |runtime: &&Runtime| {
        root.join(runtime.socket).exists() || cgroups.iter().any(|name| name.starts_with(runtime.prefix))
    };
    let found: Vec<_> = RUNTIMES.iter().filter(is_here).collect();
    let Some(first) = found.first() else {
        return Finding::ok(CHECK, "no container runtime answers, and no container runs");
    };
    let names: Vec<&str> = found.iter().map(|runtime| runtime.name).collect();
    Finding::warning(
        CHECK,
        names.join(", "),
        "selectors by `container` or `kubernetes` are not followed yet: such a workload selects nothing, and its containers \
         are left alone",
        format_args!(
            "select containers by their cgroup, such as `select = {{ cgroup = \"{}\" }}`",
            first.selector
        ),
    )
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn runtimes_are_known_by_their_sockets_and_their_containers() {
        let host = tempfile::tempdir().unwrap();
        let said = |cgroups: &[&str]| {
            let names = cgroups.iter().map(|&name| name.to_owned()).collect();
            format!("{:?}", judge(host.path(), &names))
        };
        assert!(said(&["system.slice", "docker.service"]).contains("result: Ok"));
        assert!(said(&["libpod-4f2a.scope"]).contains("found: \"podman\""));
        fs::create_dir_all(host.path().join("run/crio")).unwrap();
        fs::write(host.path().join("run/crio/crio.sock"), "").unwrap();
        assert!(said(&["docker-91.scope"]).contains("found: \"docker, cri-o\""));
    }
}

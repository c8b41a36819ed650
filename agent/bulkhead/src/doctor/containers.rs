//! Container runtimes.

use std::path::Path;

use super::finding::Finding;

/// Where runtimes answer, and how their containers' cgroups are called when systemd makes them.
const RUNTIMES: [(&str, &str, &str); 6] = [
    ("docker", "run/docker.sock", "/system.slice/docker-*.scope"),
    ("podman", "run/podman/podman.sock", "/machine.slice/libpod-*.scope"),
    ("k3s", "run/k3s/containerd/containerd.sock", "/kubepods.slice/**/cri-containerd-*.scope"),
    ("containerd", "run/containerd/containerd.sock", "/kubepods.slice/**/cri-containerd-*.scope"),
    ("cri-o", "run/crio/crio.sock", "/kubepods.slice/**/crio-*.scope"),
    ("lxd", "var/lib/lxd/unix.socket", "/lxc.payload.*"),
];

/// Those of the host below `root`.
pub(super) fn runtimes(root: &Path) -> Finding {
    const CHECK: &str = "containers";
    let found: Vec<_> = RUNTIMES.iter().filter(|(_, socket, _)| root.join(socket).exists()).collect();
    let Some((_, _, cgroups)) = found.first() else {
        return Finding::ok(CHECK, "no container runtime answers");
    };
    let names: Vec<&str> = found.iter().map(|(name, _, _)| *name).collect();
    Finding::warning(
        CHECK,
        names.join(", "),
        "selectors by `container` or `kubernetes` are not followed yet: such a workload selects nothing, and its containers \
         are left alone",
        format_args!("select containers by their cgroup, such as `select = {{ cgroup = \"{cgroups}\" }}`"),
    )
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn runtimes_are_known_by_their_sockets() {
        let host = tempfile::tempdir().unwrap();
        assert_eq!(runtimes(host.path()), Finding::ok("containers", "no container runtime answers"));
        fs::create_dir_all(host.path().join("run/podman")).unwrap();
        fs::write(host.path().join("run/podman/podman.sock"), "").unwrap();
        fs::write(host.path().join("run/crio.sock"), "").unwrap();
        let said = format!("{:?}", runtimes(host.path()));
        assert!(said.contains("found: \"podman\"") && said.contains("libpod-*.scope"), "{said}");
    }
}

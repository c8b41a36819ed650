//! What must not be cut by surprise: the way by which the operator came, and what a machine cannot do without.

use std::{collections::BTreeSet, env, fs, os::unix::fs::MetadataExt as _};

use bulkhead_common::Direction;
use bulkhead_datapath::Live;

/// Command names of SSH servers; OpenSSH's sessions are `sshd-session` since 9.8.
const SSH: [&str; 3] = ["sshd", "sshd-session", "dropbear"];
/// Those of what a Kubernetes node is held together by.
const KUBERNETES: [&str; 6] = ["kube-apiserver", "kubelet", "kube-proxy", "k3s-server", "k3s-agent", "rke2"];
/// Where the Kubernetes API usually is; MicroK8s has it at the second.
const KUBERNETES_API: [u16; 2] = [6443, 16443];
/// Plain (RFC 1035), and over TLS (RFC 7858) or QUIC (RFC 9250).
const DNS: [u16; 2] = [53, 853];
/// So many processes are looked at on the way up to the first.
const HIGHEST: usize = 64;

/// The processes that hold a connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Holders {
    pids: Vec<u32>,
    /// Command names of those that root runs. Whoever else bears such a name has only given it to himself.
    of_root: BTreeSet<String>,
}

impl Holders {
    pub(super) fn of(pids: &[u32]) -> Self {
        let of_root = pids.iter().filter(|pid| is_roots(**pid)).filter_map(|pid| comm(*pid));
        Self { pids: pids.to_vec(), of_root: of_root.collect() }
    }
}

/// What a connection is that would be missed, if it is one of those. `session`: the caller and those above it.
pub(super) fn of(live: &Live, holders: &Holders, session: &[u32]) -> Option<&'static str> {
    let is_held_by = |names: &[&str]| names.iter().any(|name| holders.of_root.contains(*name));
    let is_to = |ports: &[u16]| match live.opened {
        Some(way) => ports.contains(&live.service_port(way)),
        // It may have been opened either way.
        None => ports.contains(&live.local.port()) || ports.contains(&live.remote.port()),
    };
    if holders.pids.iter().any(|pid| session.contains(pid)) {
        Some("session")
    } else if is_held_by(&SSH) || (is_to(&[22]) && live.opened != Some(Direction::Egress)) {
        Some("ssh")
    } else if is_held_by(&KUBERNETES) || is_to(&KUBERNETES_API) || is_cluster_api(live) {
        Some("kubernetes-api")
    } else if is_to(&DNS) {
        Some("dns")
    } else {
        None
    }
}

/// Is it to the API of the cluster that the agent itself runs in?
fn is_cluster_api(live: &Live) -> bool {
    let told = |name| env::var(name).ok();
    let address = told("KUBERNETES_SERVICE_HOST").and_then(|host| host.parse().ok());
    let port = told("KUBERNETES_SERVICE_PORT").and_then(|port| port.parse().ok());
    address == Some(live.remote.ip()) && port == Some(live.remote.port())
}

/// The caller and the processes above it, but for the first: that holds sockets for everybody.
pub(super) fn ancestors(caller: Option<u32>) -> Vec<u32> {
    let above = std::iter::successors(caller, |pid| parent(*pid));
    above.take_while(|pid| *pid > 1).take(HIGHEST).collect()
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // "pid (comm) state ppid": the command name may hold anything, parentheses included (proc(5)).
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Does root run it? (The directory is owned by the effective user: `task_dump_owner` in fs/proc/base.c.)
fn is_roots(pid: u32) -> bool {
    fs::metadata(format!("/proc/{pid}")).is_ok_and(|process| process.uid() == 0)
}

/// A process's command name.
pub(super) fn comm(pid: u32) -> Option<String> {
    let comm = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(comm.trim_end_matches('\n').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn live(local: &str, remote: &str, opened: Option<Direction>) -> Live {
        Live {
            protocol: 6,
            local: local.parse().unwrap(),
            remote: remote.parse().unwrap(),
            cgroup: 1,
            peer_cgroup: 0,
            opened,
            pids: [].into(),
        }
    }

    fn held_by(comm: &str) -> Holders {
        Holders { pids: vec![4711], of_root: BTreeSet::from([comm.into()]) }
    }

    #[test]
    fn what_locks_out_is_told() {
        const OUT: Option<Direction> = Some(Direction::Egress);
        const IN: Option<Direction> = Some(Direction::Ingress);
        let web = live("10.0.0.1:40000", "10.0.0.2:443", OUT);
        assert_eq!(of(&web, &held_by("curl"), &[]), None);
        assert_eq!(of(&web, &held_by("curl"), &[4711]), Some("session"));
        assert_eq!(of(&web, &held_by("sshd-session"), &[]), Some("ssh"));
        assert_eq!(of(&web, &held_by("kubelet"), &[]), Some("kubernetes-api"));
        let pretends = Holders { of_root: BTreeSet::new(), ..held_by("sshd") };
        assert_eq!(of(&web, &pretends, &[]), None);
        let cases = [
            ("10.0.0.1:22", "10.0.0.2:40000", IN, Some("ssh")),
            ("10.0.0.1:22", "10.0.0.2:40000", None, Some("ssh")),
            ("10.0.0.1:40000", "10.0.0.2:22", OUT, None),
            ("10.0.0.1:40000", "10.0.0.2:6443", OUT, Some("kubernetes-api")),
            ("10.0.0.1:40000", "10.0.0.2:53", OUT, Some("dns")),
            ("10.0.0.1:853", "10.0.0.2:40000", IN, Some("dns")),
            ("10.0.0.1:40000", "10.0.0.2:53", IN, None),
        ];
        for (local, remote, opened, guard) in cases {
            assert_eq!(of(&live(local, remote, opened), &held_by("x"), &[]), guard, "{local} {remote}");
        }
    }

    #[test]
    fn a_session_is_the_caller_and_who_is_above() {
        let above = ancestors(Some(std::process::id()));
        assert_eq!(above[..2], [std::process::id(), std::os::unix::process::parent_id()]);
        assert!(!above.contains(&1));
        assert_eq!(ancestors(None), [] as [u32; 0]);
    }
}

//! The sockets of this host, by the processes that hold them.

use std::{
    collections::{HashMap, HashSet},
    fs,
    os::fd::OwnedFd,
    thread,
};

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::{DatapathError, sock_diag};

/// The sockets of a network namespace, by cookie.
pub(crate) type Listed = HashMap<u64, sock_diag::Socket>;

/// What came of a visit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Visited {
    /// Sockets of which the visitor said yes.
    pub(crate) sockets: usize,
    /// Network namespaces whose sockets could not be listed.
    pub(crate) unreadable_namespaces: usize,
}

/// Lists the sockets of each network namespace, and visits those `wanted` that a process of this host holds; counts
/// those of which `each` says yes.
///
/// No other socket is opened: one that its process closes while it is visited stays open, and its port taken, until the
/// visit is over.
pub(crate) fn visit_all(
    mut listed: impl FnMut(&Listed) -> Result<(), DatapathError>,
    wanted: impl Fn(&sock_diag::Socket) -> bool,
    mut each: impl FnMut(&OwnedFd, &sock_diag::Socket) -> bool,
) -> Result<Visited, DatapathError> {
    let mut visited = Visited::default();
    for pids in processes_by_namespace().into_values() {
        let Some(sockets) = sockets_of(&pids) else {
            visited.unreadable_namespaces += 1;
            continue;
        };
        listed(&sockets)?;
        let mut left: HashSet<u32> =
            sockets.values().filter(|socket| wanted(socket)).map(|socket| socket.inode).collect();
        for pid in pids {
            visited.sockets += visit_process(pid, &sockets, &mut each, &mut left);
        }
    }
    Ok(visited)
}

/// Visits what is `left` of a namespace's sockets by their inodes. A process that ends meanwhile, or a descriptor that is
/// closed, is skipped: its socket is gone or held by others.
fn visit_process(
    pid: u32,
    sockets: &Listed,
    each: &mut impl FnMut(&OwnedFd, &sock_diag::Socket) -> bool,
    left: &mut HashSet<u32>,
) -> usize {
    let Some(process) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return 0 };
    let Ok(process) = pidfd_open(process, PidfdFlags::empty()) else { return 0 };
    let mut yes = 0;
    for (number, inode) in sockets_held(pid) {
        if left.contains(&inode)
            && let Ok(socket) = pidfd_getfd(&process, number, PidfdGetfdFlags::empty())
        {
            left.remove(&inode);
            let known =
                rustix::net::sockopt::socket_cookie(&socket).ok().and_then(|cookie| sockets.get(&cookie));
            yes += usize::from(known.is_some_and(|known| each(&socket, known)));
        }
    }
    yes
}

/// A socket that processes hold.
pub(crate) struct Held<T> {
    /// What was seen of it; none: it could not be opened.
    pub(crate) seen: Option<T>,
    pub(crate) pids: Vec<u32>,
}

/// Those of `wanted` that processes among `pids` hold, by the number of the file, and what `look` sees of each. Its descriptor is
/// given up with `look`: workloads may have more sockets than the agent may open at once.
pub(crate) fn holders<T>(
    pids: &[u32],
    wanted: &HashSet<u32>,
    look: impl Fn(OwnedFd) -> T,
) -> HashMap<u32, Held<T>> {
    let mut held: HashMap<u32, Held<T>> = HashMap::new();
    for pid in pids {
        for (number, inode) in sockets_held(*pid).filter(|(_, inode)| wanted.contains(inode)) {
            let known = held.entry(inode).or_insert_with(|| Held { seen: None, pids: Vec::new() });
            if known.pids.last() != Some(pid) {
                known.pids.push(*pid);
            }
            if known.seen.is_none() {
                known.seen = open(*pid, number).map(&look);
            }
        }
    }
    held
}

fn open(pid: u32, number: i32) -> Option<OwnedFd> {
    let process = pidfd_open(i32::try_from(pid).ok().and_then(Pid::from_raw)?, PidfdFlags::empty()).ok()?;
    pidfd_getfd(&process, number, PidfdGetfdFlags::empty()).ok()
}

/// The sockets among the files of a process: descriptor, and number of the file.
pub(crate) fn sockets_held(pid: u32) -> impl Iterator<Item = (i32, u32)> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let target = fs::read_link(entry.path()).ok()?;
        let inode = target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()?;
        Some((entry.file_name().to_str()?.parse().ok()?, inode))
    })
}

/// The raw sockets of a network namespace that processes among `pids` hold, all of which are in it. Few kernels list them
/// over netlink (CONFIG_INET_RAW_DIAG); those that the kernel keeps for itself are not among them.
pub(crate) fn raw_sockets(pids: &[u32]) -> impl Iterator<Item = OwnedFd> {
    let list = |name| pids.iter().find_map(|pid| fs::read_to_string(format!("/proc/{pid}/net/{name}")).ok());
    let inodes: HashSet<u32> =
        ["raw", "raw6"].into_iter().filter_map(list).flat_map(|list| inodes_of(&list)).collect();
    // Mostly there are none, and then no process's files need be looked through.
    let held = if inodes.is_empty() { HashMap::new() } else { holders(pids, &inodes, |socket| socket) };
    held.into_values().filter_map(|held| held.seen)
}

/// The inodes in a list as of /proc/net/raw (`raw_sock_seq_show` in net/ipv4/raw.c).
fn inodes_of(list: &str) -> Vec<u32> {
    const INODE: usize = 9;
    list.lines().skip(1).filter_map(|line| line.split_whitespace().nth(INODE)?.parse().ok()).collect()
}

/// Process ids by network namespace. Kernel threads and processes that end meanwhile are left out.
pub(crate) fn processes_by_namespace() -> HashMap<String, Vec<u32>> {
    let mut found: HashMap<String, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        if let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok())
            && let Ok(namespace) = fs::read_link(entry.path().join("ns/net"))
        {
            found.entry(namespace.to_string_lossy().into_owned()).or_default().push(pid);
        }
    }
    found
}

/// The IP sockets of the network namespace of any of `pids`, by cookie. Asked on a thread of its own, which enters
/// the namespace and ends with it.
pub(crate) fn sockets_of(pids: &[u32]) -> Option<Listed> {
    let namespace = pids.iter().find_map(|pid| fs::File::open(format!("/proc/{pid}/ns/net")).ok())?;
    let ask = move || sock_diag::list(&namespace);
    thread::Builder::new().name("sock-diag".into()).spawn(ask).ok()?.join().ok()?.ok()
}

//! Sockets that are older than the agent: tagged at start with the cgroup that owns them.
//!
//! The programs tag a socket as it is made. For those made before, sock_diag tells the cgroup of every socket of a
//! network namespace by its cookie (`INET_DIAG_CGROUP_ID`, kernel 5.8), and `pidfd_getfd` (5.6) gives the handle that
//! writing to socket storage takes. A socket that no process holds (orphaned, not accepted yet, or in flight over a
//! Unix socket) stays untagged: its packets are still judged, by the cgroup that the kernel knows of it, and the cookies
//! of all connections are noted as older than the programs.

use std::{
    collections::{HashMap, HashSet},
    fs,
    os::fd::OwnedFd,
    thread,
};

use aya::{
    Ebpf,
    maps::{HashMap as BpfHashMap, MapData, SkStorage},
};
use bulkhead_common::{Origin, SocketState};
use bytemuck::Zeroable as _;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::{DatapathError, sock_diag, tables::take, wire::Wire};

/// `BPF_NOEXIST`: what the programs have noted meanwhile is newer.
const NO_EXIST: u64 = 1;
/// `BPF_EXIST`.
const EXIST: u64 = 2;

/// What came of tagging.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tagged {
    /// Sockets tagged.
    pub(crate) sockets: usize,
    /// Network namespaces whose sockets could not be listed.
    pub(crate) unreadable_namespaces: usize,
}

/// What the programs know of sockets.
pub(crate) struct Sockets {
    storage: SkStorage<MapData, Wire<SocketState>>,
    older: BpfHashMap<MapData, u64, u8>,
}

impl Sockets {
    pub(crate) fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        Ok(Self { storage: take(ebpf, "SOCKETS")?, older: take(ebpf, "OLDER")? })
    }

    /// Notes the connections that are there, and tags every IP socket that a process of this host holds.
    ///
    /// Twice: a connection that a listener accepts after the first listing and before its tag is in the second.
    ///
    /// `places`: what cgroups are in the generation that `anchor` knows (see `GenerationInfo::places`).
    pub(crate) fn tag_open(
        &mut self,
        anchor: &impl Fn(u64) -> Option<u64>,
        places: u32,
    ) -> Result<Tagged, DatapathError> {
        let first = self.tag_once(anchor, places)?;
        let second = self.tag_once(anchor, places)?;
        Ok(Tagged { sockets: first.sockets + second.sockets, ..second })
    }

    fn tag_once(
        &mut self,
        anchor: &impl Fn(u64) -> Option<u64>,
        places: u32,
    ) -> Result<Tagged, DatapathError> {
        let Self { storage, older } = self;
        let note = |sockets: &Listed| {
            let mut connected = sockets.iter().filter(|(_, socket)| socket.connected);
            connected
                .try_for_each(|(cookie, _)| older.insert(cookie, 0, 0))
                .map_err(DatapathError::map("note the connections that are there already"))
        };
        visit_all(note, |socket, known| {
            let state = fresh(known.cgroup, anchor(known.cgroup), places, known.listens);
            storage.insert(socket, Wire(state), NO_EXIST).is_ok()
        })
    }

    /// Puts right the tags of sockets whose identity comes from another cgroup now than under the policy before.
    ///
    /// What the programs note at the same moment may be lost: a connection that is just begun, and whose socket is another
    /// workload's now, may then be refused.
    pub(crate) fn retag(
        &mut self,
        anchor: &impl Fn(u64) -> Option<u64>,
        places: u32,
    ) -> Result<Tagged, DatapathError> {
        let storage = &mut self.storage;
        visit_all(
            |_| Ok(()),
            |socket, known| {
                let (Some(anchor), Ok(Wire(state))) = (anchor(known.cgroup), storage.get(socket, 0)) else {
                    return false;
                };
                if state.owner != known.cgroup || state.anchor == anchor {
                    return false;
                }
                let seal = SocketState::seal(anchor, places);
                let new = SocketState { anchor, seal, passes: 0, passed: [0; 2], ..state };
                storage.insert(socket, Wire(new), EXIST).is_ok()
            },
        )
    }
}

/// The sockets of a network namespace, by cookie.
type Listed = HashMap<u64, sock_diag::Socket>;

/// Lists the sockets of each network namespace, and visits all that a process of this host holds; counts those of which
/// `each` says yes.
fn visit_all(
    mut listed: impl FnMut(&Listed) -> Result<(), DatapathError>,
    mut each: impl FnMut(&OwnedFd, &sock_diag::Socket) -> bool,
) -> Result<Tagged, DatapathError> {
    let mut tagged = Tagged::default();
    for pids in processes_by_namespace().into_values() {
        let Some(sockets) = sockets_of(&pids) else {
            tagged.unreadable_namespaces += 1;
            continue;
        };
        listed(&sockets)?;
        let mut seen = HashSet::new();
        for pid in pids {
            tagged.sockets += visit_process(pid, &sockets, &mut each, &mut seen);
        }
    }
    Ok(tagged)
}

/// A process that ends meanwhile, or a descriptor that is closed, is skipped: its socket is gone or held by others.
fn visit_process(
    pid: u32,
    sockets: &Listed,
    each: &mut impl FnMut(&OwnedFd, &sock_diag::Socket) -> bool,
    seen: &mut HashSet<String>,
) -> usize {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return 0 };
    let Some(process) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return 0 };
    let Ok(process) = pidfd_open(process, PidfdFlags::empty()) else { return 0 };
    let mut tagged = 0;
    for entry in entries.flatten() {
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        let target = target.to_string_lossy();
        let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some(number) = number
            && target.starts_with("socket:")
            && !seen.contains(&*target)
            && let Ok(socket) = pidfd_getfd(&process, number, PidfdGetfdFlags::empty())
        {
            seen.insert(target.into_owned());
            let known =
                rustix::net::sockopt::socket_cookie(&socket).ok().and_then(|cookie| sockets.get(&cookie));
            tagged += usize::from(known.is_some_and(|known| each(&socket, known)));
        }
    }
    tagged
}

/// What is known of a socket that was there before. A listener's origin is certain; a connection's is not, and never taken
/// for accepted.
fn fresh(owner: u64, anchor: Option<u64>, places: u32, is_listener: bool) -> SocketState {
    let origin = if is_listener { Origin::Listener } else { Origin::Unknown };
    SocketState {
        owner,
        anchor: anchor.unwrap_or(0),
        // Whoever is not known to be in a workload may be in one that has appeared meanwhile: nobody vouches for that.
        seal: anchor.map_or(0, |anchor| SocketState::seal(anchor, places)),
        origin: origin as u32,
        ..SocketState::zeroed()
    }
}

/// Process ids by network namespace. Kernel threads and processes that end meanwhile are left out.
fn processes_by_namespace() -> HashMap<String, Vec<u32>> {
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
fn sockets_of(pids: &[u32]) -> Option<Listed> {
    let namespace = pids.iter().find_map(|pid| fs::File::open(format!("/proc/{pid}/ns/net")).ok())?;
    let ask = move || sock_diag::list(&namespace);
    thread::Builder::new().name("sock-diag".into()).spawn(ask).ok()?.join().ok()?.ok()
}

//! Sockets that are older than the agent: tagged at start with the cgroup that owns them.
//!
//! The programs tag a socket as it is made. For those made before, sock_diag tells the cgroup of every socket of a
//! network namespace by its cookie (`INET_DIAG_CGROUP_ID`, kernel 5.8), and `pidfd_getfd` (5.6) gives the handle that
//! writing to socket storage takes. A socket that no process holds (orphaned, not accepted yet, or in flight over a
//! Unix socket) stays untagged: its packets are still judged, by the cgroup that the kernel knows of it, and the cookies
//! of all connections are noted as older than the programs.

use std::fs;

use aya::{
    Ebpf,
    maps::{HashMap as BpfHashMap, MapData, SkStorage},
};
use bulkhead_common::{Origin, SocketState};
use bytemuck::Zeroable as _;

use crate::{
    DatapathError,
    holders::{Listed, Visited, processes_by_namespace, raw_sockets, visit_all},
    tables::take,
    wire::Wire,
};

/// `BPF_NOEXIST`: what the programs have noted meanwhile is newer.
const NO_EXIST: u64 = 1;
/// `BPF_EXIST`.
const EXIST: u64 = 2;

/// Room for connections that are older than the programs. The kernel keeps 16 bytes for each at once, used or not.
const AT_LEAST: u32 = 1 << 18;
const AT_MOST: u32 = 1 << 24;

/// How many connections there may be, of what has been opened on this machine: there are some that no process holds.
pub(crate) fn room() -> u32 {
    // The first is how many files are open (Documentation/admin-guide/sysctl/fs.rst in the kernel's tree).
    let files = fs::read_to_string("/proc/sys/fs/file-nr").unwrap_or_default();
    let open: u32 = files.split_whitespace().next().and_then(|open| open.parse().ok()).unwrap_or(1 << 19);
    open.saturating_mul(2).clamp(AT_LEAST, AT_MOST)
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
    ) -> Result<Visited, DatapathError> {
        self.tag_raw();
        let first = self.tag_once(anchor, places)?;
        let second = self.tag_once(anchor, places)?;
        Ok(Visited { sockets: first.sockets + second.sockets, ..second })
    }

    /// Tells raw sockets from the kernel's own, which have no tag and may always discover neighbours. Nobody knows whose they
    /// are; their packets are judged by the cgroup that the kernel knows of them.
    fn tag_raw(&mut self) {
        for pids in processes_by_namespace().into_values() {
            for socket in raw_sockets(&pids) {
                // Fails for what has a tag, and for what nobody can tag: see docs/security.md.
                let _ = self.storage.insert(&socket, Wire(SocketState::zeroed()), NO_EXIST);
            }
        }
    }

    fn tag_once(
        &mut self,
        anchor: &impl Fn(u64) -> Option<u64>,
        places: u32,
    ) -> Result<Visited, DatapathError> {
        let Self { storage, older } = self;
        let note = |sockets: &Listed| {
            let mut connected = sockets.iter().filter(|(_, socket)| socket.connected);
            connected
                .try_for_each(|(cookie, _)| older.insert(cookie, 0, 0))
                .map_err(DatapathError::map("note the connections that are there already"))
        };
        visit_all(
            note,
            |_| true,
            |socket, known| {
                let state = fresh(known.cgroup, anchor(known.cgroup), places, known.listens);
                storage.insert(socket, Wire(state), NO_EXIST).is_ok()
            },
        )
    }

    /// Puts right the tags of sockets whose identity comes from another cgroup now than under the policy before.
    ///
    /// What the programs note at the same moment may be lost: a connection that is just begun, and whose socket is another
    /// workload's now, may then be refused.
    pub(crate) fn retag(
        &mut self,
        anchor: &impl Fn(u64) -> Option<u64>,
        places: u32,
    ) -> Result<Visited, DatapathError> {
        let storage = &mut self.storage;
        visit_all(
            |_| Ok(()),
            |socket| anchor(socket.cgroup).is_some(),
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

/// What is known of a socket that was there before. A listener's origin is certain; a connection's is not, and never taken
/// for accepted.
fn fresh(owner: u64, anchor: Option<u64>, places: u32, is_listener: bool) -> SocketState {
    let origin = if is_listener { Origin::Listener } else { Origin::Unknown };
    SocketState {
        owner,
        anchor: anchor.unwrap_or(0),
        // Whoever is not known to be in a workload may be in one that has appeared meanwhile: nobody vouches for that.
        seal: anchor.map_or(0, |anchor| SocketState::seal(anchor, places)),
        origin: origin as u16,
        ..SocketState::zeroed()
    }
}

//! The connections that are open now, as the kernel and the programs know them.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    os::fd::AsFd as _,
    sync::Arc,
};

use aya::{
    Ebpf,
    maps::{HashMap as BpfHashMap, Map, MapData, MapError, SkStorage},
};
use bulkhead_common::{Direction, Origin, PeerFlow, PeerFlowKey, SocketState};

use crate::{
    DatapathError,
    clock::now_ns,
    holders,
    sock_diag::{self, TCP},
    wire::Wire,
};

/// A connection, or an exchange of datagrams, that is open: as the end with this socket sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    /// IP protocol number.
    pub protocol: u8,
    /// The socket's address and port; unspecified where it is bound to all of them.
    pub local: SocketAddr,
    /// The other end's.
    pub remote: SocketAddr,
    /// Id of the cgroup that the socket belongs to.
    pub cgroup: u64,
    /// Id of the cgroup of the socket at the other end, where that is known to be on this host; 0: it is not.
    pub peer_cgroup: u64,
    /// Which way it was opened, seen from the socket; none: nobody saw it, for it is older than the programs.
    pub opened: Option<Direction>,
    /// Processes that hold the socket; the same for all that is open on it.
    pub pids: Arc<[u32]>,
}

impl Live {
    /// The port that it was opened to, if it was opened this way.
    pub fn service_port(&self, opened: Direction) -> u16 {
        match opened {
            Direction::Egress => self.remote.port(),
            Direction::Ingress => self.local.port(),
        }
    }
}

/// Lists what is open. It changes nothing, and needs nothing of the [`Datapath`](crate::Datapath) but that it is there.
pub struct Observer {
    sockets: SkStorage<MapData, Wire<SocketState>>,
    flows: BpfHashMap<MapData, Wire<PeerFlowKey>, Wire<PeerFlow>>,
}

impl Observer {
    pub(crate) fn of(ebpf: &Ebpf) -> Result<Self, DatapathError> {
        let observe = DatapathError::map("read what is known of open sockets");
        Ok(Self {
            sockets: another(ebpf, "SOCKETS")?.try_into().map_err(&observe)?,
            flows: another(ebpf, "PEER_FLOWS")?.try_into().map_err(&observe)?,
        })
    }

    /// TCP connections, and exchanges of UDP and UDP-Lite datagrams that have not ended by silence, of the sockets in cgroups
    /// that are wanted.
    pub fn connections(&self, wanted: impl Fn(u64) -> bool) -> Vec<Live> {
        let exchanges = self.exchanges();
        let mut found = Vec::new();
        for pids in holders::processes_by_namespace().into_values() {
            let Some(listed) = holders::sockets_of(&pids) else { continue };
            let concerned: HashSet<u32> =
                listed.values().filter(|socket| wanted(socket.cgroup)).map(|socket| socket.inode).collect();
            if concerned.is_empty() {
                continue;
            }
            let origin = |socket| self.sockets.get(&socket, 0).ok().map(|Wire(state)| state.origin);
            let held: HashMap<u32, (Option<u16>, Arc<[u32]>)> = holders::holders(&pids, &concerned, origin)
                .into_iter()
                .map(|(inode, held)| (inode, (held.seen.flatten(), held.pids.into())))
                .collect();
            let nobody = (None, Arc::from([]));
            let ends: HashMap<_, u64> = listed
                .values()
                .filter(|socket| socket.connected)
                .map(|socket| ((socket.local, socket.remote), socket.cgroup))
                .collect();
            for (cookie, socket) in listed.iter().filter(|(_, socket)| wanted(socket.cgroup)) {
                let (origin, pids) = held.get(&socket.inode).unwrap_or(&nobody);
                if socket.connected {
                    found.push(Live {
                        protocol: TCP,
                        local: socket.local,
                        remote: socket.remote,
                        cgroup: socket.cgroup,
                        peer_cgroup: ends.get(&(socket.remote, socket.local)).copied().unwrap_or(0),
                        opened: origin.and_then(opened),
                        pids: Arc::clone(pids),
                    });
                }
                for (key, flow) in exchanges.get(cookie).into_iter().flatten() {
                    found.extend(exchange(socket, key, flow, Arc::clone(pids)));
                }
            }
        }
        found
    }

    /// The exchanges of datagrams that have not ended by silence, by the cookie of the socket.
    fn exchanges(&self) -> HashMap<u64, Vec<(PeerFlowKey, PeerFlow)>> {
        let now = now_ns();
        let mut found: HashMap<u64, Vec<_>> = HashMap::new();
        // An entry that goes while they are listed may end the list early; there is another time.
        for (Wire(key), Wire(flow)) in self.flows.iter().flatten() {
            if now.saturating_sub(flow.last_seen) < PeerFlow::IDLE_NS {
                found.entry(key.cookie).or_default().push((key, flow));
            }
        }
        found
    }
}

fn opened(origin: u16) -> Option<Direction> {
    match origin {
        o if o == Origin::Initiator as u16 => Some(Direction::Egress),
        o if o == Origin::Listener as u16 => Some(Direction::Ingress),
        _ => None,
    }
}

fn exchange(
    socket: &sock_diag::Socket,
    key: &PeerFlowKey,
    flow: &PeerFlow,
    pids: Arc<[u32]>,
) -> Option<Live> {
    if key.protocol != socket.protocol {
        return None;
    }
    let opened =
        if flow.direction == Direction::Egress as u8 { Direction::Egress } else { Direction::Ingress };
    Some(Live {
        protocol: key.protocol,
        local: socket.local,
        remote: SocketAddr::new(IpAddr::from(key.address), key.port),
        cgroup: socket.cgroup,
        peer_cgroup: flow.peer,
        opened: Some(opened),
        pids,
    })
}

/// Another handle of a map.
fn another(ebpf: &Ebpf, name: &'static str) -> Result<Map, DatapathError> {
    let Some(Map::SkStorage(data) | Map::LruHashMap(data)) = ebpf.map(name) else {
        return Err(DatapathError::Missing { name });
    };
    let handle = data.fd().as_fd().try_clone_to_owned().map_err(MapError::from);
    let data =
        handle.and_then(MapData::from_fd).map_err(DatapathError::map("use a map of the BPF object"))?;
    Ok(match name {
        "SOCKETS" => Map::SkStorage(data),
        _ => Map::LruHashMap(data),
    })
}

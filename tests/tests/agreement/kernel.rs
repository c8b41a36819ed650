//! The real programs with a world's tables, and its workloads as threads.

use std::{
    cell::{Cell, RefCell},
    net::{Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use bulkhead_common::{
    Address, Counter, CounterKey, Endpoint, Event, PeerEntry, PolicyKey, PolicyValue, Protocol,
};
use bulkhead_datapath::{Cgroups, Datapath, DatapathError, Events, Generation, Traffic};
use bulkhead_policy::{Compiled, WorkloadId};
use bulkhead_tests::{
    Network,
    cgroup::{Cgroup, Subtree},
};
use bulkhead_worlds::{Packet, WORKLOADS};
use socket2::{Domain, Socket, Type};

use crate::{
    case::Case,
    frame::frame,
    worker::{Visit, Worker, threaded},
};

/// Index of the loopback device in every network namespace.
const LOOPBACK: u32 = 1;
/// A device to the rest of the world. Nothing is ever sent.
const UPLINK: u32 = 7;

/// The programs, attached to the cgroups of the workloads alone: whose a socket is, they note as it is made.
pub(crate) struct Kernel {
    // Fields drop in this order: first the threads, last the cgroups that they are in.
    workers: Vec<Workload>,
    _visit: Visit,
    datapath: Arc<Mutex<Datapath>>,
    events: RefCell<Events>,
    /// As of the last look.
    lost: Cell<u64>,
    generation: u32,
    _network: Network,
    _subtree: Subtree,
}

struct Workload {
    worker: Worker,
    /// The cgroup that the tables name.
    named: u64,
    /// The cgroup that it runs in: this one or one below.
    runs_in: u64,
}

/// Tables as the programs read them.
pub(crate) struct Plain {
    pub(crate) endpoints: Vec<(WorkloadId, Endpoint)>,
    pub(crate) peers: Vec<(Address, u32, PeerEntry)>,
    pub(crate) policy: Vec<(u32, PolicyKey, PolicyValue)>,
}

/// What came of a packet.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) passes: bool,
    pub(crate) record: Option<Event>,
}

impl Kernel {
    pub(crate) fn new() -> Result<Self> {
        let subtree = Subtree::new()?;
        let mut datapath = Datapath::load(subtree.path(), None)?;
        let events = datapath.take_events().context("the events are taken")?;
        let network = Network::isolated()?;
        network.ip(&format!(
            "link add uplink index {UPLINK} type bridge\nlink set uplink arp off up\n\
             addr add 192.0.2.200/32 dev uplink\naddr add fd00:99::1/128 dev uplink nodad\n\
             route add 0.0.0.0/0 dev uplink\nroute add ::/0 dev uplink\n"
        ))?;
        let places: Vec<_> = (0..WORKLOADS).map(|n| cgroups(&subtree, n)).collect::<Result<_>>()?;
        let visit = Visit::to(subtree.path())?;
        datapath.attach(|_| None)?;
        let workers = places.iter().map(|place| workload(place, &network)).collect::<Result<_>>()?;
        Ok(Self {
            workers,
            _visit: visit,
            datapath: Arc::new(Mutex::new(datapath)),
            events: RefCell::new(events),
            lost: Cell::new(0),
            generation: 0,
            _network: network,
            _subtree: subtree,
        })
    }

    /// Has a workload do something.
    pub(crate) fn have<T: Send + 'static>(
        &self,
        workload: WorkloadId,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        self.workers[workload.0].worker.run(job)
    }

    /// What has been reported since the last call.
    pub(crate) fn records(&self) -> Vec<Event> {
        let mut records = Vec::new();
        self.events.borrow_mut().drain(usize::MAX, |event| records.push(event));
        records
    }

    /// Have refusals been lost since the last call? More kinds of them may begin than are reported.
    pub(crate) fn lose(&self) -> Result<bool> {
        let lost = self.events.borrow().lost()?;
        Ok(self.lost.replace(lost) != lost)
    }

    /// Puts tables in force, as if it were `now_ns`.
    pub(crate) fn install(&mut self, compiled: &Compiled, now_ns: u64) -> Result<()> {
        self.install_as(compiled, now_ns, Datapath::install)
    }

    /// Hands tables to the datapath, as if it were `now_ns`.
    pub(crate) fn install_as(
        &mut self,
        compiled: &Compiled,
        now_ns: u64,
        install: impl FnOnce(&mut Datapath, &Generation<'_>) -> Result<(), DatapathError>,
    ) -> Result<()> {
        let placed =
            self.workers.iter().map(|workload| workload.named).zip(compiled.endpoints.iter().copied());
        let endpoints: Vec<_> = placed.collect();
        let expires = |expires: u64| match expires {
            0 => Ok(0),
            past if past <= now_ns => Ok(1),
            _ => in_an_hour(),
        };
        let policy = compiled.policy.iter().map(|(length, key, value)| {
            Ok((*length, *key, PolicyValue { expires: expires(value.expires)?, ..*value }))
        });
        let policy: Vec<_> = policy.collect::<Result<_>>()?;
        self.generation += 1;
        let generation = Generation {
            number: self.generation,
            cgroups: Cgroups { endpoints: &endpoints, followed: &[], names: &[] },
            peers: &compiled.peers,
            policy: &policy,
        };
        install(&mut lock(&self.datapath), &generation)?;
        Ok(())
    }

    /// Tells the datapath something, or asks it.
    pub(crate) fn tell<T>(&self, what: impl FnOnce(&mut Datapath) -> T) -> T {
        what(&mut lock(&self.datapath))
    }

    /// Puts tables in force that were written by hand.
    pub(crate) fn put_in_force(&mut self, tables: &Plain) -> Result<()> {
        let named = |who: WorkloadId| self.workers[who.0].named;
        let endpoints: Vec<_> = tables.endpoints.iter().map(|(who, end)| (named(*who), *end)).collect();
        self.generation += 1;
        let generation = Generation {
            number: self.generation,
            cgroups: Cgroups { endpoints: &endpoints, followed: &[], names: &[] },
            peers: &tables.peers,
            policy: &tables.policy,
        };
        lock(&self.datapath).install(&generation)?;
        Ok(())
    }

    /// Runs a packet through the program for its direction.
    pub(crate) fn run(&self, case: &Case) -> Result<Seen> {
        let packet = &case.packet;
        let _other_end = self.other_end(case, case.far().1)?;
        let device = if packet.socket.is_some() { LOOPBACK } else { UPLINK };
        let (datapath, frame, way) = (Arc::clone(&self.datapath), frame(case), packet.direction);
        let run = move || -> Result<bool, DatapathError> { lock(&datapath).test_run(way, &frame, device) };
        let passes = self.have(packet.local, run)??;
        let mut records = self.records();
        ensure!(records.len() <= 1, "one packet makes several records: {records:?}");
        Ok(Seen { passes, record: records.pop() })
    }

    /// The socket at the other end of a packet, if it is on this host, with this port.
    pub(crate) fn other_end(&self, case: &Case, port: u16) -> Result<Option<Socket>> {
        let Packet { socket, protocol, .. } = case.packet;
        let other_end = socket.map(|workload| self.socket(workload, protocol, port));
        other_end.transpose().context("no socket at the other end")
    }

    /// A workload's socket for everything that comes to a port.
    pub(crate) fn socket(&self, workload: WorkloadId, protocol: Protocol, port: u16) -> Result<Socket> {
        let kind = if protocol == Protocol::TCP { Type::STREAM } else { Type::DGRAM };
        let open = move || -> Result<Socket> {
            let socket = Socket::new(Domain::IPV6, kind, None)?;
            socket.set_only_v6(false)?;
            socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
            if protocol == Protocol::TCP {
                socket.listen(1)?;
            }
            Ok(socket)
        };
        self.have(workload, open)?
    }

    /// The cgroup that a workload's sockets are in.
    pub(crate) fn cgroup(&self, workload: WorkloadId) -> u64 {
        self.workers[workload.0].runs_in
    }

    /// What has been counted, by kind.
    pub(crate) fn counters(&self) -> Result<Vec<(CounterKey, Counter)>> {
        Ok(lock(&self.datapath).counters()?)
    }

    /// What has been counted since the start.
    pub(crate) fn traffic(&self) -> Result<Traffic> {
        Ok(lock(&self.datapath).traffic()?)
    }

    /// The number of the tables that were installed last.
    pub(crate) fn generation(&self) -> u32 {
        self.generation
    }
}

/// The cgroup that is the workload, and the one that it runs in: every other workload has it nested.
fn cgroups(subtree: &Subtree, number: usize) -> Result<(Cgroup, Cgroup)> {
    let named = threaded(subtree.path().join(format!("w{number}")))?;
    let runs_in =
        if number.is_multiple_of(2) { named.clone() } else { threaded(named.path().join("nested"))? };
    Ok((named, runs_in))
}

fn workload((named, runs_in): &(Cgroup, Cgroup), network: &Network) -> Result<Workload> {
    Ok(Workload { worker: Worker::start(runs_in, network)?, named: named.id()?, runs_in: runs_in.id()? })
}

/// Later than any test ends, in nanoseconds since the Unix epoch.
pub(crate) fn in_an_hour() -> Result<u64> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    Ok(u64::try_from((now + Duration::from_hours(1)).as_nanos())?)
}

fn lock(datapath: &Mutex<Datapath>) -> MutexGuard<'_, Datapath> {
    datapath.lock().unwrap_or_else(PoisonError::into_inner)
}

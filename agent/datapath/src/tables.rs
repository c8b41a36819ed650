//! The tables of the generations: fill a free slot, switch with one write, edit the live one.

use aya::{
    Ebpf,
    maps::{Array, ArrayOfMaps, LpmTrie, Map, MapData, MapError, lpm_trie::Key},
};
use bulkhead_common::{
    Address, Endpoint, GenerationInfo, PeerEntry, PolicyKey, PolicyValue, SLOTS, StateWord,
};
use rustix::time::{ClockId, clock_gettime};

use crate::{
    DatapathError,
    cgroups::{CgroupTables, Cgroups},
    wire::Wire,
};

/// One generation, ready to be installed.
#[derive(Clone, Copy, Debug)]
pub struct Generation<'a> {
    /// Its number, from 1; refusals carry it.
    pub number: u32,
    /// Who is in which cgroup.
    pub cgroups: Cgroups<'a>,
    /// (address, prefix length 0..=128) -> peer.
    pub peers: &'a [(Address, u32, PeerEntry)],
    /// (prefix length, key) -> value; expiries in nanoseconds since the Unix epoch.
    pub policy: &'a [(u32, PolicyKey, PolicyValue)],
}

/// What changes in the live tables, to be applied field by field and in order: at any moment a packet is answered as
/// before or as after.
#[derive(Clone, Copy, Debug)]
pub struct Edits<'a> {
    /// First: entries of the policy table that no address leads to yet, as in [`Generation::policy`].
    pub policy_puts: &'a [(u32, PolicyKey, PolicyValue)],
    /// Then: (address, prefix length 0..=128) -> peer; none: the entry goes.
    pub peers: &'a [(Address, u32, Option<PeerEntry>)],
    /// At last: entries of the policy table that no address leads to any more.
    pub policy_removes: &'a [(u32, PolicyKey)],
}

type Peers = LpmTrie<MapData, Wire<Address>, Wire<PeerEntry>>;
type Policy = LpmTrie<MapData, Wire<PolicyKey>, Wire<PolicyValue>>;

/// `BPF_F_NO_PREALLOC`: inner maps must have the flags of their template.
const GROWS: u32 = 1;

/// Room in each table for what appears while a generation lives, beside what it starts with. Room that is not used
/// takes no memory.
const ENTRIES_TO_COME: usize = 65_536;

/// The maps of all generations.
pub(crate) struct Tables {
    state: Array<MapData, Wire<StateWord>>,
    epoch: Array<MapData, u64>,
    generations: Array<MapData, Wire<GenerationInfo>>,
    cgroups: CgroupTables,
    peers: ArrayOfMaps<MapData, Peers>,
    policy: ArrayOfMaps<MapData, Policy>,
    active: Option<Active>,
    edits: u64,
}

/// The slot in force, and its tables, which are edited in place.
struct Active {
    slot: u32,
    peers: Peers,
    policy: Policy,
}

impl Tables {
    pub(crate) fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        Ok(Self {
            state: take(ebpf, "STATE")?,
            epoch: take(ebpf, "EPOCH")?,
            generations: take(ebpf, "GENERATIONS")?,
            cgroups: CgroupTables::take(ebpf)?,
            peers: take(ebpf, "PEERS")?,
            policy: take(ebpf, "POLICY")?,
            active: None,
            edits: 0,
        })
    }

    pub(crate) fn install(&mut self, generation: &Generation<'_>) -> Result<(), DatapathError> {
        // The slot after the active one is never the one before it: both stay whole while the new one is filled.
        let slot = self.active.as_ref().map_or(0, |active| (active.slot + 1) % SLOTS);
        let fill = DatapathError::map("fill the tables of the new generation");

        let mut peers = Peers::create(room(generation.peers.len()), GROWS).map_err(&fill)?;
        for (address, length, peer) in generation.peers {
            peers.insert(&Key::new(*length, Wire(*address)), Wire(*peer), 0).map_err(&fill)?;
        }
        let mut policy = Policy::create(room(generation.policy.len()), GROWS).map_err(&fill)?;
        let clock = Clock::now();
        for (length, key, value) in generation.policy {
            policy.insert(&Key::new(*length, Wire(*key)), Wire(clock.value(value)), 0).map_err(&fill)?;
        }

        self.cgroups.fill(slot, generation.cgroups).map_err(&fill)?;
        self.peers.set(slot, &peers, 0).map_err(&fill)?;
        self.policy.set(slot, &policy, 0).map_err(&fill)?;
        let info = GenerationInfo { number: generation.number, ..GenerationInfo::default() };
        self.generations.set(slot, Wire(info), 0).map_err(&fill)?;
        self.state
            .set(0, Wire(StateWord::settled(slot)), 0)
            .map_err(DatapathError::map("switch to the new generation"))?;
        self.active = Some(Active { slot, peers, policy });
        self.bump_epoch()
    }

    /// Edits the live tables. After an error they are as at some moment between before and after.
    pub(crate) fn edit(&mut self, edits: &Edits<'_>) -> Result<(), DatapathError> {
        let Some(active) = &mut self.active else { return Ok(()) };
        let done = active.edit(edits).map_err(DatapathError::map("edit the tables in force"));
        // Some edits may have been made before one failed.
        self.bump_epoch().and(done)
    }

    /// Tells what a cgroup is, if it is not what the one above it is, and where it stands among the selectors.
    pub(crate) fn identify(
        &mut self,
        cgroup: u64,
        endpoint: Option<Endpoint>,
        state: u32,
    ) -> Result<(), DatapathError> {
        let identified = self.cgroups.identify(cgroup, endpoint, state);
        if identified.map_err(DatapathError::map("give a cgroup its identity"))? {
            self.bump_epoch()?;
        }
        Ok(())
    }

    /// Has a cgroup found no room in the tables?
    pub(crate) fn crowded(&self) -> Result<bool, DatapathError> {
        self.cgroups.crowded().map_err(DatapathError::map("ask whether the tables of cgroups are full"))
    }

    /// Every cgroup that is there has been told.
    pub(crate) fn settled(&mut self) -> Result<(), DatapathError> {
        self.cgroups.settled().map_err(DatapathError::map("note that every cgroup has its identity"))?;
        self.bump_epoch()
    }

    /// Whatever the programs have cached of a verdict is void from here on.
    fn bump_epoch(&mut self) -> Result<(), DatapathError> {
        self.edits += 1;
        self.epoch.set(0, self.edits, 0).map_err(DatapathError::map("announce an edit to the programs"))
    }
}

impl Active {
    fn edit(&mut self, edits: &Edits<'_>) -> Result<(), MapError> {
        let clock = Clock::now();
        for (length, key, value) in edits.policy_puts {
            self.policy.insert(&Key::new(*length, Wire(*key)), Wire(clock.value(value)), 0)?;
        }
        for (address, length, peer) in edits.peers {
            let key = Key::new(*length, Wire(*address));
            match peer {
                Some(peer) => self.peers.insert(&key, Wire(*peer), 0)?,
                None => self.peers.remove(&key)?,
            }
        }
        edits
            .policy_removes
            .iter()
            .try_for_each(|(length, key)| self.policy.remove(&Key::new(*length, Wire(*key))))
    }
}

/// A map of the object, by its type.
pub(crate) fn take<M: TryFrom<Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<M, DatapathError> {
    let map = ebpf.take_map(name).ok_or(DatapathError::Missing { name })?;
    map.try_into().map_err(DatapathError::map("use a map of the BPF object"))
}

/// Number of entries to ask for.
fn room(entries: usize) -> u32 {
    u32::try_from(entries.saturating_add(ENTRIES_TO_COME)).unwrap_or(u32::MAX)
}

/// What turns a moment of the wall clock into one of `CLOCK_BOOTTIME`, the only clock that programs can read.
struct Clock {
    real: u64,
    boot: u64,
}

impl Clock {
    fn now() -> Self {
        Self { real: nanoseconds(ClockId::Realtime), boot: nanoseconds(ClockId::Boottime) }
    }

    /// A compiled entry as the programs read it.
    fn value(&self, compiled: &PolicyValue) -> PolicyValue {
        PolicyValue { expires: self.boot_time(compiled.expires), ..*compiled }
    }

    /// Nanoseconds of `CLOCK_BOOTTIME` at a moment given in nanoseconds since the Unix epoch; 0 stays "never", and
    /// what is past is past.
    fn boot_time(&self, unix: u64) -> u64 {
        match unix {
            0 => 0,
            past if past <= self.real => 1,
            future => (future - self.real).saturating_add(self.boot),
        }
    }
}

fn nanoseconds(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    u64::try_from(i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expiries_move_to_the_clock_of_the_programs() {
        let clock = Clock { real: 1_000, boot: 50 };
        assert_eq!(clock.boot_time(0), 0, "never stays never");
        assert_eq!(clock.boot_time(1_010), 60);
        assert_eq!(clock.boot_time(1_000), 1, "past, not never");
        assert_eq!(clock.boot_time(u64::MAX), u64::MAX - 950);
    }
}

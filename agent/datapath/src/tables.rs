//! The tables of the generations: fill a free slot, switch with one write, edit those in use.

use std::time::{Duration, Instant};

use aya::{
    Ebpf,
    maps::{Array, Map, MapData, MapError},
};
use bulkhead_common::{
    Address, Endpoint, GenerationInfo, PeerEntry, PolicyKey, PolicyValue, SLOTS, StateWord,
};
use rustix::thread::{MembarrierCommand, membarrier};

use crate::{
    DatapathError,
    cgroups::{CgroupTable, CgroupTables, Cgroups},
    clock::{Clock, now_ms},
    prefixes::{OfPeers, OfPolicy, Prefixes, Shown},
    standing::Standing,
    together::together,
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

type Peers = Prefixes<OfPeers>;
type Policy = Prefixes<OfPolicy>;

/// A packet that began to be judged this long ago has been judged.
const LONGER_THAN_A_PACKET: Duration = Duration::from_secs(1);

/// The latest deadline that a [`StateWord`] holds, in milliseconds.
const LATEST: u64 = (1 << 48) - 1;

/// New tables for a generation that the kernel holds, of the same policy.
#[derive(Clone, Copy, Debug)]
pub struct Renewal<'a> {
    /// Its new number.
    pub number: u32,
    /// Shall there be more room for cgroups? Nothing that the programs write meanwhile is lost.
    pub grows: bool,
    /// As in [`Generation::peers`].
    pub peers: &'a [(Address, u32, PeerEntry)],
    /// As in [`Generation::policy`].
    pub policy: &'a [(u32, PolicyKey, PolicyValue)],
}

/// The maps of all generations, and which of them stands for what.
pub(crate) struct Tables {
    state: Array<MapData, Wire<StateWord>>,
    epoch: Array<MapData, u64>,
    shown: ShownTables,
    held: Vec<Held>,
    /// Number of the generation in each slot, and of the last.
    numbers: [u32; SLOTS as usize],
    last: u32,
    /// The last number that was given to what cgroups are.
    places: u32,
    standing: Standing,
    /// When each slot went out of use: a packet on its way may still be judged by it.
    left: [Option<Instant>; SLOTS as usize],
    /// Numbers of the generations that went out of use at last.
    leaving: Vec<u32>,
    edits: u64,
}

/// Where programs find the tables of all generations, by slot.
struct ShownTables {
    generations: Array<MapData, Wire<GenerationInfo>>,
    cgroups: CgroupTables,
    peers: Shown<OfPeers>,
    policy: Shown<OfPolicy>,
}

/// The tables of one generation, which are edited in place.
struct Held {
    number: u32,
    slot: u32,
    /// See [`GenerationInfo::places`].
    places: u32,
    cgroups: CgroupTable,
    peers: Peers,
    policy: Policy,
}

impl Tables {
    /// Takes them as they are: another agent may have left generations in force. Those judge on, and are out of use with the
    /// first that is installed.
    pub(crate) fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        let state: Array<MapData, Wire<StateWord>> = take(ebpf, "STATE")?;
        let epoch: Array<MapData, u64> = take(ebpf, "EPOCH")?;
        let generations: Array<MapData, Wire<GenerationInfo>> = take(ebpf, "GENERATIONS")?;
        let read = DatapathError::map("read which generation is in force");
        let Wire(word) = state.get(&0, 0).map_err(&read)?;
        let edits = epoch.get(&0, 0).map_err(&read)?;
        let (mut numbers, mut places) = ([0; SLOTS as usize], 0);
        for (slot, number) in (0..).zip(&mut numbers) {
            let Wire(info) = generations.get(&slot, 0).map_err(&read)?;
            *number = info.number;
            places = info.places.max(places);
        }
        let last = numbers.into_iter().max().unwrap_or(0);
        let standing = if last == 0 { Standing::default() } else { Standing::of(word) };
        Ok(Self {
            state,
            epoch,
            shown: ShownTables {
                generations,
                cgroups: CgroupTables::take(ebpf)?,
                peers: Shown::new(take(ebpf, "HOSTS")?, take(ebpf, "PEERS")?),
                policy: Shown::new(take(ebpf, "PORTS")?, take(ebpf, "POLICY")?),
            },
            last,
            numbers,
            places,
            held: Vec::new(),
            standing,
            left: [None; SLOTS as usize],
            leaving: Vec::new(),
            edits,
        })
    }

    /// Fills a slot that is not in use, to which programs add the cgroups that are made from here on. To be put in force, or
    /// lost with the next.
    pub(crate) fn prepare(&mut self, generation: &Generation<'_>) -> Result<(), DatapathError> {
        let slot = self.free_slot();
        self.places += 1;
        let (number, places) = (generation.number, self.places);
        // First of all: whoever comes after an agent that was killed here takes other numbers than its tables bear.
        self.number(slot, number, places)?;
        let Generation { cgroups, peers, policy, .. } = *generation;
        let (cgroups, peers, policy) = self.shown.fill(slot, peers, policy, |shown| {
            let filled = shown.fill(slot, places, cgroups)?;
            shown.set(slot, &filled).map(|()| filled)
        })?;
        self.held.push(Held { number, slot, places, cgroups, peers, policy });
        Ok(())
    }

    /// Puts what has been prepared in force for good, and no other.
    pub(crate) fn put_in_force(&mut self, number: u32) -> Result<(), DatapathError> {
        let active = Some(self.of(number)?.slot);
        self.switch(Standing { active, ..Standing::default() })
    }

    /// Puts what has been prepared in force for a while, then again what is in force now, or, if that is so for a while only,
    /// what was before it.
    pub(crate) fn put_in_force_for(&mut self, number: u32, time: Duration) -> Result<(), DatapathError> {
        let slot = self.of(number)?.slot;
        let time = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let deadline = now_ms().saturating_add(time).min(LATEST);
        let fallback = self.lasting_slot().map(|previous| (previous, deadline));
        self.switch(Standing { active: Some(slot), fallback, shadow: None })
    }

    /// What is in force stays so. Tells its number.
    pub(crate) fn confirm(&mut self) -> Result<Option<u32>, DatapathError> {
        let active = self.in_force_slot();
        self.switch(Standing { active, fallback: None, ..self.standing })?;
        Ok(self.in_force())
    }

    /// Back to what was in force before. Tells its number.
    pub(crate) fn roll_back(&mut self) -> Result<Option<u32>, DatapathError> {
        let active = self.lasting_slot();
        self.switch(Standing { active, fallback: None, ..self.standing })?;
        Ok(self.in_force())
    }

    /// What has been prepared is evaluated beside what is in force, in place of another shadow.
    pub(crate) fn compare(&mut self, number: u32) -> Result<(), DatapathError> {
        let shadow = Some(self.of(number)?.slot);
        self.switch(Standing { shadow, ..self.standing })
    }

    pub(crate) fn end_comparison(&mut self) -> Result<(), DatapathError> {
        self.switch(Standing { shadow: None, ..self.standing })
    }

    /// New tables in place of those of generation `of`.
    pub(crate) fn renew(&mut self, of: u32, renewal: &Renewal<'_>) -> Result<(), DatapathError> {
        let at = self.position(of)?;
        let slot = self.free_slot();
        let fill = DatapathError::map("fill larger tables");
        let Self { held, shown, .. } = self;
        let old = &held[at];
        let (peers, policy) = (renewal.peers, renewal.policy);
        let (grown, peers, policy) = if renewal.grows {
            let mut larger = shown.cgroups.larger(slot, &old.cgroups).map_err(&fill)?;
            let ((), peers, policy) = shown.fill(slot, peers, policy, |shown| shown.set(slot, &larger))?;
            shown.cgroups.copy(&old.cgroups, &mut larger).map_err(&fill)?;
            (Some(larger), peers, policy)
        } else {
            shown.cgroups.share(slot, &old.cgroups).map_err(&fill)?;
            let ((), peers, policy) =
                shown.fill(slot, peers, policy, |shown| shown.set(slot, &old.cgroups))?;
            (None, peers, policy)
        };
        let (number, places) = (renewal.number, old.places);
        self.number(slot, number, places)?;
        let old = self.held.swap_remove(at);
        let cgroups = grown.unwrap_or_else(|| old.cgroups.moved_to(slot));
        self.held.push(Held { number, slot, places, cgroups, peers, policy });
        self.switch(self.standing.replaced(old.slot, slot))
    }

    /// Gives what lies in a slot its number.
    fn number(&mut self, slot: u32, number: u32, places: u32) -> Result<(), DatapathError> {
        self.shown.number(slot, number, places, "number a new generation")?;
        self.numbers[slot as usize] = number;
        self.last = self.last.max(number);
        Ok(())
    }

    /// A slot that nothing is judged by. There is always one: a generation in force, one before it and a shadow take three.
    fn free_slot(&mut self) -> u32 {
        // What is neither in force nor anything else was left behind by an error.
        self.held.retain(|held| self.standing.uses(held.slot));
        let free = (0..SLOTS).filter(|slot| !self.standing.uses(*slot));
        let longest_free = free.min_by_key(|slot| self.left[*slot as usize]).unwrap_or(0);
        if let Some(left) = self.left[longest_free as usize] {
            wait_for_packets(left);
        }
        longest_free
    }

    /// One write puts generations in and out of force.
    fn switch(&mut self, standing: Standing) -> Result<(), DatapathError> {
        self.state
            .set(0, Wire(standing.word()), 0)
            .map_err(DatapathError::map("switch to another generation"))?;
        let before = std::mem::replace(&mut self.standing, standing);
        self.held.retain(|held| standing.uses(held.slot));
        for slot in (0..SLOTS).filter(|slot| before.uses(*slot) && !standing.uses(*slot)) {
            self.leave(slot);
        }
        self.bump_epoch()
    }

    fn leave(&mut self, slot: u32) {
        self.left[slot as usize] = Some(Instant::now());
        self.leaving.push(self.numbers[slot as usize]);
    }

    /// The slot in force now: after its deadline the one before it.
    fn in_force_slot(&self) -> Option<u32> {
        match self.standing.fallback {
            Some((previous, deadline)) if now_ms() >= deadline => Some(previous),
            _ => self.standing.active,
        }
    }

    /// The slot that is in force for good: without a confirmation the one before.
    fn lasting_slot(&self) -> Option<u32> {
        self.standing.fallback.map(|(previous, _)| previous).or(self.standing.active)
    }

    /// Number of the generation in force now.
    pub(crate) fn in_force(&self) -> Option<u32> {
        self.in_force_slot().map(|slot| self.numbers[slot as usize])
    }

    /// What cgroups are in the generation that was installed last: see [`GenerationInfo::places`].
    pub(crate) fn places(&self) -> u32 {
        self.places
    }

    /// Number of the last generation that was ever in a slot; 0: there was none.
    pub(crate) fn last(&self) -> u32 {
        self.last
    }

    /// Numbers of the generations that may count a packet: those in use, and those that went out of use since the last call.
    pub(crate) fn counting(&mut self) -> Vec<u32> {
        let used = (0..SLOTS).filter(|slot| self.standing.uses(*slot));
        let used = used.map(|slot| self.numbers[slot as usize]);
        used.chain(std::mem::take(&mut self.leaving)).collect()
    }

    /// Waits until no packet is counted any more by a generation that is out of use.
    pub(crate) fn wait_for_leaving(&mut self) {
        if let Some(last) = self.left.into_iter().flatten().max() {
            wait_for_packets(last);
        }
        self.leaving.clear();
    }

    /// Is a generation compared with the one in force? An agent before this one may have begun it.
    pub(crate) fn compares(&self) -> bool {
        self.standing.shadow.is_some()
    }

    fn position(&self, number: u32) -> Result<usize, DatapathError> {
        self.held.iter().position(|held| held.number == number).ok_or(DatapathError::Generation { number })
    }

    fn of(&mut self, number: u32) -> Result<&mut Held, DatapathError> {
        let at = self.position(number)?;
        Ok(&mut self.held[at])
    }

    /// Edits the tables of a generation. After an error they are as at some moment between before and after.
    pub(crate) fn edit(&mut self, of: u32, edits: &Edits<'_>) -> Result<(), DatapathError> {
        let done = self.of(of)?.edit(edits).map_err(DatapathError::map("edit the tables in force"));
        // Some edits may have been made before one failed.
        self.bump_epoch().and(done)
    }

    /// Tells what a cgroup is to a generation, if it is not what the one above it is, and where it stands among the
    /// selectors.
    pub(crate) fn identify(
        &mut self,
        of: u32,
        cgroup: u64,
        endpoint: Option<Endpoint>,
        state: u32,
    ) -> Result<(), DatapathError> {
        let identified = self.of(of)?.cgroups.identify(cgroup, endpoint, state);
        if identified.map_err(DatapathError::map("give a cgroup its identity"))? {
            self.have_moved(of)?;
        }
        Ok(())
    }

    /// Has a cgroup found no room in the tables of a generation?
    pub(crate) fn crowded(&self, of: u32) -> Result<bool, DatapathError> {
        let held = &self.held[self.position(of)?];
        let cgroups = &self.shown.cgroups;
        cgroups
            .crowded(&held.cgroups)
            .map_err(DatapathError::map("ask whether the tables of cgroups are full"))
    }

    /// Every cgroup that is there has been told.
    pub(crate) fn settled(&mut self, of: u32) -> Result<(), DatapathError> {
        let at = self.position(of)?;
        let cgroups = &mut self.shown.cgroups;
        cgroups
            .settled(&mut self.held[at].cgroups)
            .map_err(DatapathError::map("note that every cgroup has its identity"))?;
        self.have_moved(of)
    }

    /// Cgroups are others' now than they were: what sockets know of them is void from here on, and every kept verdict.
    fn have_moved(&mut self, of: u32) -> Result<(), DatapathError> {
        self.places += 1;
        let places = self.places;
        let Held { slot, number, places: old, .. } = self.of(of)?;
        let (slot, number) = (*slot, *number);
        *old = places;
        self.shown.number(slot, number, places, "announce to the programs that cgroups are others'")?;
        self.bump_epoch()
    }

    /// Whatever the programs have cached of a verdict is void from here on.
    fn bump_epoch(&mut self) -> Result<(), DatapathError> {
        self.edits += 1;
        self.epoch.set(0, self.edits, 0).map_err(DatapathError::map("announce an edit to the programs"))
    }
}

impl ShownTables {
    /// Fills tables of peers and rules and puts them into a slot that is not in use, and does with those of cgroups what is
    /// asked for. All at once: the kernel lets each exchange wait (see `crate::together`).
    fn fill<T>(
        &mut self,
        slot: u32,
        peers: &[(Address, u32, PeerEntry)],
        policy: &[(u32, PolicyKey, PolicyValue)],
        of_cgroups: impl FnOnce(&mut CgroupTables) -> Result<T, MapError>,
    ) -> Result<(T, Peers, Policy), DatapathError> {
        let Self { cgroups, peers: peers_shown, policy: policy_shown, .. } = self;
        let addresses = || fill_peers(peers).and_then(|peers| peers_shown.set(slot, &peers).map(|()| peers));
        let rules =
            || fill_policy(policy).and_then(|policy| policy_shown.set(slot, &policy).map(|()| policy));
        let ((peers, policy), cgroups) = together(|| together(addresses, rules), || of_cgroups(cgroups));
        let failed = DatapathError::map("fill the tables of a new generation and show them to the programs");
        Ok((cgroups.map_err(&failed)?, peers.map_err(&failed)?, policy.map_err(&failed)?))
    }

    fn number(
        &mut self,
        slot: u32,
        number: u32,
        places: u32,
        purpose: &'static str,
    ) -> Result<(), DatapathError> {
        let info = Wire(GenerationInfo { number, places });
        self.generations.set(slot, info, 0).map_err(DatapathError::map(purpose))
    }
}

impl Held {
    fn edit(&mut self, edits: &Edits<'_>) -> Result<(), MapError> {
        let clock = Clock::now();
        for (length, key, value) in edits.policy_puts {
            self.policy.put(*length, key, &clock.value(value))?;
        }
        for (address, length, peer) in edits.peers {
            match peer {
                Some(peer) => self.peers.put(*length, address, peer)?,
                None => self.peers.remove(*length, address)?,
            }
        }
        edits.policy_removes.iter().try_for_each(|(length, key)| self.policy.remove(*length, key))
    }
}

fn fill_peers(entries: &[(Address, u32, PeerEntry)]) -> Result<Peers, MapError> {
    Peers::new(entries.iter().map(|(address, length, peer)| (*length, *address, *peer)))
}

fn fill_policy(entries: &[(u32, PolicyKey, PolicyValue)]) -> Result<Policy, MapError> {
    let clock = Clock::now();
    Policy::new(entries.iter().map(|(length, key, value)| (*length, *key, clock.value(value))))
}

/// Waits until no packet is judged any more by what went out of use at `since`.
fn wait_for_packets(since: Instant) {
    let rest = LONGER_THAN_A_PACKET.saturating_sub(since.elapsed());
    // The kernel waits for all programs that are running (`membarrier` in kernel/sched/membarrier.c: `synchronize_rcu`).
    // It refuses where CPUs run without a tick.
    if !rest.is_zero() && membarrier(MembarrierCommand::Global).is_err() {
        std::thread::sleep(rest);
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

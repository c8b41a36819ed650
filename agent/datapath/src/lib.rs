//! Load, attach, fill, swap and drain the BPF programs. The only crate that names aya.
//!
//! Minimum kernel: 5.10. What is [pinned](Pins) outlives the [`Datapath`] that loaded it; everything else goes with it.

mod attach;
mod btf;
mod cgroups;
mod clock;
mod counters;
#[cfg(feature = "test-run")]
mod empty;
mod error;
mod events;
mod exchanges;
pub mod facts;
mod foothold;
mod holders;
mod live;
#[cfg(feature = "log")]
mod log;
mod older;
mod pins;
mod prefixes;
mod preflight;
mod programs;
mod refusals;
mod security;
mod shadow;
mod sock_diag;
mod standing;
mod sys;
mod tables;
#[cfg(feature = "test-run")]
mod test_run;
mod together;
mod wire;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use aya::EbpfLoader;
use bulkhead_common::{Counter, CounterKey, Endpoint, HASH_KEYS};
use rustix::rand::{GetRandomFlags, getrandom};

#[cfg(feature = "test-run")]
pub use self::empty::Empty;
pub use self::{
    attach::Attached,
    cgroups::Cgroups,
    counters::{BySubject, Differences, Kinds, Tally, Traffic},
    error::DatapathError,
    events::Events,
    foothold::Footing,
    live::{Live, Observer},
    pins::{Pins, detach},
    security::Unguarded,
    tables::{Edits, Generation, Renewal},
};
use self::{
    attach::{LAST, PROGRAMS},
    counters::Counters,
    exchanges::Exchanges,
    foothold::Foothold,
    older::Sockets,
    programs::Programs,
    tables::Tables,
    together::together,
};

/// The compiled programs (see build.rs).
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bulkhead"));

/// The programs and maps in the kernel. Dropping it detaches and unloads what is not pinned.
pub struct Datapath {
    programs: Programs,
    cgroup_root: PathBuf,
    pins: Option<Pins>,
    foothold: Option<Foothold>,
    tables: Tables,
    tally: Tally,
    sockets: Sockets,
    exchanges: Exchanges,
    events: Option<Events>,
    observer: Option<Observer>,
}

impl Datapath {
    /// Checks privileges, kernel and cgroup root, and begins to load the programs, with the maps that are pinned, if they are:
    /// a generation can be [prepared](Self::prepare) meanwhile, and to put it in force waits for them. Attaches nothing yet.
    /// Without pins everything goes with the value.
    pub fn load(cgroup_root: &Path, pins: Option<&Pins>) -> Result<Self, DatapathError> {
        let loaded = Self::load_with(cgroup_root, pins.cloned());
        if loaded.is_err() {
            pins.into_iter().for_each(leave_nothing_unfinished);
        }
        loaded
    }

    fn load_with(cgroup_root: &Path, pins: Option<Pins>) -> Result<Self, DatapathError> {
        preflight::check(cgroup_root)?;
        let keys = hash_keys()?;
        // Both read all that the kernel says of its types.
        let (layout, mut loader) = together(btf::cgroup_layout, EbpfLoader::new);
        let layout = layout?;
        let before_5_11 = u32::from(preflight::is_before(5, 11));
        loader
            .override_global("KEYS", bytemuck::cast_slice::<_, u8>(&keys), true)
            .override_global("LAYOUT", bytemuck::bytes_of(&layout), true)
            .override_global("MPTCP_UNSEEN", &before_5_11, true)
            .map_max_entries("OLDER", older::room());
        if let Some(pins) = &pins {
            pins.prepare()?;
            for name in pins::SHARED {
                loader.map_pin_path(name, pins.map(name));
            }
        }
        let foothold = pins.as_ref().map(Foothold::of).transpose()?;
        let mut ebpf = loader.load(OBJECT)?;
        let observer = Some(Observer::of(&ebpf)?);
        let tables = Tables::take(&mut ebpf)?;
        let mut counters = Counters::take(&mut ebpf)?;
        let sockets = Sockets::take(&mut ebpf)?;
        let exchanges = Exchanges::take(&mut ebpf)?;
        let mut events = Events::take(&mut ebpf)?;
        #[cfg(feature = "log")]
        log::start(&mut ebpf);
        let programs = Programs::begin_to_load(ebpf, &PROGRAMS)?;
        counters.hand_out()?;
        events.begin()?;
        let (tally, events) = (Tally::of(counters), Some(events));
        let cgroup_root = cgroup_root.to_owned();
        Ok(Self {
            programs,
            cgroup_root,
            pins,
            foothold,
            tables,
            tally,
            sockets,
            exchanges,
            events,
            observer,
        })
    }

    /// Fills a free slot with `generation` and switches to it with one write. It is in force for good, and no other
    /// generation is held any more.
    pub fn install(&mut self, generation: &Generation<'_>) -> Result<(), DatapathError> {
        self.prepare(generation)?;
        self.put_in_force(generation.number)
    }

    /// Fills a free slot, to which programs add the cgroups that are made from here on: look for those that were made before,
    /// [identify](Self::identify) them, and [put it in force](Self::put_in_force). Another generation filled meanwhile takes
    /// its place.
    pub fn prepare(&mut self, generation: &Generation<'_>) -> Result<(), DatapathError> {
        self.tables.prepare(generation)
    }

    /// Switches with one write to what has been [prepared](Self::prepare).
    pub fn put_in_force(&mut self, number: u32) -> Result<(), DatapathError> {
        // First of all: if they cannot be loaded, what an agent before has left stays in force.
        self.programs.loaded()?;
        self.tables.put_in_force(number)?;
        self.has_switched()
    }

    /// The same for a while: then the generation that is in force now is so again, by the kernel alone, unless this one is
    /// [confirmed](Self::confirm). What is in force for a while itself is not gone back to, but what was before it; if there
    /// is nothing to go back to, it stays.
    pub fn put_in_force_for(&mut self, number: u32, time: Duration) -> Result<(), DatapathError> {
        self.tables.put_in_force_for(number, time)?;
        self.has_switched()
    }

    fn has_switched(&mut self) -> Result<(), DatapathError> {
        shadow::end(self.programs.loaded()?);
        self.tally.counters().forget_comparison();
        self.retire()
    }

    /// What is in force now stays so: a deadline that has not passed is lifted. Tells the number of the generation.
    pub fn confirm(&mut self) -> Result<Option<u32>, DatapathError> {
        self.tables.confirm()
    }

    /// Does not wait for the deadline: what was in force before is so again. Tells the number of the generation.
    pub fn roll_back(&mut self) -> Result<Option<u32>, DatapathError> {
        self.tables.roll_back()
    }

    /// Number of the last generation, by whichever agent; 0: there was none. The next has a greater one.
    pub fn last_generation(&self) -> u32 {
        self.tables.last()
    }

    /// Number of the generation in force: after its deadline that of the one before it. None: nothing is refused.
    pub fn in_force(&self) -> Option<u32> {
        self.tables.in_force()
    }

    /// New tables for a generation that is held, in place of those that it has.
    pub fn renew(&mut self, of: u32, renewal: &Renewal<'_>) -> Result<(), DatapathError> {
        self.tables.renew(of, renewal)?;
        self.retire()
    }

    /// Compares what has been [prepared](Self::prepare) with the generation in force, on the same packets and calls, in place
    /// of another that is compared. It changes nothing but what packets cost: until [the end](Self::end_comparison) each is
    /// decided three times. A generation that is newly in force ends it, too.
    pub fn compare(&mut self, number: u32) -> Result<(), DatapathError> {
        let cgroup = self.open_root()?;
        self.tally.counters().begin_comparison(number)?;
        self.tables.compare(number)?;
        if let Err(error) = shadow::begin(self.programs.loaded()?, &cgroup) {
            return self.end_comparison().and(Err(error));
        }
        self.free_counters()
    }

    /// Ends a comparison. What it has come to [can be read](Tally::differences) until another generation is in force or
    /// compared.
    pub fn end_comparison(&mut self) -> Result<(), DatapathError> {
        shadow::end(self.programs.loaded()?);
        self.tables.end_comparison()?;
        self.free_counters()?;
        self.tally.counters().end_comparison()
    }

    /// Is a generation compared? As long as none has been put in force, an agent before this one has begun it, and it has
    /// ended with that one.
    pub fn compares(&self) -> bool {
        self.tables.compares()
    }

    /// As [`Self::retire`], and waits for it: what was only compared is to take no counters from what is in force.
    fn free_counters(&mut self) -> Result<(), DatapathError> {
        self.tables.wait_for_leaving();
        self.retire()
    }

    fn retire(&mut self) -> Result<(), DatapathError> {
        let counting = self.tables.counting();
        self.tally.counters().retire(|generation| !counting.contains(&generation))
    }

    /// All traffic that was judged since the start.
    pub fn traffic(&self) -> Result<Traffic, DatapathError> {
        self.tally.counters().traffic()
    }

    /// What tells it, too, on another thread.
    pub fn tally(&self) -> Tally {
        self.tally.clone()
    }

    /// The traffic that the generations held and those just replaced have judged, by kind.
    pub fn counters(&self) -> Result<Vec<(CounterKey, Counter)>, DatapathError> {
        self.tally.counters().read()
    }

    /// Edits the tables of a generation in place. After an error [renew](Self::renew) it: the tables are as at some moment
    /// between before and after. They may be full, for each holds so many entries more than it began with.
    pub fn edit(&mut self, of: u32, edits: &Edits<'_>) -> Result<(), DatapathError> {
        self.tables.edit(of, edits)
    }

    /// Looks whether what is [attached](Self::attach) would outlive this value, and pins it anew where another BPF file system
    /// has been mounted in place of the one it was pinned in. To be asked from time to time.
    pub fn look_after_pins(&mut self) -> Result<Footing, DatapathError> {
        match (&self.pins, &mut self.foothold) {
            (Some(pins), Some(foothold)) => foothold.look(pins, &PROGRAMS),
            _ => Ok(Footing::Firm),
        }
    }

    /// Removes what is pinned; the rest goes with the value.
    pub fn detach(self) -> Result<(), DatapathError> {
        self.pins.as_ref().map_or(Ok(()), |pins| pins.detach().map(drop))
    }

    /// Removes what this version has pinned; the rest goes with the value. What another has left attached goes on, if it is not
    /// [dismissed](Self::dismiss_others).
    pub fn withdraw(self) -> Result<(), DatapathError> {
        self.pins.as_ref().map_or(Ok(()), |pins| pins.detach_own_version().map(drop))
    }

    /// Tells what a cgroup is to a generation, if it is not what the one above it is, and where it stands among the
    /// selectors: nothing is written where the programs have found the same. After an error [renew](Self::renew) it.
    pub fn identify(
        &mut self,
        of: u32,
        cgroup: u64,
        endpoint: Option<Endpoint>,
        state: u32,
    ) -> Result<(), DatapathError> {
        self.tables.identify(of, cgroup, endpoint, state)
    }

    /// Has a cgroup found no room in a generation's tables? Then those that are newer and in no workload are refused
    /// everything. [Renew](Self::renew) it with [more room](Renewal::grows), identify every cgroup, and say that all is
    /// [settled](Self::settled).
    pub fn crowded(&self, of: u32) -> Result<bool, DatapathError> {
        self.tables.crowded(of)
    }

    /// Every cgroup that is there has been identified to a generation: whatever is in no workload is nobody's.
    pub fn settled(&mut self, of: u32) -> Result<(), DatapathError> {
        self.tables.settled(of)
    }

    /// Lists what is open; can be taken once.
    pub fn take_observer(&mut self) -> Option<Observer> {
        self.observer.take()
    }

    /// The stream of refusals; can be taken once.
    pub fn take_events(&mut self) -> Option<Events> {
        self.events.take()
    }
}

impl Drop for Datapath {
    fn drop(&mut self) {
        self.pins.iter().for_each(leave_nothing_unfinished);
    }
}

/// Removes the pins of who has not come to attach everything: who could not start leaves nothing. What another version
/// has left attached goes on.
fn leave_nothing_unfinished(pins: &Pins) {
    if !pins.attaches(LAST) {
        // What cannot be removed now can be later.
        let _ = pins.detach_own_version();
    }
}

/// Keys of the hash that the programs know verdicts by: nobody else may know them.
fn hash_keys() -> Result<[u64; HASH_KEYS], DatapathError> {
    let mut keys = [0_u64; HASH_KEYS];
    // Up to 256 bytes come whole or not at all (getrandom(2)).
    let drawn = getrandom(bytemuck::cast_slice_mut::<_, u8>(&mut keys), GetRandomFlags::empty());
    drawn.map_err(|error| DatapathError::Random(error.into()))?;
    Ok(keys)
}

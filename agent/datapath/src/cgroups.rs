//! Who is in which cgroup: tables that the programs write, too, as cgroups come and go.

use std::sync::Arc;

use aya::{
    Ebpf,
    maps::{Array, ArrayOfMaps, HashMap, LpmTrie, MapData, MapError, lpm_trie::Key},
};
use bulkhead_common::{
    Crowded, Endpoint, FIRST_LIST, NameEntry, NameKey, PLACES, STATE_DEAD, mark_of_states,
};

use crate::{DatapathError, tables::take, together::both, wire::Wire};

/// Who is in which cgroup, as a generation begins.
#[derive(Clone, Copy, Debug)]
pub struct Cgroups<'a> {
    /// cgroup id -> endpoint; [`UNPLACED`](bulkhead_common::UNPLACED) -> what those are for which there is no room.
    pub endpoints: &'a [(u64, Endpoint)],
    /// cgroup id -> where it stands among the selectors.
    pub followed: &'a [(u64, u32)],
    /// (prefix length, state and name) -> what a new cgroup of this name is.
    pub names: &'a [(u32, NameKey, NameEntry)],
}

type Endpoints = HashMap<MapData, u64, Wire<Endpoint>>;
type Followed = HashMap<MapData, u64, u32>;
type Names = LpmTrie<MapData, Wire<NameKey>, Wire<NameEntry>>;

/// Room for cgroups that appear while a generation lives, beside twice those that it starts with. It takes memory from
/// the start, about 100 bytes each.
const CGROUPS_TO_COME: usize = 8_192;

/// `BPF_F_NO_PREALLOC`: inner maps must have the flags of their template. Hash maps that tracing programs write are
/// allocated at once.
const GROWS: u32 = 1;
const ALLOCATED: u32 = 0;

/// Flags of an update (`BPF_ANY`, `BPF_NOEXIST`, `BPF_EXIST`).
const ANY: u64 = 0;
const NEW: u64 = 1;
const EXISTING: u64 = 2;

/// errno(3).
const ENOENT: i32 = 2;
const EEXIST: i32 = 17;

/// The maps of all slots.
pub(crate) struct CgroupTables {
    endpoints: ArrayOfMaps<MapData, Endpoints>,
    followed: ArrayOfMaps<MapData, Followed>,
    names: ArrayOfMaps<MapData, Names>,
    crowded: Array<MapData, Wire<Crowded>>,
}

/// The tables of one generation.
pub(crate) struct CgroupTable {
    slot: u32,
    room: usize,
    mark: Mark,
    /// What had found no room in the tables before these.
    missing: Crowded,
    endpoints: Endpoints,
    followed: Followed,
    names: Arc<Names>,
}

/// What the states of a generation's cgroups bear, so that they are told from those of others: see [`PLACES`].
#[derive(Clone, Copy, Debug)]
struct Mark(u32);

impl Mark {
    fn on(self, state: u32) -> u32 {
        if state == STATE_DEAD || state >= FIRST_LIST { state } else { state | self.0 }
    }

    /// The entry of the table of endpoints.
    fn entry(self) -> Wire<Endpoint> {
        Wire(Endpoint { flags: self.0, ..Endpoint::UNMATCHED })
    }
}

impl CgroupTables {
    pub(crate) fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        Ok(Self {
            endpoints: take(ebpf, "ENDPOINTS")?,
            followed: take(ebpf, "FOLLOWED")?,
            names: take(ebpf, "NAMES")?,
            crowded: take(ebpf, "CROWDED")?,
        })
    }

    /// Tables for a slot that is not in use, to be [shown](Self::set). `places`: what the cgroups are, as a number.
    pub(crate) fn fill(
        &mut self,
        slot: u32,
        places: u32,
        cgroups: Cgroups<'_>,
    ) -> Result<CgroupTable, MapError> {
        let mark = Mark(mark_of_states(places));
        let Cgroups { endpoints, followed, names } = cgroups;
        let room = 2 * endpoints.len().max(followed.len()) + CGROUPS_TO_COME;
        let (endpoint_table, followed_table) = hashes(room, mark)?;
        let mut name_table = Names::create(size(names.len().max(1)), GROWS)?;
        for (length, name, entry) in names {
            let name = NameKey { of: mark.on(name.of), ..*name };
            let entry = NameEntry { next: mark.on(entry.next), ..*entry };
            name_table.insert(&Key::new(*length, Wire(name)), Wire(entry), ANY)?;
        }
        let mut new = CgroupTable {
            slot,
            room,
            mark,
            missing: Crowded::default(),
            endpoints: endpoint_table,
            followed: followed_table,
            names: Arc::new(name_table),
        };
        for (cgroup, state) in followed {
            new.followed.insert(cgroup, mark.on(*state), ANY)?;
        }
        for (cgroup, endpoint) in endpoints {
            new.endpoints.insert(cgroup, Wire(*endpoint), ANY)?;
        }
        self.crowded.set(slot, Wire(Crowded::default()), 0)?;
        Ok(new)
    }

    /// Makes another slot, which is not in use, ready to be [shown](Self::set) the same tables: see
    /// [`CgroupTable::moved_to`].
    pub(crate) fn share(&mut self, slot: u32, table: &CgroupTable) -> Result<(), MapError> {
        let crowded = self.crowded.get(&table.slot, 0)?;
        self.crowded.set(slot, crowded, 0)
    }

    /// Larger tables for a slot that is not in use, to be [shown](Self::set) and then [filled](Self::copy). The programs see
    /// them before they are filled, so that no cgroup made meanwhile is missing: what they cannot tell yet is unidentified
    /// until it is copied, or until the agent tells.
    pub(crate) fn larger(&mut self, slot: u32, old: &CgroupTable) -> Result<CgroupTable, MapError> {
        let room = 2 * old.room;
        let (endpoints, followed) = hashes(room, old.mark)?;
        let before = self.crowded.get(&old.slot, 0)?;
        self.crowded.set(slot, Wire(Crowded { unfollowed: 1, ..Crowded::default() }), 0)?;
        let names = Arc::clone(&old.names);
        Ok(CgroupTable { slot, room, mark: old.mark, missing: before.0, endpoints, followed, names })
    }

    /// Fills what has been shown with the entries of the tables before.
    pub(crate) fn copy(&mut self, old: &CgroupTable, new: &mut CgroupTable) -> Result<(), MapError> {
        for entry in &old.followed {
            let (cgroup, state) = entry?;
            new.followed.insert(cgroup, state, ANY)?;
        }
        for entry in &old.endpoints {
            let (cgroup, endpoint) = entry?;
            new.endpoints.insert(cgroup, endpoint, ANY)?;
        }
        // What found no room is still missing.
        self.crowded.set(new.slot, Wire(new.missing), 0)
    }

    /// Lets the programs see the tables of a slot.
    pub(crate) fn set(&mut self, slot: u32, tables: &CgroupTable) -> Result<(), MapError> {
        let Self { endpoints, followed, names, .. } = self;
        let cgroups =
            || both(|| endpoints.set(slot, &tables.endpoints, 0), || followed.set(slot, &tables.followed, 0));
        both(cgroups, || names.set(slot, &tables.names, 0))
    }

    /// Has something found no room in these tables?
    pub(crate) fn crowded(&self, table: &CgroupTable) -> Result<bool, MapError> {
        Ok(self.crowded.get(&table.slot, 0)?.0 != table.missing)
    }

    /// Whatever had found no room before these tables has been told now.
    pub(crate) fn settled(&mut self, table: &mut CgroupTable) -> Result<(), MapError> {
        if self.crowded.get(&table.slot, 0)?.0 == table.missing {
            table.missing = Crowded::default();
            self.crowded.set(table.slot, Wire(Crowded::default()), 0)?;
        }
        Ok(())
    }
}

impl CgroupTable {
    /// After [`CgroupTables::share`].
    pub(crate) fn moved_to(self, slot: u32) -> Self {
        Self { slot, ..self }
    }

    /// Tells what a cgroup is and where it stands; true if the kernel had held otherwise.
    pub(crate) fn identify(
        &mut self,
        cgroup: u64,
        endpoint: Option<Endpoint>,
        state: u32,
    ) -> Result<bool, MapError> {
        // First where it stands: what is made in it meanwhile is told by that.
        let state = (state != STATE_DEAD).then(|| self.mark.on(state));
        correct(&mut self.followed, cgroup, state, |a, b| a == b)?;
        correct(&mut self.endpoints, cgroup, endpoint.map(Wire), |a, b| a.0 == b.0)
    }
}

/// The tables that the programs write, with room for so many cgroups each.
fn hashes(room: usize, mark: Mark) -> Result<(Endpoints, Followed), MapError> {
    let mut endpoints = Endpoints::create(size(room), ALLOCATED)?;
    endpoints.insert(PLACES, mark.entry(), NEW)?;
    Ok((endpoints, Followed::create(size(room), ALLOCATED)?))
}

/// Makes the entry of a cgroup what it should be; true if it was not. An entry that the kernel holds is never set anew
/// once the cgroup is gone: nobody would remove it.
fn correct<V: aya::Pod>(
    table: &mut HashMap<MapData, u64, V>,
    cgroup: u64,
    wanted: Option<V>,
    same: impl Fn(&V, &V) -> bool,
) -> Result<bool, MapError> {
    let held = match table.get(&cgroup, 0) {
        Ok(held) => Some(held),
        Err(MapError::KeyNotFound) => None,
        Err(error) => return Err(error),
    };
    let (done, gone) = match (held, wanted) {
        (None, None) => return Ok(false),
        (Some(held), Some(wanted)) if same(&held, &wanted) => return Ok(false),
        (Some(_), Some(wanted)) => (table.insert(cgroup, wanted, EXISTING), ENOENT),
        (None, Some(wanted)) => (table.insert(cgroup, wanted, NEW), EEXIST),
        (Some(_), None) => (table.remove(&cgroup), ENOENT),
    };
    match done {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(true),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(gone) => Ok(true),
        Err(error) => Err(error),
    }
}

/// Number of entries to ask for.
fn size(entries: usize) -> u32 {
    u32::try_from(entries).unwrap_or(u32::MAX)
}

//! Who is in which cgroup: tables that the programs write, too, as cgroups come and go.

use aya::{
    Ebpf,
    maps::{Array, ArrayOfMaps, HashMap, LpmTrie, MapData, MapError, lpm_trie::Key},
};
use bulkhead_common::{Crowded, Endpoint, NameEntry, NameKey, STATE_DEAD};

use crate::{DatapathError, tables::take, wire::Wire};

/// Who is in which cgroup, as a generation begins.
#[derive(Clone, Copy, Debug)]
pub enum Cgroups<'a> {
    /// As in the generation in force, which must be of the same policy: the same tables.
    Kept,
    /// As in the generation in force, which must be of the same policy, with more room. Nothing that the programs write
    /// meanwhile is lost.
    Grown,
    /// This.
    New {
        /// cgroup id -> endpoint; [`UNPLACED`](bulkhead_common::UNPLACED) -> what those are for which there is no room.
        endpoints: &'a [(u64, Endpoint)],
        /// cgroup id -> where it stands among the selectors.
        followed: &'a [(u64, u32)],
        /// (prefix length, state and name) -> what a new cgroup of this name is.
        names: &'a [(u32, NameKey, NameEntry)],
    },
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
    active: Option<Active>,
}

/// The tables of the slot in force.
struct Active {
    slot: u32,
    room: usize,
    /// What had found no room in the tables before these.
    missing: Crowded,
    endpoints: Endpoints,
    followed: Followed,
    names: Names,
}

impl CgroupTables {
    pub(crate) fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        Ok(Self {
            endpoints: take(ebpf, "ENDPOINTS")?,
            followed: take(ebpf, "FOLLOWED")?,
            names: take(ebpf, "NAMES")?,
            crowded: take(ebpf, "CROWDED")?,
            active: None,
        })
    }

    /// Fills a slot that is not in force. The programs write it from then on.
    pub(crate) fn fill(&mut self, slot: u32, cgroups: Cgroups<'_>) -> Result<(), MapError> {
        match cgroups {
            Cgroups::New { endpoints, followed, names } => self.fill_new(slot, endpoints, followed, names),
            Cgroups::Kept => self.fill_shared(slot),
            Cgroups::Grown => self.fill_grown(slot),
        }
    }

    fn fill_new(
        &mut self,
        slot: u32,
        endpoints: &[(u64, Endpoint)],
        followed: &[(u64, u32)],
        names: &[(u32, NameKey, NameEntry)],
    ) -> Result<(), MapError> {
        let entries = endpoints.len().max(followed.len());
        let room = 2 * entries + CGROUPS_TO_COME;
        let (endpoint_table, followed_table) = hashes(room)?;
        let mut new = Active {
            slot,
            room,
            missing: Crowded::default(),
            endpoints: endpoint_table,
            followed: followed_table,
            names: Names::create(size(names.len().max(1)), GROWS)?,
        };
        for (length, name, entry) in names {
            new.names.insert(&Key::new(*length, Wire(*name)), Wire(*entry), ANY)?;
        }
        for (cgroup, state) in followed {
            new.followed.insert(cgroup, state, ANY)?;
        }
        for (cgroup, endpoint) in endpoints {
            new.endpoints.insert(cgroup, Wire(*endpoint), ANY)?;
        }
        self.crowded.set(slot, Wire(Crowded::default()), 0)?;
        self.show(new)
    }

    /// The same tables in another slot.
    fn fill_shared(&mut self, slot: u32) -> Result<(), MapError> {
        let Some(active) = self.active.take() else { return Ok(()) };
        let crowded = self.crowded.get(&active.slot, 0)?;
        self.crowded.set(slot, crowded, 0)?;
        self.show(Active { slot, ..active })
    }

    /// Larger tables with the same entries. The programs see them before they are filled, so that no cgroup made
    /// meanwhile is missing: what they cannot tell yet is unidentified until it is copied, or until the agent tells.
    fn fill_grown(&mut self, slot: u32) -> Result<(), MapError> {
        let Some(room) = self.active.as_ref().map(|old| 2 * old.room) else { return Ok(()) };
        let (endpoints, followed) = hashes(room)?;
        let Some(old) = self.active.take() else { return Ok(()) };
        let before = self.crowded.get(&old.slot, 0)?;
        self.crowded.set(slot, Wire(Crowded { unfollowed: 1, ..Crowded::default() }), 0)?;
        self.show(Active { slot, room, missing: before.0, endpoints, followed, names: old.names })?;
        if let Some(new) = &mut self.active {
            for entry in &old.followed {
                let (cgroup, state) = entry?;
                new.followed.insert(cgroup, state, ANY)?;
            }
            for entry in &old.endpoints {
                let (cgroup, endpoint) = entry?;
                new.endpoints.insert(cgroup, endpoint, ANY)?;
            }
        }
        // What found no room is still missing.
        self.crowded.set(slot, before, 0)
    }

    /// Lets the programs see the tables of a slot: names last, since without them they write nothing.
    fn show(&mut self, tables: Active) -> Result<(), MapError> {
        self.endpoints.set(tables.slot, &tables.endpoints, 0)?;
        self.followed.set(tables.slot, &tables.followed, 0)?;
        self.names.set(tables.slot, &tables.names, 0)?;
        self.active = Some(tables);
        Ok(())
    }

    /// Has something found no room in these tables?
    pub(crate) fn crowded(&self) -> Result<bool, MapError> {
        let Some(active) = &self.active else { return Ok(false) };
        Ok(self.crowded.get(&active.slot, 0)?.0 != active.missing)
    }

    /// Whatever had found no room before these tables has been told now.
    pub(crate) fn settled(&mut self) -> Result<(), MapError> {
        let Some(active) = &mut self.active else { return Ok(()) };
        if self.crowded.get(&active.slot, 0)?.0 == active.missing {
            active.missing = Crowded::default();
            self.crowded.set(active.slot, Wire(Crowded::default()), 0)?;
        }
        Ok(())
    }

    /// Tells what a cgroup is and where it stands; true if the kernel had held otherwise.
    pub(crate) fn identify(
        &mut self,
        cgroup: u64,
        endpoint: Option<Endpoint>,
        state: u32,
    ) -> Result<bool, MapError> {
        let Some(active) = &mut self.active else { return Ok(false) };
        // First where it stands: what is made in it meanwhile is told by that.
        let state = (state != STATE_DEAD).then_some(state);
        correct(&mut active.followed, cgroup, state, |a, b| a == b)?;
        correct(&mut active.endpoints, cgroup, endpoint.map(Wire), |a, b| a.0 == b.0)
    }
}

/// The tables that the programs write, with room for so many cgroups each.
fn hashes(room: usize) -> Result<(Endpoints, Followed), MapError> {
    Ok((Endpoints::create(size(room), ALLOCATED)?, Followed::create(size(room), ALLOCATED)?))
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

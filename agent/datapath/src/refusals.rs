//! How often each kind of refusal has happened, as the programs count it.

use aya::{
    Ebpf,
    maps::{ArrayOfMaps, HashMap, MapData, MapError},
};
use bulkhead_common::{Refusal, RefusalKey};

use crate::{DatapathError, tables::take, wire::Wire};

type Kinds = HashMap<MapData, Wire<RefusalKey>, Wire<Refusal>>;

/// `BPF_F_NO_PREALLOC`: inner maps must have the flags of their template.
const GROWS: u32 = 1;

/// Kinds that a table holds. What finds no room makes a record each time.
const ROOM: u32 = 16_384;

/// The table that programs count in.
pub(crate) struct Refusals {
    /// Where programs find it.
    outer: ArrayOfMaps<MapData, Kinds>,
    kinds: Kinds,
}

impl Refusals {
    pub(crate) fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        let outer = take(ebpf, "REFUSALS")?;
        let kinds = empty().map_err(making)?;
        Ok(Self { outer, kinds })
    }

    /// Counts kinds from now on: takes as long as [`Self::renew`].
    pub(crate) fn begin(&mut self) -> Result<(), DatapathError> {
        self.outer.set(0, &self.kinds, 0).map_err(making)
    }

    /// What has been counted of one kind; none if it has no entry.
    pub(crate) fn of(&self, kind: &RefusalKey) -> Result<Option<Refusal>, DatapathError> {
        match self.kinds.get(&Wire(*kind), 0) {
            Ok(Wire(refusal)) => Ok(Some(refusal)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(source) => Err(DatapathError::Map { action: "read the table of refusals", source }),
        }
    }

    /// Puts an empty table in place and tells what the old one held at the last.
    ///
    /// The kernel returns from the exchange when no program uses the old table any more (`maybe_wait_bpf_programs` in
    /// kernel/bpf/syscall.c): what is read then is final.
    pub(crate) fn renew(&mut self) -> Result<impl Iterator<Item = (RefusalKey, Refusal)>, DatapathError> {
        let new = empty().map_err(making)?;
        self.outer.set(0, &new, 0).map_err(DatapathError::map("replace the table of refusals"))?;
        let old = std::mem::replace(&mut self.kinds, new);
        let all: Result<Vec<_>, _> = old.iter().collect();
        let all = all.map_err(DatapathError::map("read the last table of refusals"))?;
        Ok(all.into_iter().map(|(Wire(kind), Wire(refusal))| (kind, refusal)))
    }
}

fn empty() -> Result<Kinds, MapError> {
    Kinds::create(ROOM, GROWS)
}

fn making(error: MapError) -> DatapathError {
    DatapathError::map("make the table of refusals")(error)
}

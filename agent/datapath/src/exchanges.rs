//! Exchanges of datagrams that go on while programs of another version are replaced: an answer is known by the question,
//! and a question may be older than the programs. (A connection that is older is known by its socket: see
//! [`crate::older`].)

use aya::{
    Ebpf,
    maps::{HashMap as BpfHashMap, Map, MapData},
};
use bulkhead_common::{PeerFlow, PeerFlowKey};

use crate::{DatapathError, pins::Pins, tables::take, wire::Wire};

/// A version that lays its entries out in another way gives the table another name.
const TABLE: &str = "PEER_FLOWS";
/// `BPF_NOEXIST`: what the programs have noted meanwhile is newer.
const NO_EXIST: u64 = 1;
/// Twice what a table holds: one that is written meanwhile may be read from its beginning again.
const MOST: usize = 2 * 65_536;

type Table = BpfHashMap<MapData, Wire<PeerFlowKey>, Wire<PeerFlow>>;

/// What the programs know of exchanges.
pub(crate) struct Exchanges(Table);

impl Exchanges {
    pub(crate) fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        take(ebpf, TABLE).map(Self)
    }

    /// Takes over what the programs of other versions know.
    pub(crate) fn carry_over(&mut self, pins: &Pins) -> Result<(), DatapathError> {
        for path in pins.of_other_versions(TABLE)? {
            let known = DatapathError::map("read what programs of another version know of exchanges");
            let theirs = MapData::from_pin(path).map_err(&known)?;
            let theirs: Table = Map::LruHashMap(theirs).try_into().map_err(&known)?;
            for (key, flow) in theirs.iter().flatten().take(MOST) {
                // There is one that is newer.
                let _ = self.0.insert(key, flow, NO_EXIST);
            }
        }
        Ok(())
    }
}

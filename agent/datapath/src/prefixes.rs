//! Longest-prefix tables that user space fills and edits while programs look things up in them: what is for one address or
//! one port in a hash table, the rest in a trie.

use aya::maps::{ArrayOfMaps, HashMap, LpmTrie, MapData, MapError, lpm_trie::Key};
use bulkhead_common::{Address, HostEntry, PeerEntry, PolicyKey, PolicyValue, PortEntry};
use bytemuck::Pod;
use rustix::io::Errno;

use crate::{together::both, wire::Wire};

/// `BPF_F_NO_PREALLOC`: inner maps must have the flags of their template.
const GROWS: u32 = 1;

/// Room in each trie for what appears while a generation lives, beside what it starts with. Room that is not used takes no
/// memory.
const TO_COME: usize = 65_536;

/// The same in each hash table, where each entry of room takes a word or two. What finds none there is put into the trie.
const EXACT_TO_COME: usize = 1_024;

/// What a table maps to what.
pub(crate) trait Entry: Copy {
    type Key: Pod + Send + Sync;
    type Value: Pod + Send + Sync;
    /// What lies in the hash table.
    type Word: Pod + Send + Sync;
    /// Length of a prefix that is a whole key.
    const FULL: u32;

    /// The word for one whole key; none: it does not fit.
    fn word(key: &Self::Key, value: &Self::Value) -> Option<Self::Word>;
}

/// Addresses, and what they stand for.
#[derive(Clone, Copy)]
pub(crate) struct OfPeers;

impl Entry for OfPeers {
    type Key = Address;
    type Value = PeerEntry;
    type Word = HostEntry;
    const FULL: u32 = 128;

    fn word(address: &Address, entry: &PeerEntry) -> Option<HostEntry> {
        HostEntry::new(*address, entry)
    }
}

/// The allowlists.
#[derive(Clone, Copy)]
pub(crate) struct OfPolicy;

impl Entry for OfPolicy {
    type Key = PolicyKey;
    type Value = PolicyValue;
    type Word = PortEntry;
    const FULL: u32 = PolicyKey::FULL;

    fn word(key: &PolicyKey, value: &PolicyValue) -> Option<PortEntry> {
        PortEntry::new(key, value)
    }
}

type Exact<E> = HashMap<MapData, Wire<<E as Entry>::Key>, Wire<<E as Entry>::Word>>;
type Trie<E> = LpmTrie<MapData, Wire<<E as Entry>::Key>, Wire<<E as Entry>::Value>>;

/// The table of one generation.
pub(crate) struct Prefixes<E: Entry> {
    exact: Exact<E>,
    trie: Trie<E>,
}

impl<E: Entry> Prefixes<E> {
    /// A table that programs do not see yet.
    pub(crate) fn new(
        entries: impl ExactSizeIterator<Item = (u32, E::Key, E::Value)>,
    ) -> Result<Self, MapError> {
        let count = entries.len();
        let mut new = Self {
            exact: Exact::<E>::create(room(count, EXACT_TO_COME), GROWS)?,
            trie: Trie::<E>::create(room(count, TO_COME), GROWS)?,
        };
        for (length, key, value) in entries {
            match Self::word(length, &key, &value) {
                Some(word) => new.exact.insert(Wire(key), Wire(word), 0)?,
                None => new.trie.insert(&Key::new(length, Wire(key)), Wire(value), 0)?,
            }
        }
        Ok(new)
    }

    /// Sets an entry. A program finds what was there before or what is there now.
    pub(crate) fn put(&mut self, length: u32, key: &E::Key, value: &E::Value) -> Result<(), MapError> {
        if let Some(word) = Self::word(length, key, value)
            && self.exact.insert(Wire(*key), Wire(word), 0).is_ok()
        {
            // The hash table is asked first.
            return gone(self.trie.remove(&Key::new(length, Wire(*key)))).map(drop);
        }
        self.trie.insert(&Key::new(length, Wire(*key)), Wire(*value), 0)?;
        if length == E::FULL { gone(self.exact.remove(&Wire(*key))).map(drop) } else { Ok(()) }
    }

    /// Removes an entry.
    pub(crate) fn remove(&mut self, length: u32, key: &E::Key) -> Result<(), MapError> {
        if length == E::FULL && gone(self.exact.remove(&Wire(*key)))? {
            return Ok(());
        }
        self.trie.remove(&Key::new(length, Wire(*key)))
    }

    fn word(length: u32, key: &E::Key, value: &E::Value) -> Option<E::Word> {
        if length == E::FULL { E::word(key, value) } else { None }
    }
}

/// Where programs find the tables, by slot.
pub(crate) struct Shown<E: Entry> {
    exact: ArrayOfMaps<MapData, Exact<E>>,
    tries: ArrayOfMaps<MapData, Trie<E>>,
}

impl<E: Entry> Shown<E> {
    pub(crate) fn new(exact: ArrayOfMaps<MapData, Exact<E>>, tries: ArrayOfMaps<MapData, Trie<E>>) -> Self {
        Self { exact, tries }
    }

    /// Puts a table into a slot that is not in use.
    pub(crate) fn set(&mut self, slot: u32, table: &Prefixes<E>) -> Result<(), MapError> {
        let Self { exact, tries } = self;
        both(|| exact.set(slot, &table.exact, 0), || tries.set(slot, &table.trie, 0))
    }
}

/// Was there something to remove?
fn gone(removed: Result<(), MapError>) -> Result<bool, MapError> {
    match removed {
        Ok(()) => Ok(true),
        Err(MapError::SyscallError(e)) if Errno::from_io_error(&e.io_error) == Some(Errno::NOENT) => {
            Ok(false)
        }
        Err(e) => Err(e),
    }
}

/// Number of entries to ask for.
fn room(entries: usize, to_come: usize) -> u32 {
    u32::try_from(entries.saturating_add(to_come)).unwrap_or(u32::MAX)
}

use bulkhead_common::{Address, PeerEntry, PolicyKey, PolicyValue};

/// What changes the tables from one state of the host to the next.
///
/// Applied to live tables field by field and in order, a packet at any moment is answered as before or as after: an
/// address points at a class only while the class has all its entries, and the number of a class that is gone is
/// not given again. No entry is here that stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edits {
    /// First: entries of new classes in the allowlists (length of the prefix, key, value).
    pub policy_puts: Vec<(u32, PolicyKey, PolicyValue)>,
    /// Then: addresses (first address, length of the prefix) and who they are now. None: the entry goes, and they are
    /// who the range around them is.
    pub peers: Vec<(Address, u32, Option<PeerEntry>)>,
    /// At last: entries of classes that nobody is in any more.
    pub policy_removes: Vec<(u32, PolicyKey)>,
}

impl Edits {
    /// How many entries change.
    pub fn len(&self) -> usize {
        self.policy_puts.len() + self.peers.len() + self.policy_removes.len()
    }

    /// Does nothing change?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

//! What the kernel makes of the names of new cgroups, as it looks them up.

use bulkhead_common::{Endpoint, NAME_BYTES, NameEntry, NameKey};
use bulkhead_policy::{Automaton, Identity, Leads, Target};

/// The kernel's table of names.
pub(super) fn table(
    automaton: &Automaton,
    endpoint: impl Fn(Identity) -> Option<Endpoint>,
) -> Vec<(u32, NameKey, NameEntry)> {
    let rows = automaton.edges().map(|(of, bytes, leads)| {
        let mut name = [0; NAME_BYTES];
        name[..bytes.len()].copy_from_slice(bytes);
        (NameKey::prefix_len(bytes.len()), NameKey { of, name }, entry(leads, &endpoint))
    });
    rows.collect()
}

fn entry(leads: Leads, endpoint: impl Fn(Identity) -> Option<Endpoint>) -> NameEntry {
    match leads {
        Leads::ByEnding(list) => NameEntry { next: list, flags: NameEntry::ENDINGS, ..NameEntry::default() },
        Leads::To(Target { identity, state }) => match identity.and_then(endpoint) {
            Some(endpoint) => NameEntry { endpoint, next: state, flags: NameEntry::PLACE },
            None => NameEntry { next: state, ..NameEntry::default() },
        },
    }
}

//! What each rule has allowed, added up for as long as the rule is known: it outlives the flows, the oldest of which go.

use std::collections::{BTreeMap, HashMap, HashSet};

use jiff::Timestamp;
use redb::{
    ReadableDatabase as _, ReadableTable as _, ReadableTableMetadata as _, TableDefinition, TableError,
};

use super::{History, HistoryError, Limits, flow::Grown, read::time, store::micros};

/// By the id of a rule: since when it is known, packets, bytes, connections, and the last hit (0: none).
const HITS: TableDefinition<'_, &str, HitsRow> = TableDefinition::new("hits");

type HitsRow = (u64, u64, u64, u64, u64);

/// Bytes of the greatest size for each rule that is known: all of them together are a small part of it.
const SHARE: u64 = 4096;
/// So many are known at most, as many as there are kinds of traffic counted apart.
const MOST: u64 = 16_384;

/// What a rule has allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hits {
    /// Since when it is watched: nothing is known of before.
    pub since: Timestamp,
    /// Packets that it has let pass, at each end that is a workload.
    pub packets: u64,
    /// Their bytes, IP headers included.
    pub bytes: u64,
    /// Connections and exchanges of datagrams that they opened.
    pub connections: u64,
    /// When the last of them passed, at most a few seconds early; none: none has.
    pub last: Option<Timestamp>,
}

/// What is new of rules.
#[derive(Debug, Default)]
pub(super) struct NewHits {
    /// Ids of rules that are in force now, if others were before.
    pub(super) in_force: Option<Vec<String>>,
    /// What rules have allowed.
    grown: BTreeMap<String, (Grown, u64, u64)>,
}

impl NewHits {
    pub(super) fn is_empty(&self) -> bool {
        self.in_force.is_none() && self.grown.is_empty()
    }

    /// Adds what a rule has allowed, and when the first and the last of it were.
    pub(super) fn add(&mut self, rule: &str, grown: Grown, first: Timestamp, last: Timestamp) {
        let (first, last) = (micros(first), micros(last));
        let (sum, earliest, latest) =
            self.grown.entry(rule.to_owned()).or_insert_with(|| (Grown::default(), first, last));
        sum.packets += grown.packets;
        sum.bytes += grown.bytes;
        sum.connections += grown.connections;
        *earliest = first.min(*earliest);
        *latest = last.max(*latest);
    }

    /// Writes it with the rest of `change`.
    pub(super) fn write(
        &self,
        change: &redb::WriteTransaction,
        limits: Limits,
        now: Timestamp,
    ) -> Result<(), HistoryError> {
        let mut hits = change.open_table(HITS)?;
        for (rule, (grown, first, last)) in &self.grown {
            let (since, packets, bytes, connections, before) =
                hits.get(rule.as_str())?.map_or((u64::MAX, 0, 0, 0, 0), |row| row.value());
            let row = (
                since.min(*first),
                packets + grown.packets,
                bytes + grown.bytes,
                connections + grown.connections,
                before.max(*last),
            );
            hits.insert(rule.as_str(), row)?;
        }
        let most = (limits.size / SHARE).min(MOST);
        if let Some(in_force) = &self.in_force {
            let mut missing = Vec::new();
            for rule in in_force {
                if hits.get(rule.as_str())?.is_none() {
                    missing.push(rule.as_str());
                }
            }
            if hits.len()? + missing.len() as u64 > most {
                // As long as there is room, rules of policies before this one are kept: it may be rolled back.
                let known: HashSet<&str> = in_force.iter().map(String::as_str).collect();
                hits.retain(|rule, _| known.contains(rule))?;
            }
            let room = usize::try_from(most.saturating_sub(hits.len()?)).unwrap_or(usize::MAX);
            for rule in missing.into_iter().take(room) {
                hits.insert(rule, (micros(now), 0, 0, 0, 0))?;
            }
        }
        // Of too many, those go whose last hit was the longest ago.
        if hits.len()? > most {
            let mut uses = hits
                .iter()?
                .map(|row| Ok(last_use(row?.1.value())))
                .collect::<Result<Vec<_>, HistoryError>>()?;
            let too_many = usize::try_from(hits.len()? - most).unwrap_or(usize::MAX).min(uses.len());
            let (_, oldest, _) = uses.select_nth_unstable(too_many - 1);
            let oldest = *oldest;
            hits.retain(|_, row| last_use(row) > oldest)?;
        }
        Ok(())
    }
}

fn last_use((since, _, _, _, last): HitsRow) -> u64 {
    since.max(last)
}

impl History {
    /// What rules have allowed, by their ids. It may wait for a disk: call it where that matters to nobody.
    pub fn hits(&self) -> Result<HashMap<String, Hits>, HistoryError> {
        let view = self.database()?.begin_read()?;
        let table = match view.open_table(HITS) {
            Ok(table) => table,
            Err(TableError::TableDoesNotExist(_)) => return Ok(HashMap::new()),
            Err(error) => return Err(error.into()),
        };
        let read = table.iter()?.map(|row| {
            let (rule, row) = row?;
            let (since, packets, bytes, connections, last) = row.value();
            let last = (last > 0).then(|| time(last));
            let hits = Hits { since: time(since), packets, bytes, connections, last };
            Ok((rule.value().to_owned(), hits))
        });
        read.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, Mutex, mpsc::sync_channel},
        time::Duration,
    };

    use redb::Database;
    use tempfile::TempDir;

    use super::{super::Account, *};

    #[test]
    fn of_too_many_rules_those_go_that_were_hit_long_ago_and_then_those_not_in_force() {
        let folder = TempDir::new().unwrap();
        let database = Arc::new(Database::create(folder.path().join("hits.redb")).unwrap());
        // Room for four.
        let limits = Limits { size: 4 * SHARE, age: Duration::from_hours(24) };
        let write = |hits: &NewHits, now: u64| {
            let change = database.begin_write().unwrap();
            hits.write(&change, limits, time(now)).unwrap();
            change.commit().unwrap();
        };
        let grown = Grown { packets: 1, bytes: 1, connections: 1 };
        for (n, rule) in ["a", "b", "c", "d", "e", "a"].into_iter().enumerate() {
            let mut new = NewHits::default();
            let at = time(1_000 + n as u64);
            new.add(rule, grown, at, at);
            write(&new, 2_000);
        }
        let history = History {
            queue: sync_channel(1).0,
            account: Arc::new(Account {
                database: Mutex::new(Some(Arc::clone(&database))),
                ..Account::default()
            }),
        };
        let left = || -> BTreeMap<String, u64> {
            history.hits().unwrap().into_iter().map(|(rule, hits)| (rule, hits.packets)).collect()
        };
        let expected = |rules: &[(&str, u64)]| rules.iter().map(|(r, n)| ((*r).to_owned(), *n)).collect();
        assert_eq!(left(), expected(&[("a", 1), ("c", 1), ("d", 1), ("e", 1)]));
        let in_force = Some(["a", "x", "y"].map(str::to_owned).to_vec());
        write(&NewHits { in_force, ..NewHits::default() }, 2_000);
        assert_eq!(left(), expected(&[("a", 1), ("x", 0), ("y", 0)]));
    }
}

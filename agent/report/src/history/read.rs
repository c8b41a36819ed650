//! Reading the history, a few records at a time: neither memory nor the writer's file grows with a reader that is slow.

use std::{
    collections::{HashMap, hash_map::Entry},
    ops::Bound,
};

use jiff::Timestamp;
use redb::{Database, ReadableDatabase as _, TableError};

use super::{
    Flow, FlowKind, History, HistoryError, Reached,
    flow::{Grown, Times},
    store::{self, DENIALS, FLOWS, FlowRow, KINDS, micros},
};
use crate::Denial;

/// So many are read at a time.
const PAGE: usize = 256;

/// So many kinds of flows are known while they are read.
const KINDS_KNOWN: usize = 4096;

/// Which part of the history is read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    /// Not what was written before.
    pub since: Option<Timestamp>,
    /// The last so many.
    pub limit: Option<u64>,
    /// Not what was written later.
    pub until: Option<Reached>,
}

/// What the history holds.
pub trait Record: Sized {
    /// What is kept of one page for the next.
    #[doc(hidden)]
    type Known: Default;

    /// At most `most` of them between two keys, each with its key; none for what a version before wrote in other words.
    #[doc(hidden)]
    fn page(
        database: &Database,
        between: (Bound<u64>, Bound<u64>),
        backwards: bool,
        most: usize,
        known: &mut Self::Known,
    ) -> Result<Vec<(u64, Option<Self>)>, HistoryError>;
}

impl Record for Denial {
    type Known = ();

    fn page(
        database: &Database,
        between: (Bound<u64>, Bound<u64>),
        backwards: bool,
        most: usize,
        (): &mut (),
    ) -> Result<Vec<(u64, Option<Self>)>, HistoryError> {
        store::rows(database, DENIALS, between, backwards, most, |key, text| {
            Ok((key, Self::from_json(text).ok()))
        })
    }
}

impl Record for Flow {
    type Known = HashMap<u32, Option<(bool, FlowKind)>>;

    fn page(
        database: &Database,
        between: (Bound<u64>, Bound<u64>),
        backwards: bool,
        most: usize,
        known: &mut Self::Known,
    ) -> Result<Vec<(u64, Option<Self>)>, HistoryError> {
        if known.len() > KINDS_KNOWN {
            known.clear();
        }
        let view = database.begin_read()?;
        let kinds = match view.open_table(KINDS) {
            Ok(kinds) => kinds,
            Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let rows =
            store::rows(database, FLOWS, between, backwards, most, |key, row: FlowRow| Ok((key, row)))?;
        let read = |(key, row): (u64, FlowRow)| {
            let kind = match known.entry(row.0) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(unknown) => {
                    let found = kinds.get(row.0)?.and_then(|found| {
                        let (calls, text) = found.value();
                        Some((calls, serde_json::from_str(text).ok()?))
                    });
                    unknown.insert(found)
                }
            };
            Ok((key, kind.as_ref().map(|(calls, kind)| flow(kind.clone(), *calls, key, row))))
        };
        rows.into_iter().map(read).collect()
    }
}

fn flow(kind: FlowKind, calls: bool, key: u64, row: FlowRow) -> Flow {
    let (_, since, packets, bytes, connections, first_seen, last_seen) = row;
    let [since, time, first_seen, last_seen] = [since, key, first_seen, last_seen].map(time);
    Grown { packets, bytes, connections }.record(kind, calls, Times { since, time, first_seen, last_seen })
}

pub(super) fn time(micros: u64) -> Timestamp {
    i64::try_from(micros).ok().and_then(|m| Timestamp::from_microsecond(m).ok()).unwrap_or(Timestamp::MAX)
}

impl History {
    /// Tells records of the history, the oldest first, that `holds` holds of, until `tell` has enough. It may wait for a
    /// disk: call it where that matters to nobody.
    pub fn read<R: Record>(
        &self,
        wanted: Wanted,
        holds: impl Fn(&R) -> bool,
        mut tell: impl FnMut(R) -> bool,
    ) -> Result<(), HistoryError> {
        let until = wanted.until.map_or(Bound::Unbounded, |reached| Bound::Included(reached.key));
        let mut from = wanted.since.map_or(Bound::Unbounded, |since| Bound::Included(micros(since)));
        if let Some(limit) = wanted.limit {
            match self.key_of_last(limit, (from, until), &holds)? {
                Some(key) => from = Bound::Included(key),
                None if limit == 0 => return Ok(()),
                None => {}
            }
        }
        let mut known = R::Known::default();
        loop {
            let page = R::page(&*self.database()?, (from, until), false, PAGE, &mut known)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            from = Bound::Excluded(*last);
            for record in page.into_iter().filter_map(|(_, record)| record) {
                if holds(&record) && !tell(record) {
                    return Ok(());
                }
            }
        }
    }

    /// The key of the first of the last `limit` records; none: there are no more than that, or none is wanted.
    fn key_of_last<R: Record>(
        &self,
        limit: u64,
        (from, mut until): (Bound<u64>, Bound<u64>),
        holds: impl Fn(&R) -> bool,
    ) -> Result<Option<u64>, HistoryError> {
        let (mut found, mut known) = (0, R::Known::default());
        while found < limit {
            let page = R::page(&*self.database()?, (from, until), true, PAGE, &mut known)?;
            let Some((last, _)) = page.last() else { return Ok(None) };
            until = Bound::Excluded(*last);
            for (key, record) in &page {
                found += u64::from(record.as_ref().is_some_and(&holds));
                if found == limit {
                    return Ok(Some(*key));
                }
            }
        }
        Ok(None)
    }
}

//! The database of what was reported and counted.

use std::{
    collections::{BTreeSet, HashMap},
    fs::{self, OpenOptions},
    io,
    ops::Bound,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bulkhead_common::{Counter, CounterKey};
use jiff::Timestamp;
use redb::{
    Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, ReadableTableMetadata as _,
    StorageError, Table, TableDefinition, TableError, backends::FileBackend,
};

use super::{hits::NewHits, room};

/// By when it was written, in microseconds since the Unix epoch, each later than the one before: a denial.
pub(super) const DENIALS: TableDefinition<'_, u64, &str> = TableDefinition::new("denials");
/// By the same: kind, beginning of the stretch, packets, bytes, connections, first and last seen (microseconds).
pub(super) const FLOWS: TableDefinition<'_, u64, FlowRow> = TableDefinition::new("flows");
/// A [kind](super::FlowKind) by its number, and whether calls are counted.
pub(super) const KINDS: TableDefinition<'_, u32, (bool, &str)> = TableDefinition::new("kinds");
/// How much of each counter is in the flows: kind, packets, bytes, connections, first and last seen (nanoseconds of
/// `CLOCK_BOOTTIME`).
const CURSOR: TableDefinition<'_, &[u8; 24], CursorRow> = TableDefinition::new("cursor");
/// Of which counters that is.
const ORIGIN: TableDefinition<'_, (), &str> = TableDefinition::new("origin");

pub(super) type FlowRow = (u32, u64, u64, u64, u64, u64, u64);
type CursorRow = (u32, u64, u64, u64, u64, u64);

/// The database.
const FILE: &str = "history.redb";
/// Memory for pages of the file.
const CACHE: usize = 2 << 20;
/// The file doubles when its pages are all in use: kept below this part of the greatest size, it never does so once too
/// often.
const FILLED_PERCENT: u64 = 45;
/// After this part of it has been written, what is in use is looked at.
const LOOK: u64 = 64;
/// A record takes at most so many times its bytes: pages are half full, and written anew before the old ones are free.
const GROWS: u64 = 3;

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of the file, in bytes.
    pub size: u64,
    /// Of the oldest record.
    pub age: Duration,
}

/// Why history is not written, or not read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// By another agent.
    #[error("{} is in use by another agent: give this one another --state-dir", .0.display())]
    Taken(PathBuf),
    /// It is no database, or damaged.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// The disk is full, or read-only, or gone.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// What was counted cannot be had.
    #[error("what was counted cannot be read: {0}")]
    Counters(String),
    /// There is no database to read from.
    #[error("there is no history to read: {0}")]
    Away(String),
}

impl From<StorageError> for HistoryError {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Io(error) if error.kind() != io::ErrorKind::InvalidData => Self::Io(error),
            StorageError::PreviousIo | StorageError::DatabaseClosed => {
                Self::Io(io::Error::other(error.to_string()))
            }
            error => Self::Damaged(error.to_string()),
        }
    }
}

macro_rules! from {
    ($($error:ty),*) => {$(
        impl From<$error> for HistoryError {
            fn from(error: $error) -> Self {
                match error.into() {
                    redb::Error::Io(error) if error.kind() != io::ErrorKind::InvalidData => Self::Io(error),
                    redb::Error::PreviousIo => Self::Io(io::Error::other("a write before has failed")),
                    error => Self::Damaged(error.to_string()),
                }
            }
        }
    )*};
}
from!(TableError, redb::TransactionError, redb::CommitError);

/// What one kind of counter had come to when it was last written.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Written {
    pub(super) kind: u32,
    pub(super) counter: Counter,
}

/// What is written together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// JSON of denials.
    pub(super) denials: Vec<String>,
    pub(super) flows: Vec<FlowRow>,
    /// New kinds, by the number that their flows bear.
    pub(super) kinds: Vec<(u32, bool, String)>,
    pub(super) cursor: Vec<(CounterKey, Written)>,
    /// Counters that are no more.
    pub(super) ended: Vec<CounterKey>,
    pub(super) hits: NewHits,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.denials.is_empty()
            && self.flows.is_empty()
            && self.cursor.is_empty()
            && self.ended.is_empty()
            && self.hits.is_empty()
    }

    fn bytes(&self) -> u64 {
        let texts = self.denials.iter().chain(self.kinds.iter().map(|(_, _, text)| text));
        let rows = self.flows.len() * size_of::<FlowRow>()
            + self.cursor.len() * size_of::<(CounterKey, CursorRow)>();
        texts.map(|text| text.len() as u64 + 16).sum::<u64>() + rows as u64
    }
}

/// The database, for the one who writes.
#[derive(Debug)]
pub(super) struct Store {
    database: Arc<Database>,
    path: PathBuf,
    limits: Limits,
    /// The key given last.
    last: u64,
    next_kind: u32,
    /// Bytes written since it was looked how much is in use.
    unlooked: u64,
    pub(super) cursor: HashMap<CounterKey, Written>,
}

impl Store {
    /// Opens the database in `folder`, or begins one. One that is damaged is put aside. `origin` tells the counters apart
    /// from those of another boot or programs that were loaded anew.
    pub(super) fn open(folder: &Path, limits: Limits, origin: &str) -> Result<Self, HistoryError> {
        // It tells of processes and addresses: root's alone.
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let path = folder.join(FILE);
        match Self::open_file(&path, limits, origin) {
            Err(HistoryError::Damaged(why)) => {
                Self::put_aside(folder, &why)?;
                Self::open_file(&path, limits, origin)
            }
            opened => opened,
        }
    }

    /// Takes a damaged database out of the way. Nobody may have it open.
    pub(super) fn put_aside(folder: &Path, why: &str) -> io::Result<()> {
        let aside = folder.join("history.redb.unreadable");
        fs::rename(folder.join(FILE), &aside)?;
        tracing::error!(why, aside = %aside.display(), "the history is damaged: it is put aside, and another one begun");
        Ok(())
    }

    fn open_file(path: &Path, limits: Limits, origin: &str) -> Result<Self, HistoryError> {
        // A damaged file may be refused by an assertion.
        let opened = std::panic::catch_unwind(|| {
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
            let opened = FileBackend::new(file)
                .and_then(|file| Database::builder().set_cache_size(CACHE).create_with_backend(file));
            let database = opened.map_err(|error| match error {
                DatabaseError::DatabaseAlreadyOpen => HistoryError::Taken(path.to_owned()),
                DatabaseError::Storage(error) => error.into(),
                error => HistoryError::Damaged(error.to_string()),
            })?;
            let mut store = Self {
                database: Arc::new(database),
                path: path.to_owned(),
                limits,
                last: 0,
                next_kind: 0,
                unlooked: u64::MAX / 2,
                cursor: HashMap::new(),
            };
            store.begin(origin)?;
            Ok(store)
        });
        opened.unwrap_or_else(|_| Err(HistoryError::Damaged("reading it fails".into())))
    }

    fn begin(&mut self, origin: &str) -> Result<(), HistoryError> {
        let change = self.database.begin_write()?;
        let is_known = {
            let (flows, denials) = (change.open_table(FLOWS)?, change.open_table(DENIALS)?);
            let kinds = change.open_table(KINDS)?;
            self.last = key(flows.last()?).max(key(denials.last()?)).unwrap_or(0);
            self.next_kind = kinds.last()?.map_or(0, |(kind, _)| kind.value() + 1);
            let mut origins = change.open_table(ORIGIN)?;
            let is_same = origins.get(())?.is_some_and(|known| known.value() == origin);
            if !is_same {
                change.delete_table(CURSOR)?;
                origins.insert((), origin)?;
            }
            for row in change.open_table(CURSOR)?.iter()? {
                let (key, row) = row?;
                let (kind, packets, bytes, connections, first_seen, last_seen) = row.value();
                let counter = Counter { packets, bytes, connections, first_seen, last_seen };
                self.cursor.insert(bytemuck::pod_read_unaligned(key.value()), Written { kind, counter });
            }
            is_same
        };
        if is_known {
            change.abort()?;
        } else {
            change.commit()?;
        }
        Ok(())
    }

    /// For those who read.
    pub(super) fn database(&self) -> Arc<Database> {
        Arc::clone(&self.database)
    }

    /// A number for a kind that is not known yet, and so the next one above it.
    pub(super) fn next_kind(&self) -> u32 {
        self.next_kind
    }

    /// A kind that is written, as JSON.
    pub(super) fn kind(&self, number: u32) -> Result<Option<String>, HistoryError> {
        let view = self.database.begin_read()?;
        let kind = view.open_table(KINDS)?.get(number)?;
        Ok(kind.map(|kind| kind.value().1.to_owned()))
    }

    /// The key given last: all that is written so far is at or below it.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// Writes all of it, or nothing.
    pub(super) fn write(&mut self, batch: &Batch, now: Timestamp) -> Result<(), HistoryError> {
        let mut last = self.last.max(micros(now));
        let mut next = || {
            last += 1;
            last
        };
        let change = self.database.begin_write()?;
        {
            let mut denials = change.open_table(DENIALS)?;
            for denial in &batch.denials {
                denials.insert(next(), denial.as_str())?;
            }
            let mut flows = change.open_table(FLOWS)?;
            for flow in &batch.flows {
                flows.insert(next(), flow)?;
            }
            let mut kinds = change.open_table(KINDS)?;
            for (kind, calls, text) in &batch.kinds {
                kinds.insert(kind, (*calls, text.as_str()))?;
            }
            let mut cursor = change.open_table(CURSOR)?;
            for (key, Written { kind, counter }) in &batch.cursor {
                let Counter { packets, bytes, connections, first_seen, last_seen } = *counter;
                cursor
                    .insert(&key_bytes(key), (*kind, packets, bytes, connections, first_seen, last_seen))?;
            }
            for key in &batch.ended {
                cursor.remove(&key_bytes(key))?;
            }
            batch.hits.write(&change, self.limits, now)?;
        }
        change.commit()?;
        self.last = last;
        self.next_kind += u32::try_from(batch.kinds.len()).unwrap_or(u32::MAX);
        self.cursor.extend(batch.cursor.iter().copied());
        for key in &batch.ended {
            self.cursor.remove(key);
        }
        Ok(())
    }

    /// Takes out what is older than it may be, and of the rest as much as has to go for what is to be written: an eighth at a
    /// time. Tells how many records have gone for that.
    pub(super) fn make_room(&mut self, batch: &Batch, now: Timestamp) -> Result<u64, HistoryError> {
        let bytes = batch.bytes();
        let age = u64::try_from(self.limits.age.as_micros()).unwrap_or(u64::MAX);
        self.forget(|tables| tables.forget_before(micros(now).saturating_sub(age)))?;
        self.unlooked = self.unlooked.saturating_add(bytes);
        let is_small = fs::metadata(&self.path)?.len() + GROWS * bytes < self.limits.size / 2;
        if is_small || self.unlooked < self.limits.size / LOOK {
            return Ok(0);
        }
        self.unlooked = bytes;
        let mut gone = 0;
        loop {
            let change = self.database.begin_write()?;
            let stats = change.stats()?;
            // What the change before has freed is free from this one on.
            change.commit()?;
            let used = stats.allocated_pages() * stats.page_size() as u64 + GROWS * bytes;
            if used < self.limits.size / 100 * FILLED_PERCENT {
                return Ok(gone);
            }
            let for_this =
                self.forget(|tables| room::make(&mut tables.denials, &mut tables.flows, &tables.kinds))?;
            if for_this == 0 {
                return Ok(gone);
            }
            gone += for_this;
        }
    }

    /// Takes out some records; tells how many. Kinds that no record is of any more go with them.
    fn forget(
        &self,
        which: impl FnOnce(&mut Tables<'_>) -> Result<u64, HistoryError>,
    ) -> Result<u64, HistoryError> {
        let change = self.database.begin_write()?;
        let gone = {
            let mut tables = Tables {
                denials: change.open_table(DENIALS)?,
                flows: change.open_table(FLOWS)?,
                kinds: change.open_table(KINDS)?,
            };
            let flows = tables.flows.len()?;
            let gone = which(&mut tables)?;
            if tables.flows.len()? < flows {
                let mut used: BTreeSet<u32> = BTreeSet::new();
                for row in tables.flows.iter()? {
                    used.insert(row?.1.value().0);
                }
                for row in change.open_table(CURSOR)?.iter()? {
                    used.insert(row?.1.value().0);
                }
                tables.kinds.retain(|kind, _| used.contains(&kind))?;
            }
            gone
        };
        if gone > 0 {
            change.commit()?;
        } else {
            change.abort()?;
        }
        Ok(gone)
    }
}

/// What records are kept in.
struct Tables<'t> {
    denials: room::Denials<'t>,
    flows: room::Flows<'t>,
    kinds: Table<'t, u32, (bool, &'static str)>,
}

impl Tables<'_> {
    /// Takes out what was written before a moment; tells how many records that was.
    fn forget_before(&mut self, moment: u64) -> Result<u64, HistoryError> {
        let before = self.denials.len()? + self.flows.len()?;
        if key(self.denials.first()?).is_some_and(|first| first < moment) {
            self.denials.retain_in(..moment, |_, _| false)?;
        }
        if key(self.flows.first()?).is_some_and(|first| first < moment) {
            self.flows.retain_in(..moment, |_, _| false)?;
        }
        Ok(before - self.denials.len()? - self.flows.len()?)
    }
}

fn key<V: redb::Value + 'static>(
    row: Option<(redb::AccessGuard<'_, u64>, redb::AccessGuard<'_, V>)>,
) -> Option<u64> {
    row.map(|(key, _)| key.value())
}

/// Rows of a table whose keys lie between the bounds, at most `most`, from the first or from the last on.
pub(super) fn rows<V: redb::Value + 'static, T>(
    database: &Database,
    table: TableDefinition<'_, u64, V>,
    between: (Bound<u64>, Bound<u64>),
    backwards: bool,
    most: usize,
    mut row: impl FnMut(u64, V::SelfType<'_>) -> Result<T, HistoryError>,
) -> Result<Vec<T>, HistoryError> {
    let view = database.begin_read()?;
    let table = match view.open_table(table) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut range = table.range(between)?;
    let mut found = Vec::new();
    while found.len() < most {
        let Some(next) = (if backwards { range.next_back() } else { range.next() }) else { break };
        let (key, value) = next?;
        found.push(row(key.value(), value.value())?);
    }
    Ok(found)
}

pub(super) fn micros(time: Timestamp) -> u64 {
    u64::try_from(time.as_microsecond()).unwrap_or(0)
}

fn key_bytes(key: &CounterKey) -> [u8; 24] {
    let mut bytes = [0; 24];
    bytes.copy_from_slice(bytemuck::bytes_of(key));
    bytes
}

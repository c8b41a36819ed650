//! What was refused and what has passed, kept in a database: as much as the settings allow, the newest.
//!
//! Denials come through a bounded queue, flows are what the exact counters have grown by. How far each counter is written is
//! written with it, so that what one write could not take is in the next, and the next agent goes on where this one ended,
//! however it did.

mod flow;
mod hits;
mod read;
mod recorder;
mod room;
mod store;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use jiff::Timestamp;
use redb::Database;
use tokio::sync::oneshot;

pub(crate) use self::flow::verdict_name;
use self::recorder::{Message, Recorder};
pub use self::{
    flow::{Flow, FlowEnd, FlowKind, FlowPeer},
    hits::Hits,
    read::{Record, Wanted},
    recorder::{Count, Counted, Reached},
    store::{HistoryError, Limits},
};
use crate::{Denial, Feed, Policies};

/// So many denials wait for the thread that writes.
const WAITING: usize = 4096;

/// The history, for whoever adds to it and for whoever reads it. Clones are the same.
#[derive(Clone, Debug)]
pub struct History {
    queue: SyncSender<Message>,
    account: Arc<Account>,
}

#[derive(Debug, Default)]
struct Account {
    written: AtomicU64,
    lost: AtomicU64,
    evicted: AtomicU64,
    failing: Mutex<Option<String>>,
    /// None: nobody can read.
    database: Mutex<Option<Arc<Database>>>,
}

/// The thread that writes it.
#[derive(Debug)]
pub struct Writing {
    queue: SyncSender<Message>,
    thread: JoinHandle<()>,
}

impl History {
    /// Keeps a history in `folder`, as much as `limits` allow. A folder that cannot be used is tried again and again: that is
    /// no error. `flows` gets what is written of flows.
    pub fn start(
        folder: PathBuf,
        limits: Limits,
        policies: Policies,
        count: Count,
        flows: Feed<Flow>,
    ) -> io::Result<(Self, Writing)> {
        let (queue, messages) = sync_channel(WAITING);
        let history = Self { queue: queue.clone(), account: Arc::default() };
        let recorder = Recorder {
            messages,
            folder,
            limits,
            policies,
            count,
            history: history.clone(),
            flows,
            store: None,
            denials: Vec::new(),
            last: 0,
            last_flow: 0,
            ended: BTreeMap::new(),
            in_force: Weak::new(),
            since: Timestamp::now(),
        };
        let thread = thread::Builder::new().name("bulkhead-history".into()).spawn(move || recorder.run())?;
        Ok((history, Writing { queue, thread }))
    }

    /// Adds a denial, with its number in the feed. Never waits: if too many wait already, it is lost, and counted.
    pub fn add(&self, number: u64, denial: &Arc<Denial>) {
        if self.queue.try_send(Message::Denial(number, Arc::clone(denial))).is_err() {
            self.loses(denial.count);
        }
    }

    /// Has all written that there is, and tells how far the history goes then.
    pub async fn write(&self) -> Result<Reached, HistoryError> {
        const PAUSE: Duration = Duration::from_millis(10);
        let (reply, answer) = oneshot::channel();
        let mut message = Message::Write(reply);
        while let Err(error) = self.queue.try_send(message) {
            let TrySendError::Full(again) = error else { return Err(ended()) };
            message = again;
            tokio::time::sleep(PAUSE).await;
        }
        answer.await.unwrap_or_else(|_| Err(ended()))
    }

    /// Refusals whose report is in the history.
    pub fn written(&self) -> u64 {
        self.account.written.load(Ordering::Relaxed)
    }

    /// Refusals whose report is not, and will not be.
    pub fn lost(&self) -> u64 {
        self.account.lost.load(Ordering::Relaxed)
    }

    /// Records that have gone to make room for newer ones.
    pub fn evicted(&self) -> u64 {
        self.account.evicted.load(Ordering::Relaxed)
    }

    /// Why nothing is written now.
    pub fn failing(&self) -> Option<String> {
        self.account.failing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn database(&self) -> Result<Arc<Database>, HistoryError> {
        let database = self.account.database.lock().unwrap_or_else(PoisonError::into_inner).clone();
        database
            .ok_or_else(|| HistoryError::Away(self.failing().unwrap_or_else(|| "it is not open yet".into())))
    }

    fn reads_from(&self, database: Option<Arc<Database>>) {
        *self.account.database.lock().unwrap_or_else(PoisonError::into_inner) = database;
    }

    /// These are written.
    fn writes(&self, denials: &mut Vec<Arc<Denial>>) {
        let refusals = denials.drain(..).map(|denial| denial.count).sum();
        self.account.written.fetch_add(refusals, Ordering::Relaxed);
    }

    fn loses(&self, refusals: u64) {
        self.account.lost.fetch_add(refusals, Ordering::Relaxed);
    }

    fn evicts(&self, records: u64) {
        self.account.evicted.fetch_add(records, Ordering::Relaxed);
    }

    fn fails(&self, why: String) {
        let mut failing = self.account.failing.lock().unwrap_or_else(PoisonError::into_inner);
        if failing.is_none() {
            tracing::error!(why, "the history cannot be written");
        }
        *failing = Some(why);
    }

    fn recovers(&self) {
        if self.account.failing.lock().unwrap_or_else(PoisonError::into_inner).take().is_some() {
            tracing::info!(lost = self.lost(), "the history is written again");
        }
    }
}

impl Writing {
    /// Writes what there is and ends, but waits no longer than `patience` for the disk.
    pub fn finish(self, patience: Duration) {
        let end = std::time::Instant::now() + patience;
        let mut message = Message::End;
        while let Err(TrySendError::Full(again)) = self.queue.try_send(message) {
            message = again;
            if std::time::Instant::now() > end {
                break;
            }
            thread::sleep(Duration::from_millis(5));
        }
        while !self.thread.is_finished() {
            if std::time::Instant::now() > end {
                tracing::warn!("the last of the history is not written: the disk takes too long");
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

fn ended() -> HistoryError {
    HistoryError::Away("the thread that writes it has ended".into())
}

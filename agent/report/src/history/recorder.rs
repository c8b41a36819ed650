//! The thread that writes the history: whoever reports never waits for a disk.

use std::{
    collections::BTreeMap,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{
        Arc, Weak,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use bulkhead_common::{Counter, CounterKey};
use bulkhead_policy::Policy;
use jiff::Timestamp;
use tokio::sync::oneshot;

use super::{
    Flow, FlowKind, History, HistoryError, Limits,
    flow::{Grown, Times},
    read,
    store::{Batch, Store, Written, micros},
};
use crate::{Denial, Feed, Policies, clock};

/// What is new is written this often,
const PERIOD: Duration = Duration::from_secs(2);
/// and less often where it takes long to read the counters: at most one in so many parts of the time.
const SHARE: u32 = 100;
/// When so many denials wait they are written, whenever the rest is due.
const MANY: usize = 2048;
/// So many denials wait for a disk that takes none. More are lost, and counted.
const WAITING: usize = 4096;
/// So many kinds that are no longer counted wait with them; those beyond are told apart by subject only.
const ENDED: usize = 32_768;
/// Of very many kinds so many are written together: what is in memory meanwhile is of these only.
const AT_ONCE: usize = 2048;
/// A disk that takes nothing is tried this often.
const PAUSE: Duration = Duration::from_secs(1);

/// All that has been counted.
#[derive(Debug, Default)]
pub struct Counted {
    /// Names the counters: another name, and they have begun at zero.
    pub origin: String,
    /// What is counted now, by kind.
    pub counted: Vec<(CounterKey, Counter)>,
    /// What kinds that are no longer counted have come to, since the last call.
    pub ended: Vec<(CounterKey, Counter)>,
}

/// Reads the counters.
pub type Count = Box<dyn FnMut() -> Result<Counted, String> + Send>;

/// What the thread is told.
#[derive(Debug)]
pub(super) enum Message {
    /// A denial, and its number in the feed.
    Denial(u64, Arc<Denial>),
    /// Write all that there is, and say how far that goes.
    Write(oneshot::Sender<Result<Reached, HistoryError>>),
    /// There is nothing more to come: write what there is and end.
    End,
}

/// How far the history goes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reached {
    /// Number in the feed of the last denial that is in it, or is lost to it.
    pub denial: u64,
    /// Number in their feed of the last flow that is in it.
    pub flow: u64,
    /// Key of the last record.
    pub(super) key: u64,
}

pub(super) struct Recorder {
    pub(super) messages: Receiver<Message>,
    pub(super) folder: PathBuf,
    pub(super) limits: Limits,
    pub(super) policies: Policies,
    pub(super) count: Count,
    pub(super) history: History,
    pub(super) flows: Feed<Flow>,
    /// None: it could not be opened, or is to be opened anew.
    pub(super) store: Option<Store>,
    /// Denials that wait, and the last one's number.
    pub(super) denials: Vec<Arc<Denial>>,
    pub(super) last: u64,
    pub(super) last_flow: u64,
    pub(super) ended: BTreeMap<CounterKey, Counter>,
    /// The policy whose rules are known to be in force.
    pub(super) in_force: Weak<Policy>,
    /// When the last flows were written.
    pub(super) since: Timestamp,
}

impl Recorder {
    pub(super) fn run(mut self) {
        // Enforcement comes first.
        let mut due = Instant::now() + PERIOD;
        loop {
            // First of all: there may always be another denial.
            if Instant::now() >= due {
                due = self.write_and_plan().1;
            }
            match self.messages.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Ok(Message::Denial(number, denial)) => {
                    self.last = number;
                    if self.denials.len() < WAITING {
                        self.denials.push(denial);
                    } else {
                        self.history.loses(denial.count);
                    }
                    // Where that fails they wait until the next time that something is due.
                    if self.denials.len() == MANY && self.write_denials().is_err() {
                        due = due.min(Instant::now() + PAUSE);
                    }
                }
                Ok(Message::Write(reply)) => {
                    let written;
                    (written, due) = self.write_and_plan();
                    // Who asked may be gone.
                    let _ = reply.send(written);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Message::End) | Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        if self.write().is_err() {
            self.history.loses(self.denials.iter().map(|denial| denial.count).sum());
        }
    }

    /// Writes what is new; tells when to do so again.
    fn write_and_plan(&mut self) -> (Result<Reached, HistoryError>, Instant) {
        let began = Instant::now();
        let written = self.write();
        let next = if written.is_ok() {
            began + PERIOD.max(began.elapsed() * SHARE)
        } else {
            Instant::now() + PAUSE
        };
        (written, next)
    }

    /// Writes what is new; if that fails, it is new the next time as well.
    fn write(&mut self) -> Result<Reached, HistoryError> {
        self.attempt(Self::write_all)
    }

    /// Writes the denials that wait. To read the counters as well may take longer than others take to be refused as often
    /// again.
    fn write_denials(&mut self) -> Result<(), HistoryError> {
        self.attempt(|recorder| {
            let batch = Batch { denials: recorder.denials_as_json(), ..Batch::default() };
            // It is opened with the counters.
            let Some(store) = &mut recorder.store else { return recorder.write_all().map(drop) };
            recorder.history.evicts(store.make_room(&batch, Timestamp::now())?);
            store.write(&batch, Timestamp::now())?;
            recorder.history.writes(&mut recorder.denials);
            Ok(())
        })
    }

    fn denials_as_json(&self) -> Vec<String> {
        self.denials.iter().map(|denial| denial.to_json()).collect()
    }

    fn attempt<T>(
        &mut self,
        write: impl FnOnce(&mut Self) -> Result<T, HistoryError>,
    ) -> Result<T, HistoryError> {
        // A damaged file may fail an assertion.
        let written = catch_unwind(AssertUnwindSafe(|| write(self)));
        let written = written.unwrap_or_else(|_| Err(HistoryError::Damaged("writing to it fails".into())));
        match &written {
            Ok(_) => self.history.recovers(),
            Err(error) => {
                self.history.fails(error.to_string());
                // A write that failed has left it in no state to go on from.
                self.history.reads_from(None);
                let was_open = self.store.take().is_some();
                if let (HistoryError::Damaged(why), true) = (error, was_open) {
                    // If that fails, the next attempt to open it tries again.
                    let _ = Store::put_aside(&self.folder, why);
                }
            }
        }
        written
    }

    fn write_all(&mut self) -> Result<Reached, HistoryError> {
        let Counted { origin, counted, ended } = (self.count)().map_err(HistoryError::Counters)?;
        let denials = self.denials_as_json();
        for (key, counter) in ended {
            let key = if self.ended.len() < ENDED { key } else { key.of_subject() };
            self.ended.entry(key).or_default().add(&counter);
        }
        let store = match &mut self.store {
            Some(store) => store,
            none => {
                let store = Store::open(&self.folder, self.limits, &origin)?;
                self.history.reads_from(Some(store.database()));
                // Which it may not know yet.
                self.in_force = Weak::new();
                if !store.cursor.is_empty() {
                    // What the counters have grown by since an agent before this one has ended, too.
                    self.since = self.since.min(read::time(store.last()));
                }
                none.insert(store)
            }
        };
        let now = Timestamp::now();
        let in_force = self.policies.latest();
        let is_new = in_force.as_ref().filter(|policy| self.in_force.as_ptr() != Arc::as_ptr(policy));
        let mut batch = Batch { denials, ..Batch::default() };
        batch.hits.in_force = is_new.map(|policy| policy.rules.iter().map(|rule| rule.id.clone()).collect());
        let ended = self.ended.iter().map(|(key, counter)| (*key, *counter, true));
        // What has begun again since is another counter.
        let counted = counted.into_iter().filter(|(key, _)| !self.ended.contains_key(key));
        let kinds: Vec<_> = ended.chain(counted.map(|(key, counter)| (key, counter, false))).collect();
        let mut parts = kinds.chunks(AT_ONCE);
        loop {
            let part = parts.next().unwrap_or_default();
            let mut changes = Changes {
                policies: &self.policies,
                store,
                since: self.since,
                now,
                batch: mem::take(&mut batch),
                flows: Vec::new(),
            };
            for (key, counter, has_ended) in part {
                changes.grown(key, counter, *has_ended);
            }
            let Changes { batch, flows, .. } = changes;
            if !batch.is_empty() {
                self.history.evicts(store.make_room(&batch, now)?);
                store.write(&batch, now)?;
            }
            for flow in flows {
                self.last_flow = self.flows.publish(&Arc::new(flow));
            }
            for (key, ..) in part.iter().filter(|(.., has_ended)| *has_ended) {
                self.ended.remove(key);
            }
            self.history.writes(&mut self.denials);
            if parts.len() == 0 {
                break;
            }
        }
        self.in_force = in_force.as_ref().map(Arc::downgrade).unwrap_or_default();
        self.since = now;
        Ok(Reached { denial: self.last, flow: self.last_flow, key: store.last() })
    }
}

/// What has changed since the last time.
struct Changes<'r> {
    policies: &'r Policies,
    store: &'r Store,
    since: Timestamp,
    now: Timestamp,
    batch: Batch,
    flows: Vec<Flow>,
}

impl Changes<'_> {
    fn grown(&mut self, key: &CounterKey, now: &Counter, has_ended: bool) {
        let before = self.store.cursor.get(key).copied();
        if has_ended && before.is_some() {
            self.batch.ended.push(*key);
        }
        let written = before.unwrap_or_default();
        let grown = Grown::between(&written.counter, now);
        if grown == Grown::default() {
            return;
        }
        let Some(kind) = self.kind(key, before) else { return };
        let number = if let Some(before) = before {
            before.kind
        } else {
            let number = self.store.next_kind() + u32::try_from(self.batch.kinds.len()).unwrap_or(u32::MAX);
            self.batch.kinds.push((number, key.packets == 0, crate::json(&kind)));
            number
        };
        let times = Times {
            since: if before.is_some() {
                self.since
            } else {
                clock::time_of_day(now.first_seen).min(self.now)
            },
            time: self.now,
            first_seen: clock::time_of_day(now.first_seen),
            last_seen: clock::time_of_day(now.last_seen),
        };
        let Grown { packets, bytes, connections } = grown;
        let [since, first, last] = [times.since, times.first_seen, times.last_seen].map(micros);
        self.batch.flows.push((number, since, packets, bytes, connections, first, last));
        if !has_ended {
            self.batch.cursor.push((*key, Written { kind: number, counter: *now }));
        }
        if let (Some(rule), "allowed") = (&kind.rule, kind.verdict) {
            self.batch.hits.add(&rule.id, grown, times.since, times.last_seen);
        }
        self.flows.push(grown.record(kind, key.packets == 0, times));
    }

    /// What is counted there. Of a generation that an agent before this one has put in force, it is as that one wrote it.
    fn kind(&self, key: &CounterKey, written: Option<Written>) -> Option<FlowKind> {
        let of_before = || {
            let text = self.store.kind(written?.kind).ok()??;
            serde_json::from_str(&text).ok()
        };
        let is_known = self.policies.of(key.generation).is_some();
        let before = if is_known { None } else { of_before() };
        before.or_else(|| FlowKind::of(key, self.policies))
    }
}

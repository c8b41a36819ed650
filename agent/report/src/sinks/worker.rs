//! The thread of one sink, and the queue before it.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread::{self, Thread},
    time::{Duration, Instant},
};

use crate::Denial;

/// How many denials may wait. More are lost, and counted.
pub(super) const WAITING: usize = 4096;
/// How many are delivered together.
pub(super) const BATCH: usize = 256;
/// What is not taken is offered again after this long, and then after twice as long each time,
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What takes denials to where they belong. It may take its time: it has a thread of its own.
pub(super) trait Deliver: Send + 'static {
    /// Delivers these, in their order.
    fn deliver(&mut self, batch: &[Arc<Denial>]) -> Result<(), Undelivered>;

    /// How long a denial waits for others to go with.
    fn linger(&self) -> Duration {
        Duration::ZERO
    }
}

/// Why a batch, or the rest of it, was not delivered.
#[derive(Debug)]
pub(super) struct Undelivered {
    /// So many of the first were.
    pub(super) delivered: usize,
    /// So many of those that come next never will be: there is no sense in trying them again.
    pub(super) refused: usize,
    pub(super) why: String,
}

impl Undelivered {
    /// What could be better later.
    pub(super) fn for_now(delivered: usize, why: impl Into<String>) -> Self {
        Self { delivered, refused: 0, why: why.into() }
    }
}

/// What has become of the refusals that one sink was to tell of.
#[derive(Debug)]
pub struct Account {
    name: String,
    kind: &'static str,
    delivered: AtomicU64,
    lost: AtomicU64,
    failing: Mutex<Option<String>>,
}

impl Account {
    pub(super) fn of(name: String, kind: &'static str) -> Self {
        let (delivered, lost) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { name, kind, delivered, lost, failing: Mutex::new(None) }
    }

    /// The sink's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is: `file`, `syslog`, …
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// Refusals whose report was delivered, as far as the sink can tell.
    pub fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    /// Refusals whose report was not, and will not be.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Why it does not deliver now.
    pub fn failing(&self) -> Option<String> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn delivers(&self, denials: &[Arc<Denial>]) {
        self.delivered.fetch_add(stood_for(denials), Ordering::Relaxed);
    }

    fn loses(&self, denials: &[Arc<Denial>]) {
        self.lost.fetch_add(stood_for(denials), Ordering::Relaxed);
    }

    fn fails(&self, why: String) {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        if failing.is_none() {
            tracing::error!(sink = self.name, why, "denials cannot be delivered");
        }
        *failing = Some(why);
    }

    fn recovers(&self) {
        if self.failing.lock().unwrap_or_else(PoisonError::into_inner).take().is_some() {
            tracing::info!(sink = self.name, lost = self.lost(), "denials are delivered again");
        }
    }
}

fn stood_for(denials: &[Arc<Denial>]) -> u64 {
    denials.iter().map(|denial| denial.count).sum()
}

/// One sink at work, as who reports sees it.
#[derive(Debug)]
pub(super) struct Worker {
    sender: SyncSender<Arc<Denial>>,
    account: Arc<Account>,
    closing: Closing,
}

/// A sink that gets no more.
#[derive(Debug)]
pub(super) struct Closing {
    name: String,
    told: Arc<AtomicBool>,
    thread: Thread,
    finished: Receiver<()>,
}

impl Worker {
    pub(super) fn start(account: Account, sink: impl Deliver) -> io::Result<Self> {
        let (sender, receiver) = sync_channel(WAITING);
        let (finish, finished) = sync_channel(1);
        let told = Arc::new(AtomicBool::new(false));
        let (name, account) = (account.name.clone(), Arc::new(account));
        let post = Post { receiver, sink, account: Arc::clone(&account), closing: Arc::clone(&told) };
        let thread = thread::Builder::new().name("bulkhead-sink".into()).spawn(move || {
            let _whatever_happens = Ended(Arc::clone(&post.account));
            post.run();
            // Nobody may be waiting for it.
            let _ = finish.send(());
        })?;
        let thread = thread.thread().clone();
        Ok(Self { sender, account, closing: Closing { name, told, thread, finished } })
    }

    /// Puts a denial into the queue, or counts it as lost if too many wait already.
    pub(super) fn report(&self, denial: &Arc<Denial>) {
        if self.sender.try_send(Arc::clone(denial)).is_err() {
            self.account.loses(std::slice::from_ref(denial));
        }
    }

    pub(super) fn account(&self) -> Arc<Account> {
        Arc::clone(&self.account)
    }

    /// Nothing more comes: what waits is offered once more.
    pub(super) fn close(self) -> Closing {
        self.closing.told.store(true, Ordering::Release);
        self.closing.thread.unpark();
        self.closing
    }
}

impl Closing {
    /// Waits until everything is delivered or given up, but no longer than until `end`.
    pub(super) fn wait(self, end: Instant) {
        let patience = end.saturating_duration_since(Instant::now());
        if self.finished.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!(sink = self.name, "nobody takes the last denials");
        }
    }
}

/// Says so where the thread of a sink ends without having been told to: what is reported from then on is lost.
struct Ended(Arc<Account>);

impl Drop for Ended {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.fails("its thread has panicked: this is a bug".into());
        }
    }
}

/// One sink at work, as its own thread sees it.
struct Post<S> {
    receiver: Receiver<Arc<Denial>>,
    sink: S,
    account: Arc<Account>,
    closing: Arc<AtomicBool>,
}

impl<S: Deliver> Post<S> {
    fn run(mut self) {
        while let Some(batch) = self.gather() {
            if !self.deliver(&batch) {
                // It is time to end, and this was the last attempt.
                self.account.loses(&self.receiver.iter().collect::<Vec<_>>());
            }
        }
    }

    /// Waits for denials; none: no more come.
    fn gather(&self) -> Option<Vec<Arc<Denial>>> {
        let mut batch = vec![self.receiver.recv().ok()?];
        let end = Instant::now() + self.sink.linger();
        while batch.len() < BATCH {
            let left = end.saturating_duration_since(Instant::now());
            let Ok(next) = self.receiver.recv_timeout(left) else { break };
            batch.push(next);
        }
        Some(batch)
    }

    /// Offers them until they are taken; false: they were not, and it is time to end.
    fn deliver(&mut self, batch: &[Arc<Denial>]) -> bool {
        let mut rest = batch;
        let mut pause = FIRST_PAUSE;
        while !rest.is_empty() {
            let Err(Undelivered { delivered, refused, why }) = self.sink.deliver(rest) else {
                self.account.delivers(rest);
                self.account.recovers();
                return true;
            };
            let (done, left) = rest.split_at(delivered.min(rest.len()));
            let (never, left) = left.split_at(refused.min(left.len()));
            self.account.delivers(done);
            self.account.loses(never);
            self.account.fails(why);
            rest = left;
            if delivered > 0 {
                pause = FIRST_PAUSE;
            }
            if refused == 0 {
                if !self.pause(pause) {
                    self.account.loses(rest);
                    return false;
                }
                pause = LONGEST_PAUSE.min(pause * 2);
            }
        }
        true
    }

    /// Waits; false: it is time to end.
    fn pause(&self, pause: Duration) -> bool {
        let end = Instant::now() + pause;
        loop {
            if self.closing.load(Ordering::Acquire) {
                return false;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            thread::park_timeout(left);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;
    use crate::sinks::testing::denial;

    /// A sink that does with each batch what it is told, and hands on what it has delivered.
    struct Told<F> {
        answer: F,
        delivered: Sender<usize>,
    }

    impl<F: FnMut(&[Arc<Denial>]) -> Result<(), Undelivered> + Send + 'static> Deliver for Told<F> {
        fn deliver(&mut self, batch: &[Arc<Denial>]) -> Result<(), Undelivered> {
            let answer = (self.answer)(batch);
            let delivered =
                answer.as_ref().map_or_else(|undelivered| undelivered.delivered, |()| batch.len());
            let _ = self.delivered.send(delivered);
            answer
        }
    }

    const MANY: usize = 3 * WAITING;

    fn report(worker: &Worker, times: usize) {
        let denial = Arc::new(denial());
        for _ in 0..times {
            worker.report(&denial);
        }
    }

    fn end_of(worker: Worker, patience: Duration) -> Arc<Account> {
        let account = worker.account();
        worker.close().wait(Instant::now() + patience);
        account
    }

    #[test]
    fn a_reader_that_never_reads_holds_nobody_up_and_losses_are_counted() {
        let (delivered, _) = channel();
        let (reads, never) = channel::<()>();
        let answer = move |_: &[Arc<Denial>]| Err(Undelivered::for_now(0, never.recv().is_err().to_string()));
        let worker = Worker::start(Account::of("stuck".into(), "test"), Told { answer, delivered }).unwrap();
        let before = Instant::now();
        report(&worker, MANY);
        assert!(before.elapsed() < Duration::from_secs(1), "{:?} to report {MANY}", before.elapsed());
        let account = worker.account();
        let lost = account.lost();
        let most = (WAITING + BATCH) as u64;
        assert!(lost >= MANY as u64 * denial().count - most * denial().count, "only {lost} lost");
        let before = Instant::now();
        worker.close().wait(Instant::now() + Duration::from_millis(50));
        assert!(
            before.elapsed() < Duration::from_secs(1),
            "its end was waited for for {:?}",
            before.elapsed()
        );
        drop(reads);
    }

    #[test]
    fn what_was_not_taken_is_offered_again_and_told_of_once_each() {
        let (delivered, all) = channel();
        let mut attempts = 0;
        let answer = move |batch: &[Arc<Denial>]| {
            attempts += 1;
            match attempts {
                1 => Err(Undelivered::for_now(0, "away")),
                2 => Err(Undelivered::for_now(batch.len().min(1), "away again")),
                _ => Ok(()),
            }
        };
        let worker = Worker::start(Account::of("shaky".into(), "test"), Told { answer, delivered }).unwrap();
        report(&worker, 20);
        let account = worker.account();
        let mut sum = 0;
        while sum < 20 {
            sum += all.recv_timeout(Duration::from_secs(10)).unwrap();
        }
        let account_at_the_end = end_of(worker, Duration::from_secs(10));
        assert_eq!((account.delivered(), account.lost()), (20 * denial().count, 0));
        assert_eq!(account_at_the_end.failing(), None);
    }

    #[test]
    fn what_will_never_be_taken_is_lost_and_stops_nothing() {
        let (delivered, _all) = channel();
        let mut first = true;
        let answer = move |_: &[Arc<Denial>]| {
            if std::mem::take(&mut first) {
                return Err(Undelivered { delivered: 0, refused: 1, why: "too large".into() });
            }
            Ok(())
        };
        let worker = Worker::start(Account::of("picky".into(), "test"), Told { answer, delivered }).unwrap();
        report(&worker, 20);
        let account = end_of(worker, Duration::from_secs(10));
        assert_eq!((account.delivered(), account.lost()), (19 * denial().count, denial().count));
    }

    #[test]
    fn a_sink_that_is_away_when_the_agent_ends_is_not_waited_for() {
        let (delivered, all) = channel();
        let answer = |_: &[Arc<Denial>]| Err(Undelivered::for_now(0, "away"));
        let worker = Worker::start(Account::of("away".into(), "test"), Told { answer, delivered }).unwrap();
        report(&worker, 1000);
        all.recv_timeout(Duration::from_secs(10)).unwrap();
        let before = Instant::now();
        let account = end_of(worker, Duration::from_secs(10));
        assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
        assert_eq!((account.delivered(), account.lost()), (0, 1000 * denial().count));
        assert_eq!(account.failing().as_deref(), Some("away"));
    }
}

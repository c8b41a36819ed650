//! Drains the kernel's records on a thread of its own: a process that was refused is gone in a moment, and what is
//! known of it with it.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use bulkhead_common::{Refusal, RefusalKey, Share, SubjectId};
use bulkhead_datapath::{DatapathError, Events};
use bulkhead_report::{Account, Coalescer, Denial, Departed, Enricher, History, Kind, Told};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use tokio::sync::oneshot;

use super::{
    outlets::Outlets,
    priority::{self, Pacer},
};
use crate::control;

/// Held back repeats are looked after this often.
const TICK: Duration = Duration::from_millis(100);

/// So many records are taken before held back repeats are looked after.
const BATCH: usize = 256;

/// Once it is time to stop, what is left is looked up for so long at most. Of a flood there may be more.
const LAST: Duration = Duration::from_secs(2);

/// More records than the kernel holds.
const ALL: usize = 1 << 20;

/// The thread that drains and reports.
#[derive(Debug)]
pub(super) struct Refusals {
    stop: Arc<OwnedFd>,
    thread: JoinHandle<Outlets>,
    ended: oneshot::Receiver<()>,
    counters: Arc<Counters>,
    sinks: Vec<Arc<Account>>,
    history: Option<History>,
}

#[derive(Debug, Default)]
struct Counters {
    refusals: AtomicU64,
    dropped: AtomicU64,
    /// Records that were due and could not be made.
    late: AtomicU64,
    /// How many, and the last.
    departures: Mutex<(u64, Option<Departed>)>,
}

impl Refusals {
    /// Begins to drain.
    pub(super) fn start(events: Events, enricher: Enricher, outlets: Outlets) -> io::Result<Self> {
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let counters = Arc::new(Counters::default());
        let (alive, ended) = oneshot::channel();
        let accounts = outlets.accounts();
        let history = outlets.history.as_ref().map(|(history, _)| history.clone());
        let drain = Drain {
            events,
            enricher,
            outlets,
            coalescer: Coalescer::default(),
            counters: Arc::clone(&counters),
            looked: Instant::now(),
            late: 0,
            lost: Lost::default(),
            pacer: Pacer::new(),
        };
        let told = Arc::clone(&stop);
        let thread = thread::Builder::new().name("bulkhead-drain".into()).spawn(move || {
            // Dropped as the thread ends, however it ends.
            let _alive: oneshot::Sender<()> = alive;
            drain.run(&told)
        })?;
        Ok(Self { stop, thread, ended, counters, sinks: accounts, history })
    }

    /// Waits until the thread has ended, which it should not.
    pub(super) async fn ended(&mut self) {
        // An error says that the sender is gone, and with it the thread.
        let _ = (&mut self.ended).await;
    }

    /// What has been refused so far.
    pub(super) fn counts(&self) -> control::Events {
        let (departures, last_departure) =
            self.counters.departures.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let sinks: Vec<_> = self.sinks.iter().map(|account| control::Sink::of(account)).collect();
        let printed = sinks.iter().filter(|sink| sink.r#type == Kind::STDOUT);
        control::Events {
            refusals: self.counters.refusals.load(Ordering::Relaxed),
            dropped: self.counters.dropped.load(Ordering::Relaxed),
            unprinted: printed.map(|sink| sink.lost).sum(),
            sinks,
            history: self.history.as_ref().map(|history| control::History {
                written: history.written(),
                lost: history.lost(),
                evicted: history.evicted(),
                failing: history.failing(),
            }),
            departures,
            last_departure,
        }
    }

    /// Records that were due and found no room; what they were to tell is told later.
    pub(super) fn late(&self) -> u64 {
        self.counters.late.load(Ordering::Relaxed)
    }

    /// Reports what is left, waiting for its reader no longer than `patience`.
    pub(super) fn finish(self, patience: Duration) {
        if let Err(error) = rustix::io::write(&self.stop, &1_u64.to_ne_bytes()) {
            tracing::error!(%error, "the thread that reports refusals cannot be stopped");
            return;
        }
        if let Ok(outlets) = self.thread.join() {
            outlets.finish(patience);
        } else {
            tracing::error!("the thread that reports refusals has panicked: this is a bug");
        }
    }
}

struct Drain {
    events: Events,
    enricher: Enricher,
    outlets: Outlets,
    /// Its table has room for more kinds than there mostly are.
    coalescer: Coalescer<Option<Box<Denial>>>,
    counters: Arc<Counters>,
    looked: Instant,
    /// Records that were due and could not be made, as of the last look.
    late: u64,
    lost: Lost,
    pacer: Pacer,
}

/// Refusals that nothing tells of.
#[derive(Debug, Default)]
struct Lost {
    all: u64,
    /// So many have been warned of, the last time then.
    warned: u64,
    at: Option<Instant>,
    /// So many there were as room was last made, and when that was.
    room: Option<(u64, Instant)>,
}

impl Drain {
    fn run(mut self, stop: &OwnedFd) -> Outlets {
        self.enricher.warm_up();
        priority::first();
        let mut end = None;
        loop {
            if end.is_none() && self.wait(stop) {
                end = Some(Instant::now() + LAST);
                self.pacer.hurry();
            }
            let drained = self.drain();
            match end {
                Some(_) if drained < BATCH => break,
                Some(end) if Instant::now() > end => {
                    self.leave_the_rest();
                    break;
                }
                _ => {}
            }
        }
        let Self { events, mut coalescer, outlets, .. } = self;
        coalescer
            .finish(|kind| counted(&events, kind), |denial, told| hand_on(&outlets, denial.as_deref(), told));
        outlets
    }

    /// There is no time to tell of what is left: it is only said how much that is.
    fn leave_the_rest(&mut self) {
        let mut kinds = 0_u64;
        self.events.drain(ALL, |_| kinds += 1);
        tracing::warn!(kinds, "stopped before the last kinds of refusals were reported; they are counted");
    }

    /// Waits for records, or until repeats are due; true if it is time to stop.
    fn wait(&self, stop: &OwnedFd) -> bool {
        let mut ready = [
            PollFd::new(stop, PollFlags::IN),
            PollFd::new(&self.events, PollFlags::IN),
            PollFd::from_borrowed_fd(self.events.started(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.events.departures(), PollFlags::IN),
        ];
        let tick = Timespec { tv_sec: 0, tv_nsec: TICK.subsec_nanos().into() };
        let patience = self.coalescer.is_pending().then_some(&tick);
        match poll(&mut ready, patience) {
            Ok(_) | Err(rustix::io::Errno::INTR) => !ready[0].revents().is_empty(),
            Err(error) => {
                tracing::error!(%error, "cannot wait for refusals");
                true
            }
        }
    }

    /// Takes records; tells how many.
    fn drain(&mut self) -> usize {
        let mut drained = 0;
        let Self { events, enricher, outlets, coalescer, counters, looked, pacer, .. } = self;
        let now = Instant::now();
        pacer.begin();
        events.drain_started(|started| {
            enricher.note(&started);
            pacer.pace();
        });
        events.drain_departures(|departure| {
            let departed = enricher.departure(&departure);
            tracing::warn!(
                pid = departed.pid,
                comm = departed.comm,
                from = departed.from,
                from_cgroup = departed.from_cgroup,
                to = departed.to,
                to_cgroup = departed.to_cgroup,
                by_pid = departed.by_pid,
                by_comm = departed.by_comm,
                "a process was moved out of its workload"
            );
            let mut all = counters.departures.lock().unwrap_or_else(PoisonError::into_inner);
            *all = (all.0 + 1, Some(departed));
        });
        events.drain(BATCH, |event| {
            drained += 1;
            if event.subject == SubjectId::CANARY.0 {
                return;
            }
            coalescer.take(
                &event,
                Instant::now(),
                || enricher.look_up(&event).map(Box::new),
                |denial, told| hand_on(outlets, denial.as_deref(), told),
            );
            pacer.pace();
        });
        if drained < BATCH {
            coalescer.caught_up();
        }
        counters
            .refusals
            .store(coalescer.taken() + counters.dropped.load(Ordering::Relaxed), Ordering::Relaxed);
        if now.duration_since(*looked) >= TICK {
            *looked = now;
            if let Err(error) = self.look(now) {
                tracing::warn!(%error, "not all refusals can be reported");
            }
        }
        drained
    }

    /// Looks at what the kernel counts and makes no record of.
    fn look(&mut self, now: Instant) -> Result<(), DatapathError> {
        let Self { events, outlets, coalescer, counters, .. } = self;
        let late = events.late()?;
        if late != self.late {
            self.late = late;
            counters.late.store(late, Ordering::Relaxed);
            coalescer.look_at_all(now);
        }
        coalescer.due(
            now,
            |kind| counted(events, kind),
            |denial, told| hand_on(outlets, denial.as_deref(), told),
        );
        self.lost.all = events.lost()?;
        if coalescer.may_begin_anew() && (coalescer.is_crowded() || self.lost.calls_for_room(now)) {
            coalescer.begin_anew(events.count_anew()?, now);
        }
        counters.dropped.store(self.lost.all, Ordering::Relaxed);
        counters.refusals.store(coalescer.taken() + self.lost.all, Ordering::Relaxed);
        self.lost.warn(now);
        Ok(())
    }
}

impl Lost {
    /// Are there more kinds than may be told apart? Then others get their turn now and then.
    fn calls_for_room(&mut self, now: Instant) -> bool {
        let (before, since) = *self.room.get_or_insert((0, now));
        let calls = self.all > before && now.duration_since(since) >= Duration::from_nanos(Share::STRETCH_NS);
        if calls {
            self.room = Some((self.all, now));
        }
        calls
    }

    /// At most once a second, as repeats are reported.
    fn warn(&mut self, now: Instant) {
        let often = self.at.is_some_and(|at| now.duration_since(at) < Duration::from_secs(1));
        if self.all > self.warned && !often {
            tracing::warn!(
                dropped = self.all - self.warned,
                "more kinds of refusals than are reported; they are counted"
            );
            (self.warned, self.at) = (self.all, Some(now));
        }
    }
}

fn counted(events: &Events, kind: &RefusalKey) -> Option<Refusal> {
    match events.counted(kind) {
        Ok(refusal) => refusal,
        Err(error) => {
            tracing::warn!(%error, "a report may stand for more refusals than it says");
            None
        }
    }
}

fn hand_on(outlets: &Outlets, denial: Option<&Denial>, told: Told) {
    if let Some(denial) = denial {
        outlets.report(denial.standing_for(told));
    } else {
        tracing::warn!(count = told.count, "a record of refusals that makes no sense");
    }
}

//! The first refusal of a kind is reported at once, repeats at most once a second, and every one is counted.
//!
//! The kernel already makes at most one record a second of a kind, with the total so far; it never tells of the repeats
//! after the last record. So a second after each record the kernel's entry is looked at once: whatever is refused later
//! makes a record of its own (see [`Refusal::INTERVAL_NS`]). Here is only remembered how much of each total has been told.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use bulkhead_common::{Event, Refusal, RefusalKey};

/// How often one kind is reported, and how long after a record its entry tells all.
const INTERVAL: Duration = Duration::from_nanos(Refusal::INTERVAL_NS);
/// When so many kinds have entries, the kernel's table is to be replaced: half of what it holds.
const CROWD: usize = 8_192;

/// What one report stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// How many refusals.
    pub count: u64,
    /// When the last of them was, in nanoseconds of `CLOCK_BOOTTIME`.
    pub last: u64,
}

/// What is known of one kind. `R` is what is known of one of its refusals.
#[derive(Debug)]
struct Known<R> {
    refusal: R,
    /// Of the kernel's entry: which one it is, and how many of its refusals have been taken in.
    born: u64,
    taken: u64,
    /// Taken in and not reported.
    pending: Told,
    /// The last report; none: there has been none.
    shown: Option<Instant>,
    /// From when on the entry holds everything that made no record.
    settled: Instant,
    /// Is the entry going to be looked at?
    queued: bool,
}

/// An entry of a table that has been replaced, as it was in the end.
#[derive(Clone, Copy, Debug)]
struct OutOfUse {
    born: u64,
    total: u64,
    /// How many of its refusals have been taken in.
    taken: u64,
}

/// Holds back repeats. `R` is what is known of a refusal once it has been looked up: that is done for those to be
/// reported only, and at once.
#[derive(Debug)]
pub struct Coalescer<R> {
    kinds: HashMap<RefusalKey, Known<R>>,
    /// When which entry is looked at; the numbers tell those of one moment apart.
    queue: BTreeMap<(Instant, u64), RefusalKey>,
    queued: u64,
    /// Entries that were taken out of use, for as long as records of them may be on their way.
    out_of_use: HashMap<RefusalKey, OutOfUse>,
    /// Entries that the kernel's table has.
    entries: usize,
    taken: u64,
}

impl<R> Default for Coalescer<R> {
    fn default() -> Self {
        Self {
            kinds: HashMap::new(),
            queue: BTreeMap::new(),
            queued: 0,
            out_of_use: HashMap::new(),
            entries: 0,
            taken: 0,
        }
    }
}

impl<R> Coalescer<R> {
    /// Takes a record. `look_up` is called if it is to be reported now, or is the first to be held back; `report` with
    /// what it gave.
    pub fn take(
        &mut self,
        event: &Event,
        now: Instant,
        look_up: impl FnOnce() -> R,
        report: impl FnMut(&R, Told),
    ) {
        let kind = RefusalKey::from(event);
        let left = self.out_of_use.get_mut(&kind).filter(|old| old.born == event.born).map(OutOfUse::take_in);
        if left == Some(0) {
            return;
        }
        let known = if let Some(known) = self.kinds.get_mut(&kind) {
            let repeats = known.pending.count > 0;
            self.taken += if let Some(left) = left {
                known.add(left, event.time)
            } else {
                self.entries += usize::from(known.born < event.born);
                known.take_in(event.born, event.total, event.time)
            };
            if !repeats && known.pending.count > 0 {
                known.refusal = look_up();
            }
            known
        } else {
            // Of an entry that is out of use nothing more comes: the next one counts from its beginning.
            let (born, count) = left.map_or((event.born, event.total), |left| (0, left));
            self.entries += usize::from(born != 0);
            self.taken += count;
            let pending = Told { count, last: event.time };
            self.kinds.entry(kind).or_insert(Known::new(look_up(), born, pending, now))
        };
        known.show(now, report);
        known.settled = now + INTERVAL;
        if !known.queued {
            known.queued = true;
            self.queue.insert((known.next_look(now).unwrap_or(now), self.queued), kind);
            self.queued += 1;
        }
    }

    /// Reports what is due. `counted` tells what the kernel has counted of a kind.
    pub fn due(
        &mut self,
        now: Instant,
        mut counted: impl FnMut(&RefusalKey) -> Option<Refusal>,
        mut report: impl FnMut(&R, Told),
    ) {
        while let Some(first) = self.queue.first_entry().filter(|first| first.key().0 <= now) {
            let ((_, number), kind) = first.remove_entry();
            let Some(known) = self.kinds.get_mut(&kind) else { continue };
            self.taken += known.look(counted(&kind));
            known.show(now, &mut report);
            if let Some(at) = known.next_look(now) {
                self.queue.insert((at, number), kind);
            } else {
                known.queued = false;
            }
        }
    }

    /// A record was due and could not be made: every entry may hold more than is known, and is looked at.
    pub fn look_at_all(&mut self, now: Instant) {
        for (kind, known) in &mut self.kinds {
            if !known.queued {
                known.queued = true;
                self.queue.insert((now, self.queued), *kind);
                self.queued += 1;
            }
        }
    }

    /// Is the kernel's table to be replaced?
    pub fn is_crowded(&self) -> bool {
        self.entries >= CROWD
    }

    /// There was no record left to be taken in.
    pub fn caught_up(&mut self) {
        self.out_of_use = HashMap::new();
    }

    /// May the kernel's table be replaced? Not before all records are taken in that may be of the one before it.
    pub fn may_begin_anew(&self) -> bool {
        self.out_of_use.is_empty()
    }

    /// The kernel's table has been replaced by an empty one. `last` is what was in the old one; what is not going to be
    /// reported is forgotten.
    pub fn begin_anew(&mut self, last: impl Iterator<Item = (RefusalKey, Refusal)>, now: Instant) {
        self.entries = 0;
        for (kind, entry) in last {
            let known = self.kinds.get_mut(&kind).filter(|known| known.born == entry.born);
            let taken = known.map_or(0, |known| {
                self.taken += known.look(Some(entry));
                entry.total
            });
            let Refusal { born, total, .. } = entry;
            self.out_of_use.insert(kind, OutOfUse { born, total, taken });
        }
        self.look_at_all(now);
        let Self { kinds, queue, .. } = self;
        queue.retain(|_, kind| {
            let keep = kinds.get(kind).is_some_and(|known| known.next_look(now).is_some());
            if !keep {
                kinds.remove(kind);
            }
            keep
        });
    }

    /// Reports everything that is held back.
    pub fn finish(
        &mut self,
        mut counted: impl FnMut(&RefusalKey) -> Option<Refusal>,
        mut report: impl FnMut(&R, Told),
    ) {
        for (kind, mut known) in self.kinds.drain() {
            self.taken += known.look(counted(&kind));
            if known.pending.count > 0 {
                report(&known.refusal, known.pending);
            }
        }
    }

    /// Is there an entry to be looked at?
    pub fn is_pending(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Refusals that have been taken in, reported or not.
    pub fn taken(&self) -> u64 {
        self.taken
    }
}

impl<R> Known<R> {
    fn new(refusal: R, born: u64, pending: Told, now: Instant) -> Self {
        Self { refusal, born, taken: pending.count, pending, shown: None, settled: now, queued: false }
    }

    /// Takes in what an entry says: how many refusals are new.
    fn take_in(&mut self, born: u64, total: u64, last: u64) -> u64 {
        let new = if born == 0 {
            // It has no entry and stands for itself.
            total
        } else if born < self.born {
            // Of an entry that is out of use: its last total has been taken in.
            0
        } else {
            if born > self.born {
                (self.born, self.taken) = (born, 0);
            }
            let new = total.saturating_sub(self.taken);
            self.taken += new;
            new
        };
        self.add(new, last)
    }

    /// Takes in so many more.
    fn add(&mut self, new: u64, last: u64) -> u64 {
        if new > 0 {
            self.pending.count += new;
            self.pending.last = self.pending.last.max(last);
        }
        new
    }

    /// Takes in what the kernel's entry holds, if it is still there.
    fn look(&mut self, entry: Option<Refusal>) -> u64 {
        match entry {
            Some(entry) if entry.born == self.born => self.take_in(entry.born, entry.total, entry.last),
            _ => 0,
        }
    }

    /// When the entry must be looked at again; none: not before the next record.
    fn next_look(&self, now: Instant) -> Option<Instant> {
        if self.pending.count > 0 {
            return Some(self.shown.map_or(now, |shown| shown + INTERVAL));
        }
        (self.settled > now).then_some(self.settled)
    }

    /// Reports what is pending, unless the last report is too young.
    fn show(&mut self, now: Instant, mut report: impl FnMut(&R, Told)) {
        if self.pending.count > 0 && self.shown.is_none_or(|shown| now >= shown + INTERVAL) {
            report(&self.refusal, self.pending);
            self.pending.count = 0;
            self.shown = Some(now);
        }
    }
}

impl OutOfUse {
    /// Takes in what is left: how many refusals that are.
    const fn take_in(&mut self) -> u64 {
        let left = self.total - self.taken;
        self.taken = self.total;
        left
    }
}

#[cfg(test)]
mod tests;

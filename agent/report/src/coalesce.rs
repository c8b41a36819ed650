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

/// Holds back repeats. `R` is what is known of a refusal once it has been looked up: that is done for those to be
/// reported only, and at once.
#[derive(Debug)]
pub struct Coalescer<R> {
    kinds: HashMap<RefusalKey, Known<R>>,
    /// When which entry is looked at; the numbers tell those of one moment apart.
    queue: BTreeMap<(Instant, u64), RefusalKey>,
    queued: u64,
    /// What entries held whose first record was still on its way as they were taken out of use.
    last_totals: HashMap<RefusalKey, Refusal>,
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
            last_totals: HashMap::new(),
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
        let last = self.last_totals.get(&kind).filter(|last| last.born == event.born).copied();
        if last.is_some() {
            self.last_totals.remove(&kind);
        }
        let total = last.map_or(event.total, |last| last.total.max(event.total));
        let known = if let Some(known) = self.kinds.get_mut(&kind) {
            self.entries += usize::from(known.born < event.born && last.is_none());
            let repeats = known.pending.count > 0;
            self.taken += known.take_in(event.born, total, event.time);
            if !repeats && known.pending.count > 0 {
                known.refusal = look_up();
            }
            known
        } else {
            self.entries += usize::from(event.born != 0 && last.is_none());
            self.taken += total;
            let pending = Told { count: total, last: event.time };
            self.kinds.entry(kind).or_insert(Known::new(look_up(), event.born, pending, now))
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

    /// The kernel's table has been replaced by an empty one. `last` is what was in the old one; what is not going to be
    /// reported is forgotten.
    pub fn begin_anew(&mut self, last: impl Iterator<Item = (RefusalKey, Refusal)>, now: Instant) {
        self.entries = 0;
        self.last_totals.clear();
        for (kind, entry) in last {
            match self.kinds.get_mut(&kind) {
                Some(known) if known.born == entry.born => self.taken += known.look(Some(entry)),
                _ => drop(self.last_totals.insert(kind, entry)),
            }
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

#[cfg(test)]
mod tests {
    use std::array;

    use bulkhead_common::Command;
    use bytemuck::Zeroable;

    use super::*;

    /// The kernel's table, the coalescer, and what it has reported: (millisecond, port, count).
    #[derive(Default)]
    struct Host {
        table: HashMap<RefusalKey, Refusal>,
        /// Records under way.
        ring: Vec<Event>,
        coalescer: Coalescer<u16>,
        lines: Vec<(u64, u16, u64)>,
    }

    const MS: u64 = 1_000_000;

    fn refusal(port: u16, ms: u64) -> Event {
        Event { time: ms * MS, subject: 1, port, ..Event::zeroed() }
    }

    impl Host {
        /// What the programs do.
        fn refuse(&mut self, event: Event) {
            let now = event.time;
            let first = Refusal { born: now + 1, ..Refusal::zeroed() };
            let entry = self.table.entry(RefusalKey::from(&event)).or_insert(first);
            entry.total += 1;
            entry.last = now;
            if entry.total == 1 || now >= entry.reported + Refusal::INTERVAL_NS {
                entry.reported = now;
                self.ring.push(Event { born: entry.born, total: entry.total, ..event });
            }
        }

        /// What the agent does.
        fn drain(&mut self, now: Instant, ms: u64) {
            for event in self.ring.drain(..) {
                let report = |port: &u16, told: Told| self.lines.push((ms, *port, told.count));
                self.coalescer.take(&event, now, || event.port, report);
            }
            let table = &self.table;
            let report = |port: &u16, told: Told| self.lines.push((ms, *port, told.count));
            self.coalescer.due(now, |kind| table.get(kind).copied(), report);
        }

        fn replace_table(&mut self, now: Instant) {
            self.coalescer.begin_anew(self.table.drain(), now);
        }

        fn reported(&self) -> u64 {
            self.lines.iter().map(|(_, _, count)| count).sum()
        }
    }

    /// What is reported when refusals on these ports happen at these milliseconds, and the clock goes on until `until`.
    fn reported(refusals: &[(u64, u16)], until: u64) -> Vec<(u64, u16, u64)> {
        let start = Instant::now();
        let mut host = Host::default();
        let mut refusals = refusals.iter().peekable();
        for ms in 0..=until {
            while let Some((_, port)) = refusals.next_if(|(at, _)| *at == ms) {
                host.refuse(refusal(*port, ms));
            }
            host.drain(start + Duration::from_millis(ms), ms);
        }
        assert!(!host.coalescer.is_pending(), "what is reported is not looked at for ever");
        host.lines
    }

    #[test]
    fn the_first_of_a_kind_is_reported_at_once() {
        assert_eq!(reported(&[(5, 80), (5, 443)], 2_000), [(5, 80, 1), (5, 443, 1)]);
    }

    #[test]
    fn repeats_make_one_line_a_second_that_counts_them() {
        let repeats: Vec<_> = (0..=20).map(|n| (n * 100, 80)).collect();
        assert_eq!(reported(&repeats, 4_000), [(0, 80, 1), (1_000, 80, 10), (2_000, 80, 10)]);
    }

    #[test]
    fn what_makes_no_record_is_reported_a_second_after_the_last_one() {
        assert_eq!(reported(&[(0, 80), (10, 80), (999, 80)], 4_000), [(0, 80, 1), (1_000, 80, 2)]);
        // One that makes a record soon after such a report waits for its turn.
        let lines = [(0, 80, 1), (1_000, 80, 1), (2_000, 80, 2)];
        assert_eq!(reported(&[(0, 80), (500, 80), (1_200, 80), (1_300, 80)], 4_000), lines);
    }

    #[test]
    fn a_kind_that_pauses_is_reported_at_once_again() {
        assert_eq!(reported(&[(0, 80), (1_500, 80)], 4_000), [(0, 80, 1), (1_500, 80, 1)]);
    }

    #[test]
    fn another_command_does_not_hide_behind_the_first() {
        let start = Instant::now();
        let mut host = Host::default();
        for name in [*b"curl\0\0\0\0", *b"nc\0\0\0\0\0\0"] {
            host.refuse(Event { comm: Command([u64::from_ne_bytes(name), 0]), ..refusal(80, 0) });
        }
        host.drain(start, 0);
        assert_eq!(host.lines.len(), 2);
    }

    #[test]
    fn units_of_one_workload_are_one_and_those_of_none_are_told_apart() {
        let lines_of = |subject| {
            let mut host = Host::default();
            for cgroup in 7..9 {
                host.refuse(Event { cgroup, subject, ..refusal(80, 0) });
            }
            host.drain(Instant::now(), 0);
            host.lines.len()
        };
        assert_eq!([lines_of(1), lines_of(u32::MAX)], [1, 2]);
    }

    #[test]
    fn a_record_without_an_entry_stands_for_itself() {
        let mut coalescer = Coalescer::default();
        let mut counted = 0;
        for _ in 0..3 {
            let event = Event { born: 0, total: 1, ..refusal(80, 0) };
            coalescer.take(&event, Instant::now(), || (), |(), told| counted += told.count);
        }
        coalescer.finish(|_| None, |(), told| counted += told.count);
        assert_eq!((counted, coalescer.taken()), (3, 3));
    }

    #[test]
    fn two_records_of_one_second_count_nothing_twice() {
        let mut coalescer = Coalescer::default();
        let counts: [u64; 3] = array::from_fn(|n| {
            // Two CPUs raced: the first record was written last.
            let event = Event { born: 1, total: [1, 3, 2][n], ..refusal(80, 0) };
            let now = Instant::now() + Duration::from_secs(2 * n as u64);
            let mut count = 0;
            coalescer.take(&event, now, || (), |(), told| count = told.count);
            count
        });
        assert_eq!(counts, [1, 2, 0]);
    }

    #[test]
    fn nothing_is_lost_or_doubled_when_the_table_is_replaced() {
        let start = Instant::now();
        let mut host = Host::default();
        let mut refused = 0;
        for ms in 0..5_000 {
            let now = start + Duration::from_millis(ms);
            for port in 0..20 {
                if (ms * 7 + u64::from(port) * 13) % (u64::from(port) * 40 + 3) == 0 {
                    host.refuse(refusal(port, ms));
                    refused += 1;
                }
            }
            // Records are still under way as it happens, sometimes of both tables.
            if ms % 370 == 0 {
                host.replace_table(now);
            }
            if ms % 31 == 0 {
                host.drain(now, ms);
            }
        }
        host.drain(start + Duration::from_secs(7), 7_000);
        host.drain(start + Duration::from_secs(9), 9_000);
        assert_eq!(host.reported(), refused);
        assert_eq!(host.coalescer.taken(), refused);
        for (n, (ms, port, _)) in host.lines.iter().enumerate() {
            let next = host.lines[n + 1..].iter().find(|(_, other, _)| other == port);
            assert!(next.is_none_or(|(next, ..)| next - ms >= 1_000), "port {port} at {ms} and {next:?}");
        }
    }

    #[test]
    fn what_a_record_could_not_tell_is_found_in_the_entry() {
        let start = Instant::now();
        let mut host = Host::default();
        host.refuse(refusal(80, 0));
        host.drain(start, 0);
        host.drain(start + Duration::from_secs(2), 2_000);
        host.refuse(refusal(80, 3_000));
        host.ring.clear();
        host.coalescer.look_at_all(start + Duration::from_secs(3));
        host.drain(start + Duration::from_secs(3), 3_000);
        assert_eq!(host.lines, [(0, 80, 1), (3_000, 80, 1)]);
    }

    #[test]
    fn kinds_that_rest_are_forgotten_with_the_table() {
        let start = Instant::now();
        let mut host = Host::default();
        for n in 0..CROWD {
            host.refuse(Event { uid: u32::try_from(n).unwrap(), ..refusal(80, 0) });
        }
        assert!(!host.coalescer.is_crowded());
        host.drain(start, 0);
        assert!(host.coalescer.is_crowded());
        let later = start + Duration::from_secs(2);
        host.drain(later, 2_000);
        host.replace_table(later);
        assert!(!host.coalescer.is_crowded() && host.coalescer.kinds.is_empty());
    }
}

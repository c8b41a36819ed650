use std::{array, mem};

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
        self.coalescer.caught_up();
        let table = &self.table;
        let report = |port: &u16, told: Told| self.lines.push((ms, *port, told.count));
        self.coalescer.due(now, |kind| table.get(kind).copied(), report);
    }

    fn replace_table(&mut self, now: Instant) {
        if self.coalescer.may_begin_anew() {
            self.coalescer.begin_anew(self.table.drain(), now);
        }
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
fn another_policys_workload_does_not_hide_behind_the_one_of_its_number() {
    let start = Instant::now();
    let mut host = Host::default();
    for generation in 1..=2 {
        host.refuse(Event { generation, ..refusal(80, 0) });
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
fn a_record_that_comes_after_its_entry_was_looked_at_and_forgotten_counts_nothing() {
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let mut host = Host::default();
    host.refuse(refusal(80, 0));
    host.drain(at(0), 0);
    host.refuse(refusal(80, 1_001));
    let under_way = mem::take(&mut host.ring);
    host.drain(at(1_050), 1_050);
    host.replace_table(at(1_100));
    assert!(host.coalescer.kinds.is_empty() && !host.coalescer.may_begin_anew());
    host.ring = under_way;
    host.refuse(refusal(80, 1_150));
    host.drain(at(1_200), 1_200);
    assert_eq!(host.lines, [(0, 80, 1), (1_050, 80, 1), (1_200, 80, 1)]);
    assert_eq!(host.coalescer.taken(), 3);
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

//! The first refusal of a kind is reported at once, repeats at most once a second.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use bulkhead_common::{Command, Event, SubjectId};

/// How often one kind is reported.
const INTERVAL: Duration = Duration::from_secs(1);
/// A kind that has not been seen for so long is reported at once again.
const IDLE: Duration = Duration::from_mins(1);
/// How many kinds are told apart at once. The oldest gives way to a new one: it is reported again, not lost.
const KINDS: usize = 8192;

/// What makes two refusals one of a kind. The user and the command are part of it, so that no program hides behind
/// another's refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Kind {
    subject: u32,
    /// Tells apart what has no name; else 0.
    cgroup: u64,
    address: bulkhead_common::Address,
    peer_subject: u32,
    port: u16,
    protocol: u8,
    direction: u8,
    verdict: u8,
    reason: u8,
    uid: u32,
    comm: Command,
}

impl From<&Event> for Kind {
    fn from(event: &Event) -> Self {
        let named = event.subject != SubjectId::NONE.0 && event.subject != SubjectId::UNIDENTIFIED.0;
        Self {
            subject: event.subject,
            cgroup: if named { 0 } else { event.cgroup },
            address: event.peer_address,
            peer_subject: event.peer_subject,
            port: event.port,
            protocol: event.protocol,
            direction: event.direction,
            verdict: event.verdict,
            reason: event.reason,
            uid: event.uid,
            comm: event.comm,
        }
    }
}

/// Refusals of one kind since its last report.
#[derive(Debug)]
struct Repeats<R> {
    reported: Instant,
    /// What is to be reported of them, and how many they are.
    pending: Option<(R, u64)>,
}

/// Holds back repeats. `R` is what is known of a refusal once it has been looked at: that is done for those to be
/// reported only, and at once.
#[derive(Debug)]
pub struct Coalescer<R> {
    kinds: HashMap<Kind, Repeats<R>>,
}

impl<R> Default for Coalescer<R> {
    fn default() -> Self {
        Self { kinds: HashMap::new() }
    }
}

impl<R> Coalescer<R> {
    /// Takes a record. `look` is called if it is the first of its kind, or the first repeat since the last report;
    /// `report` with what it gave and how many refusals that stands for.
    pub fn take(
        &mut self,
        event: &Event,
        now: Instant,
        look: impl FnOnce() -> R,
        mut report: impl FnMut(R, u64),
    ) {
        let count = u64::from(event.count.max(1));
        let kind = Kind::from(event);
        if let Some(repeats) = self.kinds.get_mut(&kind) {
            match &mut repeats.pending {
                Some((_, pending)) => *pending += count,
                None if now.duration_since(repeats.reported) >= INTERVAL => {
                    repeats.reported = now;
                    report(look(), count);
                }
                None => repeats.pending = Some((look(), count)),
            }
            return;
        }
        if self.kinds.len() >= KINDS {
            self.make_room(&mut report);
        }
        self.kinds.insert(kind, Repeats { reported: now, pending: None });
        report(look(), count);
    }

    /// Reports what is due.
    pub fn due(&mut self, now: Instant, mut report: impl FnMut(R, u64)) {
        self.kinds.retain(|_, repeats| {
            let since = now.duration_since(repeats.reported);
            if since >= INTERVAL
                && let Some((refusal, count)) = repeats.pending.take()
            {
                repeats.reported = now;
                report(refusal, count);
                return true;
            }
            since < IDLE
        });
    }

    /// Reports everything that is held back.
    pub fn finish(&mut self, mut report: impl FnMut(R, u64)) {
        for (_, repeats) in self.kinds.drain() {
            if let Some((refusal, count)) = repeats.pending {
                report(refusal, count);
            }
        }
    }

    /// Is anything held back?
    pub fn is_pending(&self) -> bool {
        self.kinds.values().any(|repeats| repeats.pending.is_some())
    }

    /// Drops the older half, so that making room is rare.
    fn make_room(&mut self, report: &mut impl FnMut(R, u64)) {
        let mut times: Vec<Instant> = self.kinds.values().map(|repeats| repeats.reported).collect();
        let middle = times.len() / 2;
        let median = *times.select_nth_unstable(middle).1;
        self.kinds.retain(|_, repeats| {
            let keep = repeats.reported > median;
            if !keep && let Some((refusal, count)) = repeats.pending.take() {
                report(refusal, count);
            }
            keep
        });
    }
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable;

    use super::*;

    fn refusal(port: u16) -> Event {
        Event { subject: 1, port, count: 1, ..Event::zeroed() }
    }

    /// What is reported, as (port, count), when refusals on these ports arrive at these milliseconds, and the clock
    /// then goes on until `until`.
    fn reported(refusals: &[(u64, u16)], until: u64) -> Vec<(u64, u16, u64)> {
        let start = Instant::now();
        let mut coalescer = Coalescer::default();
        let mut lines = Vec::new();
        let mut refusals = refusals.iter().peekable();
        for ms in 0..=until {
            let now = start + Duration::from_millis(ms);
            while let Some((_, port)) = refusals.next_if(|(at, _)| *at == ms) {
                coalescer.take(&refusal(*port), now, || *port, |port, count| lines.push((ms, port, count)));
            }
            coalescer.due(now, |port, count| lines.push((ms, port, count)));
        }
        lines
    }

    #[test]
    fn the_first_of_a_kind_is_reported_at_once() {
        assert_eq!(reported(&[(5, 80), (5, 443)], 10), [(5, 80, 1), (5, 443, 1)]);
    }

    #[test]
    fn repeats_make_one_line_a_second_that_counts_them() {
        let repeats: Vec<_> = (0..=20).map(|n| (n * 100, 80)).collect();
        assert_eq!(reported(&repeats, 4000), [(0, 80, 1), (1000, 80, 10), (2000, 80, 10)]);
    }

    #[test]
    fn another_command_does_not_hide_behind_the_first() {
        let mut coalescer = Coalescer::default();
        let mut lines = 0;
        for name in [*b"curl\0\0\0\0", *b"nc\0\0\0\0\0\0"] {
            let event = Event { comm: Command([u64::from_ne_bytes(name), 0]), ..refusal(80) };
            coalescer.take(&event, Instant::now(), || (), |(), _| lines += 1);
        }
        assert_eq!(lines, 2);
    }

    #[test]
    fn records_that_stand_for_several_refusals_count_as_several() {
        let mut coalescer = Coalescer::default();
        let mut counted = 0;
        for count in [1, 40, 2] {
            let event = Event { count, ..refusal(80) };
            coalescer.take(&event, Instant::now(), || (), |(), count| counted += count);
        }
        coalescer.finish(|(), count| counted += count);
        assert_eq!(counted, 43);
    }

    #[test]
    fn a_flood_of_kinds_keeps_memory_bounded_and_loses_no_count() {
        let mut coalescer = Coalescer::default();
        let start = Instant::now();
        let mut counted = 0;
        let kinds = u32::try_from(KINDS).unwrap();
        for n in 0..3 * kinds {
            for _ in 0..2 {
                let event = Event { uid: n, ..refusal(80) };
                let now = start + Duration::from_micros(n.into());
                coalescer.take(&event, now, || (), |(), count| counted += count);
            }
            assert!(coalescer.kinds.len() <= KINDS);
        }
        coalescer.finish(|(), count| counted += count);
        assert_eq!(counted, u64::from(3 * kinds * 2));
    }
}

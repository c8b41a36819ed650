use bytemuck::{Pod, Zeroable};

use crate::{Flow, Hook, Outcome, RuleId, Verdict};

/// How many kinds of traffic are counted apart. What finds no bucket of its own is counted in [`OTHER`].
pub const COUNTERS: u32 = 16_384;

/// The bucket of all traffic that found no bucket of its own.
pub const OTHER: u32 = 0;

/// A kind of traffic: what is counted together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct CounterKey {
    /// Number of the generation that decided. Subjects, classes and rules mean something within it only.
    pub generation: u32,
    /// Whose allowlist was asked: a [`crate::SubjectId`].
    pub subject: u32,
    /// Class of the workload at the other end, or of its address: a [`crate::PeerId`].
    pub peer: u32,
    /// The rule that allowed it or has expired: a [`crate::RuleId`].
    pub rule: u32,
    /// Service port in the machine's order, as in [`Flow::port`].
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// [`crate::Direction`] as a number.
    pub direction: u8,
    /// [`crate::Verdict`] as a number.
    pub verdict: u8,
    /// [`crate::Reason`] as a number.
    pub reason: u8,
    /// 1: packets; 0: calls that were refused before there was one.
    pub packets: u8,
    /// 0: what was decided; else what the shadow would have decided otherwise, and 1 + the verdict in force. See
    /// [`Self::of_shadow`].
    pub shadow: u8,
}

impl CounterKey {
    /// The kind of what was decided in `generation` for `subject`.
    #[inline(always)]
    pub const fn new(generation: u32, subject: u32, flow: &Flow, outcome: Outcome, hook: Hook) -> Self {
        Self {
            generation,
            subject,
            peer: flow.peer.class.0,
            rule: outcome.rule().0,
            port: flow.port,
            protocol: flow.protocol.0,
            direction: flow.direction as u8,
            verdict: outcome.verdict(),
            reason: outcome.reason(),
            packets: matches!(hook, Hook::Packet) as u8,
            shadow: 0,
        }
    }

    /// Of what a shadow's verdict would have been, where that in force was another: `in_force`. The rule is then that of the
    /// generation which lets pass, for that is the rule which comes or goes.
    #[inline(always)]
    pub const fn of_shadow(self, in_force: Outcome) -> Self {
        let rule = if self.verdict == Verdict::Allowed as u8 { self.rule } else { in_force.rule().0 };
        Self { rule, shadow: 1 + in_force.verdict(), ..self }
    }

    /// The [`Verdict`] in force, as a number, which is not the shadow's; none: this is what was decided.
    pub const fn verdict_in_force(self) -> Option<u8> {
        self.shadow.checked_sub(1)
    }
}

impl CounterKey {
    /// Whose, which way, and what came of it: what is left of the kind when nothing else is told apart.
    pub const fn of_subject(self) -> Self {
        Self { peer: 0, rule: RuleId::NONE.0, port: 0, protocol: 0, reason: 0, ..self }
    }
}

impl CounterKey {
    /// As words: what a BPF function that is verified by itself can take.
    #[inline(always)]
    pub fn to_words(self) -> [u64; 3] {
        bytemuck::cast(self)
    }

    /// From [`Self::to_words`].
    #[inline(always)]
    pub fn from_words(words: [u64; 3]) -> Self {
        bytemuck::cast(words)
    }
}

/// What has been counted of one kind, on one CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Counter {
    /// Packets, or refused calls.
    pub packets: u64,
    /// Bytes of those packets, IP headers included.
    pub bytes: u64,
    /// Connections and exchanges of datagrams that they opened.
    pub connections: u64,
    /// Nanoseconds of `CLOCK_BOOTTIME` of the first; 0: none on this CPU.
    pub first_seen: u64,
    /// Nanoseconds of `CLOCK_BOOTTIME` of the last, at most a few seconds early: packets that pass like the one before
    /// them do not read the clock.
    pub last_seen: u64,
}

impl Counter {
    /// Adds what another CPU has counted.
    pub fn add(&mut self, other: &Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.connections += other.connections;
        self.last_seen = self.last_seen.max(other.last_seen);
        self.first_seen = match (self.first_seen, other.first_seen) {
            (0, first) | (first, 0) => first,
            (one, two) => one.min(two),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Decision, Direction, Peer, Protocol, Reason};

    #[test]
    fn a_difference_tells_both_verdicts_and_the_rule_that_lets_pass() {
        let flow =
            Flow { direction: Direction::Egress, protocol: Protocol::TCP, port: 443, peer: Peer::default() };
        let outcome = |verdict, reason, rule| Outcome::new(Decision { verdict, reason, rule }, false);
        let passes = outcome(Verdict::Allowed, Reason::Rule, RuleId(7));
        let refused = outcome(Verdict::Denied, Reason::NoRule, RuleId::NONE);
        let marked = outcome(Verdict::WouldDeny, Reason::NoRule, RuleId::NONE);
        let key = |shadow| CounterKey::new(1, 1, &flow, shadow, Hook::Packet);
        assert_eq!(key(passes).verdict_in_force(), None);
        for (shadow, in_force, rule) in [(refused, passes, 7), (passes, refused, 7), (marked, refused, !0)] {
            let difference = key(shadow).of_shadow(in_force);
            assert_eq!(difference.verdict_in_force(), Some(in_force.verdict()));
            assert_eq!((difference.verdict, difference.rule), (shadow.verdict(), rule));
        }
    }

    #[test]
    fn what_several_cpus_have_counted_adds_up() {
        let mut sum = Counter::default();
        sum.add(&Counter { packets: 2, bytes: 100, connections: 1, first_seen: 50, last_seen: 90 });
        sum.add(&Counter { packets: 3, bytes: 10, connections: 0, first_seen: 40, last_seen: 60 });
        sum.add(&Counter::default());
        assert_eq!(sum, Counter { packets: 5, bytes: 110, connections: 1, first_seen: 40, last_seen: 90 });
    }
}

//! Moments on the clock of the programs.

use bulkhead_common::PolicyValue;
use rustix::time::{ClockId, clock_gettime};

/// What turns a moment of the wall clock into one of `CLOCK_BOOTTIME`, the only clock that programs can read.
pub(crate) struct Clock {
    real: u64,
    boot: u64,
}

impl Clock {
    pub(crate) fn now() -> Self {
        Self { real: nanoseconds(ClockId::Realtime), boot: nanoseconds(ClockId::Boottime) }
    }

    /// A compiled entry as the programs read it.
    pub(crate) fn value(&self, compiled: &PolicyValue) -> PolicyValue {
        PolicyValue { expires: self.boot_time(compiled.expires), ..*compiled }
    }

    /// Nanoseconds of `CLOCK_BOOTTIME` at a moment given in nanoseconds since the Unix epoch; 0 stays "never", and
    /// what is past is past.
    fn boot_time(&self, unix: u64) -> u64 {
        match unix {
            0 => 0,
            past if past <= self.real => 1,
            future => (future - self.real).saturating_add(self.boot),
        }
    }
}

/// Milliseconds of `CLOCK_BOOTTIME`.
pub(crate) fn now_ms() -> u64 {
    now_ns() / 1_000_000
}

/// Nanoseconds of `CLOCK_BOOTTIME`.
pub(crate) fn now_ns() -> u64 {
    nanoseconds(ClockId::Boottime)
}

fn nanoseconds(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    u64::try_from(i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expiries_move_to_the_clock_of_the_programs() {
        let clock = Clock { real: 1_000, boot: 50 };
        assert_eq!(clock.boot_time(0), 0, "never stays never");
        assert_eq!(clock.boot_time(1_010), 60);
        assert_eq!(clock.boot_time(1_000), 1, "past, not never");
        assert_eq!(clock.boot_time(u64::MAX), u64::MAX - 950);
    }
}

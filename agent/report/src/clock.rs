//! From the kernel's clock to the wall's.

use jiff::{SignedDuration, Timestamp};
use rustix::time::{ClockId, Timespec, clock_gettime};

/// The time of day at `boottime` nanoseconds of `CLOCK_BOOTTIME`, by what the clocks say now.
pub fn time_of_day(boottime: u64) -> Timestamp {
    let ago = nanoseconds(clock_gettime(ClockId::Boottime)).saturating_sub(i128::from(boottime));
    let now = nanoseconds(clock_gettime(ClockId::Realtime));
    Timestamp::from_nanosecond(now.saturating_sub(ago)).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Nanoseconds since the Unix epoch.
pub(crate) fn now() -> u64 {
    let now = Timestamp::now().duration_since(Timestamp::UNIX_EPOCH).max(SignedDuration::ZERO);
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

fn nanoseconds(time: Timespec) -> i128 {
    i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_a_second_ago_happened_a_second_ago() {
        let boottime = u64::try_from(nanoseconds(clock_gettime(ClockId::Boottime))).unwrap();
        let then = time_of_day(boottime - 1_000_000_000);
        let off = Timestamp::now().duration_since(then) - SignedDuration::from_secs(1);
        assert!(off.abs() < SignedDuration::from_millis(50), "{off:?}");
    }
}

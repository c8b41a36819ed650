//! Which threads go first on a busy machine. Without the right to say so (`CAP_SYS_NICE`) all are alike, and the agent
//! is only slower to see.

use std::{
    thread,
    time::{Duration, Instant},
};

use rustix::{
    process::setpriority_process,
    time::{ClockId, clock_gettime},
};
use thread_priority::{
    RealtimeThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy, set_thread_priority_and_policy,
    thread_native_id,
};

/// Puts this thread before all others: for the one that looks refused processes up. It races with their end, and on a
/// busy machine a thread like any other loses that race one time in twenty. It has to be paced by a [`Pacer`].
pub(super) fn first() {
    let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
    if let Err(error) = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, policy) {
        tracing::debug!(
            ?error,
            "refusals are reported without priority: programs that end at once may go unnamed"
        );
    }
}

/// Puts this thread before those that compute: for the one that gives new cgroups their identity.
pub(super) fn soon() {
    nice(-20);
}

/// Lets this thread wait its turn.
pub(super) fn ordinary() {
    nice(0);
}

fn nice(value: i32) {
    // Of this thread alone, unlike what POSIX says (setpriority(2), "C library/kernel differences").
    if let Err(error) = setpriority_process(None, value) {
        tracing::debug!(value, %error, "priority not changed");
    }
}

/// Keeps a thread that goes before all others from taking a processor to itself. It may work for a tenth of the time,
/// and saves up what it does not use: a few refusals are looked up as they come, only a flood of them has to wait.
#[derive(Debug)]
pub(super) struct Pacer {
    credit: Duration,
    /// When work ended last.
    since: Instant,
    /// Processor time that this thread had used as work began: what others took meanwhile is not its own.
    used: Duration,
    rest: Duration,
}

impl Pacer {
    /// As much as can be saved up.
    const MOST: Duration = Duration::from_millis(100);
    /// What a rest earns.
    const TURN: Duration = Duration::from_millis(2);
    const REST: Duration = Duration::from_millis(18);

    pub(super) fn new() -> Self {
        Self { credit: Self::MOST, since: Instant::now(), used: processor_time(), rest: Self::REST }
    }

    /// From now on it may work for half of the time: somebody waits for its end.
    pub(super) fn hurry(&mut self) {
        self.rest = Self::TURN;
    }

    /// Work begins, after a wait.
    pub(super) fn begin(&mut self) {
        self.credit = Self::MOST.min(self.credit + self.since.elapsed() / 9);
        self.used = processor_time();
    }

    /// Rests if the work since the beginning or the last call has used up the credit.
    pub(super) fn pace(&mut self) {
        self.credit = self.credit.saturating_sub(processor_time().saturating_sub(self.used));
        if self.credit.is_zero() {
            thread::sleep(self.rest);
            self.credit = Self::TURN;
        }
        self.used = processor_time();
        self.since = Instant::now();
    }
}

/// Processor time that this thread has used.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(pacer: &mut Pacer, time: Duration) {
        let busy = Instant::now();
        while busy.elapsed() < time {
            std::hint::spin_loop();
        }
        pacer.pace();
    }

    #[test]
    fn endless_work_takes_about_a_tenth_of_the_time() {
        let mut pacer = Pacer { credit: Duration::ZERO, ..Pacer::new() };
        let started = Instant::now();
        let mut worked = Duration::ZERO;
        while started.elapsed() < Duration::from_millis(200) {
            work(&mut pacer, Duration::from_micros(100));
            worked += Duration::from_micros(100);
        }
        assert!(worked <= started.elapsed() / 7, "{worked:?} of {:?}", started.elapsed());
    }

    #[test]
    fn work_now_and_then_never_rests() {
        let mut pacer = Pacer::new();
        for _ in 0..10 {
            pacer.begin();
            let credit = pacer.credit;
            work(&mut pacer, Duration::from_millis(3));
            assert!(credit > Pacer::TURN && !pacer.credit.is_zero(), "{credit:?}");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

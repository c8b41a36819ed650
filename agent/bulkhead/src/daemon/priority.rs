//! Which threads go first on a busy machine. Without the right to say so (`CAP_SYS_NICE`) all are alike, and the agent
//! is only slower to see.

use std::{
    thread,
    time::{Duration, Instant},
};

use rustix::process::setpriority_process;
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

/// Keeps a thread that goes before all others from taking a processor to itself: it works for a tenth of the time.
#[derive(Debug)]
pub(super) struct Pacer {
    since: Instant,
}

impl Pacer {
    const TURN: Duration = Duration::from_millis(2);
    const REST: Duration = Duration::from_millis(18);

    /// A turn begins now.
    pub(super) fn begin() -> Self {
        Self { since: Instant::now() }
    }

    /// Rests if the turn is over.
    pub(super) fn pace(&mut self) {
        if self.since.elapsed() >= Self::TURN {
            thread::sleep(Self::REST);
            *self = Self::begin();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endless_work_takes_about_a_tenth_of_the_time() {
        let started = Instant::now();
        let mut pacer = Pacer::begin();
        let mut worked = Duration::ZERO;
        while started.elapsed() < Duration::from_millis(200) {
            let busy = Instant::now();
            while busy.elapsed() < Duration::from_micros(100) {
                std::hint::spin_loop();
            }
            worked += Duration::from_micros(100);
            pacer.pace();
        }
        assert!(worked <= started.elapsed() / 7, "{worked:?} of {:?}", started.elapsed());
    }
}

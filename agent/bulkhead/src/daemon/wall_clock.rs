//! Notices that the machine's clock is set: the programs cannot read it, and rules expire by it.

use std::{io, os::fd::OwnedFd};

use rustix::{
    io::{Errno, read},
    time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    },
};
use tokio::io::{Interest, unix::AsyncFd};

/// The end of time.
const NEVER: Timespec = Timespec { tv_sec: i64::MAX, tv_nsec: 0 };

/// The machine's clock.
#[derive(Debug)]
pub(super) struct WallClock {
    /// Never rings, and is cancelled whenever the clock is set (`TFD_TIMER_CANCEL_ON_SET` in timerfd_create(2)), or the machine
    /// wakes up. Minimum kernel: 3.0.
    timer: AsyncFd<OwnedFd>,
}

impl WallClock {
    /// From now on. Must be called within a runtime.
    pub(super) fn watch() -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Realtime, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
        let once = Timespec { tv_sec: 0, tv_nsec: 0 };
        timerfd_settime(&timer, flags, &Itimerspec { it_interval: once, it_value: NEVER })?;
        Ok(Self { timer: register(timer)? })
    }

    /// Waits until it has been set.
    pub(super) async fn was_set(&self) {
        loop {
            // That a descriptor cannot be waited for is so in a runtime that ends.
            let Ok(mut ready) = self.timer.readable().await else { return std::future::pending().await };
            let cancelled = read(&self.timer, &mut [0; 8]) == Err(Errno::CANCELED);
            ready.clear_ready();
            if cancelled {
                return;
            }
        }
    }
}

#[expect(
    deprecated,
    reason = "its successor is unsafe, and there is none of that here; the descriptor is owned, and stays open"
)]
fn register(timer: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(timer, Interest::READABLE)
}

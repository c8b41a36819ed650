//! What tells the agent to stop, or to read its policy anew.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// By the signal of this name.
    Stop(&'static str),
    Reload,
}

/// SIGINT and SIGTERM, and SIGHUP: the terminal is gone, or, where there was none, the policy files are to be read again.
#[derive(Debug)]
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
    reloads: bool,
}

impl Signals {
    /// From now on they no longer end the process by themselves. `reloads`: SIGHUP does not stop.
    pub(super) fn listen(reloads: bool) -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
            reloads,
        })
    }

    /// Waits for one.
    pub(super) async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.interrupt.recv() => Asked::Stop("SIGINT"),
            _ = self.terminate.recv() => Asked::Stop("SIGTERM"),
            _ = self.hang_up.recv() => if self.reloads { Asked::Reload } else { Asked::Stop("SIGHUP") },
        }
    }
}

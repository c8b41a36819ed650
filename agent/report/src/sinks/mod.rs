//! Where denials go. Each sink has a bounded queue and a thread of its own: one that is slow or dead holds up neither who
//! reports nor the others, and what it does not get is counted.

mod fields;
mod file;
mod http;
mod journal;
mod otlp;
mod stdout;
mod syslog;
mod worker;

#[cfg(test)]
mod testing;

use std::{
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use self::{file::File, journal::Journal, otlp::Otlp, stdout::Lines, syslog::Syslog, worker::Worker};
pub use self::{
    otlp::{Endpoint, EndpointError},
    stdout::Format,
    syslog::{Address, AddressError},
    worker::Account,
};
use crate::Denial;

/// One sink that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// What it is called in `status` and metrics.
    pub name: String,
    /// What it is.
    pub kind: Kind,
}

/// A kind of sink, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Standard output.
    Stdout(Format),
    /// A file that JSON lines are appended to.
    File(PathBuf),
    /// The systemd journal, by its socket.
    Journal(PathBuf),
    /// Syslog as of RFC 5424.
    Syslog(Address),
    /// Logs of OpenTelemetry, by HTTP.
    Otlp(Endpoint),
}

impl Kind {
    /// The name of the first.
    pub const STDOUT: &str = "stdout";

    /// What it is called in settings.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Stdout(_) => Self::STDOUT,
            Self::File(_) => "file",
            Self::Journal(_) => "journald",
            Self::Syslog(_) => "syslog",
            Self::Otlp(_) => "otlp",
        }
    }
}

/// The sinks at work.
#[derive(Debug)]
pub struct Sinks {
    workers: Vec<Worker>,
}

impl Sinks {
    /// Starts them. One that cannot be reached yet is tried again and again: that is no error.
    pub fn start(destinations: Vec<Destination>) -> io::Result<Self> {
        let start = |Destination { name, kind }| {
            let account = Account::of(name, kind.name());
            match kind {
                Kind::Stdout(format) => Worker::start(account, Lines::to(io::stdout(), format)),
                Kind::File(path) => Worker::start(account, File::at(path)),
                Kind::Journal(socket) => Worker::start(account, Journal::at(socket)?),
                Kind::Syslog(address) => Worker::start(account, Syslog::at(address)),
                Kind::Otlp(endpoint) => Worker::start(account, Otlp::at(endpoint)?),
            }
        };
        Ok(Self { workers: destinations.into_iter().map(start).collect::<io::Result<_>>()? })
    }

    /// Hands a denial to each of them; whose queue is full loses it.
    pub fn report(&self, denial: Denial) {
        let denial = Arc::new(denial);
        for worker in &self.workers {
            worker.report(&denial);
        }
    }

    /// What each has delivered and lost.
    pub fn accounts(&self) -> Vec<Arc<Account>> {
        self.workers.iter().map(Worker::account).collect()
    }

    /// Waits until everything is delivered, but no longer than `patience`: who reads may have stopped reading.
    pub fn finish(self, patience: Duration) {
        let end = Instant::now() + patience;
        let closing: Vec<_> = self.workers.into_iter().map(Worker::close).collect();
        for closing in closing {
            closing.wait(end);
        }
    }
}

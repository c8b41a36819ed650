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
pub(crate) mod testing;

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
    pub fn report(&self, denial: &Arc<Denial>) {
        for worker in &self.workers {
            worker.report(denial);
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

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, net::TcpListener, thread};

    use super::{testing::denial, worker::WAITING, *};
    use crate::Rule;

    #[test]
    fn the_page_lists_every_field_in_each_form() {
        let known =
            Denial { rule: Some(Rule { id: "old".into(), file: "shop.toml".into(), line: 3 }), ..denial() };
        let rows = fields::flat(&known).into_iter().map(|(path, _)| {
            format!("| `{path}` | `{}` | `{path}` | `{}` |", journal::name(&path), otlp::name(&path))
        });
        let page =
            fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reporting.md")).unwrap();
        let listed = page.lines().filter(|line| line.contains("| `BULKHEAD_")).map(|line| {
            let cells = line.match_indices('|').nth(4).unwrap().0;
            line[..=cells].to_owned()
        });
        assert_eq!(listed.collect::<BTreeSet<_>>(), rows.collect::<BTreeSet<_>>());
    }

    /// One receiver takes connections and never reads, another is a file: that one gets all that its own queue has room for,
    /// and the first keeps neither the reports nor the memory of more than its queue holds.
    #[test]
    fn a_receiver_that_never_reads_costs_the_others_nothing() {
        const MANY: u64 = 50_000;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("denials.jsonl");
        let receiver = TcpListener::bind("127.0.0.1:0").unwrap();
        let stuck = Kind::Syslog(Address::Tcp(receiver.local_addr().unwrap().to_string()));
        let sinks = Sinks::start(vec![
            Destination { name: "stuck".into(), kind: stuck },
            Destination { name: "file".into(), kind: Kind::File(path.clone()) },
        ])
        .unwrap();
        let [stuck, file] = sinks.accounts().try_into().unwrap();
        let each = denial().count;
        for n in 0..MANY {
            let before = Instant::now();
            sinks.report(&Arc::new(denial()));
            assert!(before.elapsed() < Duration::from_millis(500), "report {n} took {:?}", before.elapsed());
            if n % 1000 == 0 {
                // The file's thread is to have a chance on a machine with one processor.
                thread::sleep(Duration::from_millis(1));
            }
        }
        let held = MANY - (stuck.delivered() + stuck.lost()) / each;
        assert!(stuck.lost() > 0 && held <= (WAITING + worker::BATCH) as u64, "{held} held: {stuck:?}");
        let end = Instant::now() + Duration::from_secs(20);
        while file.delivered() + file.lost() < MANY * each {
            assert!(Instant::now() < end, "{file:?}");
            thread::sleep(Duration::from_millis(10));
        }
        let lines = fs::read_to_string(&path).unwrap().lines().count() as u64;
        assert_eq!(lines * each, file.delivered());
        let before = Instant::now();
        sinks.finish(Duration::from_millis(200));
        assert!(before.elapsed() < Duration::from_secs(2), "{:?} to finish", before.elapsed());
    }
}

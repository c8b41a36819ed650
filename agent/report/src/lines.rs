//! Prints denials on a thread of its own: who reports never waits for who reads.

use std::{
    io::{self, BufWriter, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::Duration,
};

use crate::{Denial, human};

/// How many denials may wait to be printed. More are lost, and counted.
const WAITING: usize = 4096;

/// How denials are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Human {
        /// With ANSI colours.
        color: bool,
    },
    /// One JSON object a line.
    Json,
}

/// Prints denials, one after the other.
#[derive(Debug)]
pub struct Lines {
    sender: SyncSender<Denial>,
    finished: Receiver<()>,
    lost: Arc<AtomicU64>,
}

impl Lines {
    /// Prints to `writer`.
    pub fn to(writer: impl Write + Send + 'static, format: Format) -> io::Result<Self> {
        let (sender, receiver) = sync_channel(WAITING);
        let (finish, finished) = sync_channel(1);
        let lost = Arc::new(AtomicU64::new(0));
        let unwritten = Arc::clone(&lost);
        thread::Builder::new().name("bulkhead-lines".into()).spawn(move || {
            print(&receiver, BufWriter::new(writer), format, &unwritten);
            // Nobody may be waiting for it.
            let _ = finish.send(());
        })?;
        Ok(Self { sender, finished, lost })
    }

    /// Prints a denial, or counts it as lost if too many wait already.
    pub fn print(&self, denial: Denial) {
        if let Err(TrySendError::Full(denial) | TrySendError::Disconnected(denial)) =
            self.sender.try_send(denial)
        {
            self.lost.fetch_add(denial.count, Ordering::Relaxed);
        }
    }

    /// Refusals whose report could not be printed.
    pub fn lost(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.lost)
    }

    /// Waits until everything is printed, but no longer than `patience`: a reader may have stopped reading.
    pub fn finish(self, patience: Duration) {
        drop(self.sender);
        if self.finished.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("the reader of the denials has stopped reading; the last ones are not printed");
        }
    }
}

fn print(denials: &Receiver<Denial>, mut out: impl Write, format: Format, lost: &AtomicU64) {
    let mut broken = false;
    while let Ok(first) = denials.recv() {
        let mut next = Some(first);
        // As many as wait, then one flush: cheap under load, at once when there is one.
        let mut written = Ok(());
        let mut stood_for = 0;
        while let Some(denial) = next {
            stood_for += denial.count;
            let text = match format {
                Format::Human { color } => human::lines(&denial, color),
                Format::Json => denial.to_json() + "\n",
            };
            written = written.and_then(|()| out.write_all(text.as_bytes()));
            next = denials.try_recv().ok();
        }
        if let Err(error) = written.and_then(|()| out.flush()) {
            lost.fetch_add(stood_for, Ordering::Relaxed);
            if !broken {
                tracing::error!(%error, "denials cannot be printed; they are counted as lost from here on");
            }
            broken = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Condvar, Mutex};

    use super::*;
    use crate::{Peer, Workload};

    fn denial() -> Denial {
        Denial {
            time: jiff::Timestamp::UNIX_EPOCH,
            verdict: "denied",
            mode: "enforce",
            direction: "egress",
            protocol: "udp".into(),
            workload: Workload { name: None, environment: None, cgroup: None, unit: None },
            process: None,
            peer: Peer {
                address: Some([192, 0, 2, 1].into()),
                port: Some(53),
                name: None,
                environment: None,
            },
            rule: None,
            reason: "unidentified",
            nearest_rule: None,
            count: 1,
            suppressed: 0,
            generation: 1,
            service: "udp/53".into(),
        }
    }

    /// A reader that reads nothing until it is told to.
    #[derive(Clone, Default)]
    struct Reader(Arc<(Mutex<Received>, Condvar)>);

    #[derive(Default)]
    struct Received {
        reads: bool,
        text: String,
    }

    impl Reader {
        fn read(&self) {
            self.0.0.lock().unwrap().reads = true;
            self.0.1.notify_all();
        }

        fn lines(&self) -> usize {
            self.0.0.lock().unwrap().text.lines().count()
        }
    }

    impl Write for Reader {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let received = self.0.0.lock().unwrap();
            let mut received = self.0.1.wait_while(received, |received| !received.reads).unwrap();
            received.text += std::str::from_utf8(bytes).unwrap();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_stops_reading_holds_nobody_up_and_losses_are_counted() {
        let reader = Reader::default();
        let lines = Lines::to(reader.clone(), Format::Json).unwrap();
        let lost = lines.lost();
        for _ in 0..3 * WAITING {
            lines.print(denial());
        }
        let lost = usize::try_from(lost.load(Ordering::Relaxed)).unwrap();
        assert!(lost >= WAITING, "only {lost} lost");
        reader.read();
        lines.finish(Duration::from_secs(10));
        assert_eq!(reader.lines() + lost, 3 * WAITING);
    }
}

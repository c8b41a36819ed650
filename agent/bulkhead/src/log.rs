//! What the agent says on standard error. A thread of its own writes it: whoever reads it slowly, or not at all, holds up
//! neither enforcement nor reports.

use std::{
    io::{self, IsTerminal, Write},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    },
    thread,
    time::Duration,
};

use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

use crate::output::{color, plural};

/// So much waits to be written, in bytes. Lines beyond are lost, and counted.
const ROOM: usize = 256 << 10;
/// What a line takes beside its text.
const EACH: usize = 64;
/// How long the last lines may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// The log of an agent. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    queue: Sender<Message>,
    account: Arc<Account>,
}

/// Has the last lines written as it is dropped.
#[derive(Debug)]
pub(crate) struct Closing(Log);

#[derive(Debug, Default)]
struct Account {
    /// Bytes that wait.
    waiting: AtomicUsize,
    lost: AtomicUsize,
}

#[derive(Debug)]
enum Message {
    Text(Box<[u8]>),
    /// Say when all before this is written.
    Done(SyncSender<()>),
}

impl Log {
    /// What is traced goes to standard error from now on: for people in few words, else with time and origin.
    pub(crate) fn start(for_people: bool) -> io::Result<(Self, Closing)> {
        let log = Self::to(io::stderr())?;
        let filter = EnvFilter::try_from_env("BULKHEAD_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
        let traced = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(log.clone())
            // By eprintln!(), which panics where standard error is what has failed.
            .log_internal_errors(false)
            .with_ansi(io::stderr().is_terminal() && color(&io::stderr()));
        if for_people {
            traced.without_time().with_target(false).init();
        } else {
            traced.init();
        }
        Ok((log.clone(), Closing(log)))
    }

    fn to(out: impl Write + Send + 'static) -> io::Result<Self> {
        let (queue, messages) = channel();
        let log = Self { queue, account: Arc::default() };
        let account = Arc::clone(&log.account);
        thread::Builder::new().name("bulkhead-log".into()).spawn(move || write(&messages, &account, out))?;
        Ok(log)
    }

    /// Says something as it is, and ends the line. Never waits.
    pub(crate) fn say(&self, line: &str) {
        self.add(format!("{line}\n").into_bytes().into());
    }

    /// What the operator should look after.
    pub(crate) fn warning(&self) -> Option<String> {
        let lost = self.lost();
        (lost > 0).then(|| {
            format!(
                "{} of the agent's log are lost: nobody has read its standard error",
                plural(lost, "line")
            )
        })
    }

    /// Lines that were lost, since too many waited.
    pub(crate) fn lost(&self) -> usize {
        self.account.lost.load(Ordering::Relaxed)
    }

    fn add(&self, text: Box<[u8]>) {
        let cost = text.len() + EACH;
        let waiting = self.account.waiting.fetch_add(cost, Ordering::Relaxed);
        // However long, one is taken.
        let fits = waiting == 0 || waiting + cost <= ROOM;
        if !fits || self.queue.send(Message::Text(text)).is_err() {
            self.account.waiting.fetch_sub(cost, Ordering::Relaxed);
            self.account.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn flush(&self, patience: Duration) {
        let (written, is_written) = sync_channel(1);
        if self.queue.send(Message::Done(written)).is_ok() {
            // Who reads nothing is not waited for any longer.
            let _ = is_written.recv_timeout(patience);
        }
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.flush(PATIENCE);
    }
}

/// One line at a time, as `tracing_subscriber` writes them.
impl Write for Log {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.add(text.into());
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

fn write(messages: &Receiver<Message>, account: &Account, mut out: impl Write) {
    let mut told = 0;
    for message in messages {
        match message {
            Message::Text(text) => {
                // There may be nobody: a terminal closes.
                let _ = out.write_all(&text);
                account.waiting.fetch_sub(text.len() + EACH, Ordering::Relaxed);
            }
            Message::Done(written) => drop(written.send(())),
        }
        let lost = account.lost.load(Ordering::Relaxed);
        if lost > told && account.waiting.load(Ordering::Relaxed) == 0 {
            tracing::warn!(lines = lost - told, "lines of this log are lost: nobody has read standard error");
            told = lost;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader, PipeReader},
        time::Instant,
    };

    use super::*;

    fn piped() -> (Log, PipeReader) {
        let (reader, writer) = io::pipe().unwrap();
        (Log::to(writer).unwrap(), reader)
    }

    #[test]
    fn lines_come_whole_and_in_their_order() {
        let (log, reader) = piped();
        for n in 0..1000 {
            log.say(&n.to_string());
        }
        log.flush(Duration::from_secs(10));
        drop(log);
        let lines: Vec<_> = BufReader::new(reader).lines().map(Result::unwrap).collect();
        assert_eq!(lines, (0..1000).map(|n| n.to_string()).collect::<Vec<_>>());
    }

    #[test]
    fn whoever_reads_nothing_holds_nobody_up() {
        const MANY: usize = 20_000;
        let (log, reader) = piped();
        let before = Instant::now();
        let line = "x".repeat(99);
        for _ in 0..MANY {
            log.say(&line);
        }
        log.flush(Duration::from_millis(10));
        assert!(before.elapsed() < Duration::from_secs(2), "{:?}", before.elapsed());
        let lost = log.lost();
        // Besides what waits, a pipe has room for 64 KiB.
        assert!(lost > MANY - 4_000, "{lost} lost");
        drop(log);
        let lines = BufReader::new(reader).lines().count();
        assert_eq!(lines + lost, MANY);
    }
}

//! What the agent reports, as it comes.

use std::{
    fmt,
    io::{BufRead as _, BufReader, Read},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};

use crate::pace::stretched;

/// How long a report may take before a test gives up. The promise of 100 ms is tested by itself.
const PATIENCE: Duration = Duration::from_secs(3);

/// One reported line.
#[derive(Clone, Debug)]
pub struct Denial {
    /// The JSON object.
    pub record: Value,
    /// When it was read.
    pub seen: Instant,
}

/// All that an agent has reported so far.
#[derive(Clone, Debug, Default)]
pub struct Denials {
    shared: Arc<(Mutex<Lines>, Condvar)>,
}

#[derive(Debug, Default)]
struct Lines {
    denials: Vec<Denial>,
    /// Lines that were no JSON object.
    strange: Vec<String>,
}

impl Lines {
    /// Was every line what it should be?
    fn check(&self) -> Result<()> {
        let strange = &self.strange;
        ensure!(strange.is_empty(), "standard output has other lines than JSON objects: {strange:#?}");
        Ok(())
    }
}

impl Denials {
    /// Reads lines in a thread of its own until they end.
    pub(crate) fn collect(from: impl Read + Send + 'static) -> Self {
        let all = Self::default();
        let to = all.clone();
        thread::spawn(move || {
            for line in BufReader::new(from).lines().map_while(Result::ok) {
                let seen = Instant::now();
                let mut read = to.read();
                match serde_json::from_str(&line) {
                    Ok(record @ Value::Object(_)) => read.denials.push(Denial { record, seen }),
                    _ => read.strange.push(line),
                }
                to.shared.1.notify_all();
            }
        });
        all
    }

    /// All of them so far.
    pub fn all(&self) -> Result<Vec<Denial>> {
        self.matching(&json!({}))
    }

    /// Those so far that hold everything that `wanted` holds.
    pub fn matching(&self, wanted: &Value) -> Result<Vec<Denial>> {
        let read = self.read();
        read.check()?;
        // There may be tens of thousands: those alone are copied that are asked for.
        Ok(read.denials.iter().filter(|denial| holds(&denial.record, wanted)).cloned().collect())
    }

    /// Waits for one that holds everything that `wanted` holds.
    pub fn expect(&self, wanted: &Value) -> Result<Denial> {
        let end = Instant::now() + stretched(PATIENCE);
        let mut looked_at = 0;
        let mut read = self.read();
        loop {
            read.check()?;
            let new = &read.denials[looked_at..];
            if let Some(denial) = new.iter().find(|denial| holds(&denial.record, wanted)) {
                return Ok(denial.clone());
            }
            looked_at = read.denials.len();
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(read);
                bail!("no denial like {wanted}\nreported were:{self}");
            }
            // Woken by a new line or not: the loop looks again.
            read = self.shared.1.wait_timeout(read, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits a moment and wants none that holds everything that `unwanted` holds.
    pub fn expect_none(&self, unwanted: &Value) -> Result<()> {
        thread::sleep(Duration::from_millis(150));
        ensure!(
            self.matching(unwanted)?.is_empty(),
            "unexpected denial like {unwanted}\nreported were:{self}"
        );
        Ok(())
    }

    fn read(&self) -> MutexGuard<'_, Lines> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Denials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let read = self.read();
        if read.denials.is_empty() {
            f.write_str(" nothing")?;
        }
        read.denials.iter().try_for_each(|denial| write!(f, "\n  {}", denial.record))
    }
}

/// Is everything in `wanted` in `record` too? Of objects the named fields count, everything else must be equal.
fn holds(record: &Value, wanted: &Value) -> bool {
    match (record, wanted) {
        (Value::Object(record), Value::Object(wanted)) => {
            wanted.iter().all(|(key, value)| record.get(key).is_some_and(|found| holds(found, value)))
        }
        _ => record == wanted,
    }
}

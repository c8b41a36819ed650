//! How long things take here. An emulated machine is many times slower than the real one.

use std::{
    env,
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use crate::probe::PATIENCE;

/// Names by how much every limit in time is stretched: a whole number, 1 if it is not set.
const SLOWNESS: &str = "BULKHEAD_SLOWNESS";

/// A limit that holds on real hardware, for the machine that this runs on.
pub fn stretched(limit: Duration) -> Duration {
    limit * slowness()
}

/// How long to wait for an answer that may never come, where `limit` would do on real hardware: most tests wait in vain,
/// and what comes comes soon even on a slow machine.
pub fn patience(limit: Duration) -> Duration {
    limit + limit * (slowness() - 1) / 3
}

/// How soon is at once, which is `limit` on real hardware? An emulated machine shares its processor with others, and may not
/// run at all for longer: there at once is sooner than whoever waits gives up.
pub fn at_once(limit: Duration) -> Duration {
    if slowness() == 1 { limit } else { patience(PATIENCE) }
}

/// A number of attempts for real hardware, for the machine that this runs on: as many as take about as long.
pub fn fewer(attempts: u32) -> u32 {
    attempts.div_ceil(slowness())
}

fn slowness() -> u32 {
    static FACTOR: OnceLock<u32> = OnceLock::new();
    *FACTOR.get_or_init(|| env::var(SLOWNESS).ok().and_then(|n| n.parse().ok()).unwrap_or(1).max(1))
}

/// Waits until something is so, for as long as a background task of the agent may take to notice.
pub fn until(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    const NOTICES: Duration = Duration::from_secs(12);
    /// To look costs something, too.
    const GLANCE: Duration = Duration::from_millis(50);
    let end = Instant::now() + stretched(NOTICES);
    while !is_so()? {
        ensure!(Instant::now() < end, "never: {what}");
        thread::sleep(stretched(GLANCE));
    }
    Ok(())
}

//! How long things take here. An emulated machine is many times slower than the real one.

use std::{env, sync::OnceLock, time::Duration};

/// Names by how much every limit in time is stretched: a whole number, 1 if it is not set.
const SLOWNESS: &str = "BULKHEAD_SLOWNESS";

/// A limit that holds on real hardware, for the machine that this runs on.
pub fn stretched(limit: Duration) -> Duration {
    static FACTOR: OnceLock<u32> = OnceLock::new();
    let factor = FACTOR.get_or_init(|| env::var(SLOWNESS).ok().and_then(|n| n.parse().ok()).unwrap_or(1));
    limit * *factor
}

//! Where a denial goes from the thread that makes it: to the sinks and to whoever follows. Nobody there holds it up.

use std::{sync::Arc, time::Duration};

use bulkhead_report::{Account, Denial, Feed, Sinks};

/// All of them.
#[derive(Debug)]
pub(super) struct Outlets {
    pub(super) sinks: Sinks,
    pub(super) feed: Feed<Denial>,
}

impl Outlets {
    /// Hands a denial to each.
    pub(super) fn report(&self, denial: Denial) {
        let denial = Arc::new(denial);
        self.feed.publish(&denial);
        self.sinks.report(&denial);
    }

    /// What each sink has delivered and lost.
    pub(super) fn accounts(&self) -> Vec<Arc<Account>> {
        self.sinks.accounts()
    }

    /// Waits until everything is delivered, but no longer than `patience`.
    pub(super) fn finish(self, patience: Duration) {
        self.sinks.finish(patience);
    }
}

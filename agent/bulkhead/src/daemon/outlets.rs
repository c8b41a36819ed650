//! Where a denial goes from the thread that makes it: to the sinks, to whoever follows, and into the history. Nobody there
//! holds it up.

use std::{sync::Arc, time::Duration};

use bulkhead_report::{Account, Denial, Feed, History, Sinks, Writing};

/// All of them.
#[derive(Debug)]
pub(super) struct Outlets {
    pub(super) sinks: Sinks,
    pub(super) feed: Feed<Denial>,
    /// None: none is kept.
    pub(super) history: Option<(History, Writing)>,
}

impl Outlets {
    /// Hands a denial to each.
    pub(super) fn report(&self, denial: Denial) {
        let denial = Arc::new(denial);
        let number = self.feed.publish(&denial);
        self.sinks.report(&denial);
        if let Some((history, _)) = &self.history {
            history.add(number, &denial);
        }
    }

    /// What each sink has delivered and lost.
    pub(super) fn accounts(&self) -> Vec<Arc<Account>> {
        self.sinks.accounts()
    }

    /// Waits until everything is delivered and written, but for each no longer than `patience`.
    pub(super) fn finish(self, patience: Duration) {
        self.sinks.finish(patience);
        if let Some((_, writing)) = self.history {
            writing.finish(patience);
        }
    }
}

//! What is reported, for those who follow it as it comes.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::broadcast::{
    Receiver, Sender, channel,
    error::{RecvError, TryRecvError},
};

/// So many reports are kept for a follower that is slow. Without followers none is.
const KEPT: usize = 4096;

/// Hands reports to whoever follows them. Clones are the same.
#[derive(Debug)]
pub struct Feed<T> {
    sender: Sender<(u64, Arc<T>)>,
    last: Arc<AtomicU64>,
}

impl<T> Clone for Feed<T> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), last: Arc::clone(&self.last) }
    }
}

impl<T> Default for Feed<T> {
    fn default() -> Self {
        Self { sender: channel(KEPT).0, last: Arc::default() }
    }
}

impl<T> Feed<T> {
    /// Hands a report to all who follow, and tells its number: each has a greater one than those before. Never waits. Call
    /// it from one thread only, or numbers and order disagree.
    pub fn publish(&self, report: &Arc<T>) -> u64 {
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        // There may be no follower.
        let _ = self.sender.send((number, Arc::clone(report)));
        number
    }

    /// Follows what comes from now on.
    pub fn follow(&self) -> Follower<T> {
        Follower(self.sender.subscribe())
    }
}

/// Who follows a [`Feed`].
#[derive(Debug)]
pub struct Follower<T>(Receiver<(u64, Arc<T>)>);

/// What comes to a follower.
#[derive(Debug, PartialEq, Eq)]
pub enum Followed<T> {
    /// A report, and its number.
    Report(u64, Arc<T>),
    /// It was too slow: so many reports are gone that it has not got.
    Lost(u64),
}

impl<T: Clone> Follower<T> {
    /// Waits for the next; none: no more come.
    pub async fn next(&mut self) -> Option<Followed<T>> {
        match self.0.recv().await {
            Ok((number, report)) => Some(Followed::Report(number, report)),
            Err(RecvError::Lagged(lost)) => Some(Followed::Lost(lost)),
            Err(RecvError::Closed) => None,
        }
    }

    /// The next, if it is there already.
    pub fn next_now(&mut self) -> Option<Followed<T>> {
        match self.0.try_recv() {
            Ok((number, report)) => Some(Followed::Report(number, report)),
            Err(TryRecvError::Lagged(lost)) => Some(Followed::Lost(lost)),
            Err(TryRecvError::Empty | TryRecvError::Closed) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_follower_gets_what_comes_in_its_order() {
        let feed = Feed::default();
        feed.publish(&Arc::new("before"));
        let mut follower = feed.follow();
        for text in ["one", "two"] {
            feed.publish(&Arc::new(text));
        }
        assert_eq!(follower.next_now(), Some(Followed::Report(2, Arc::new("one"))));
        assert_eq!(follower.next_now(), Some(Followed::Report(3, Arc::new("two"))));
        assert_eq!(follower.next_now(), None);
    }

    #[test]
    fn who_never_reads_holds_nobody_up_and_is_told_how_much_is_lost() {
        let feed = Feed::default();
        let mut follower = feed.follow();
        let before = Instant::now();
        let many = 10 * KEPT as u64;
        for n in 0..many {
            feed.publish(&Arc::new(n));
        }
        assert!(before.elapsed() < Duration::from_secs(1), "{:?}", before.elapsed());
        let Some(Followed::Lost(lost)) = follower.next_now() else { panic!("nothing was lost") };
        let mut got = 0;
        while let Some(Followed::Report(..)) = follower.next_now() {
            got += 1;
        }
        assert_eq!(lost + got, many);
        assert_eq!(got, KEPT as u64);
    }
}

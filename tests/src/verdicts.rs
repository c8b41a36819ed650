//! What tests expect of an attempt, and how they say that it came out otherwise.

use std::{net::SocketAddr, time::Duration};

use crate::{Outcome, pace::at_once};
use anyhow::{Result, ensure};

/// A refused caller is told within this time.
pub const AT_ONCE: Duration = Duration::from_millis(50);

/// What should come of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// The other end answers.
    Allowed,
    /// The caller gets EPERM at once.
    Refused,
    /// It does not get through. The caller is somebody whom the agent may not answer: on another machine, or in no
    /// workload.
    Blocked,
}

use Expected::{Allowed, Blocked, Refused};

impl Expected {
    /// Is this what came of `attempt`?
    pub fn check(self, attempt: &str, outcome: Outcome) -> Result<()> {
        let fits = match (self, outcome) {
            (Allowed, Outcome::Answered) => true,
            (Refused, Outcome::Refused(after)) => after < at_once(AT_ONCE),
            (Blocked, outcome) => outcome.is_blocked(),
            _ => false,
        };
        ensure!(fits, "{attempt} should be {self:?} and was {outcome:?}");
        Ok(())
    }
}

/// Checks all of a list before it fails, so that one failure shows all of its kind.
#[derive(Debug, Default)]
pub struct Checks {
    wrong: Vec<String>,
    right: usize,
}

impl Checks {
    /// Notes what came of one attempt.
    pub fn add(&mut self, attempt: &str, expected: Expected, outcome: Outcome) {
        match expected.check(attempt, outcome) {
            Ok(()) => self.right += 1,
            Err(e) => self.wrong.push(e.to_string()),
        }
    }

    /// Names all that came out otherwise.
    pub fn finish(self) -> Result<()> {
        let (wrong, right) = (self.wrong.len(), self.right);
        ensure!(wrong == 0, "{wrong} wrong, {right} right:\n{}", self.wrong.join("\n"));
        ensure!(right > 0, "nothing was checked");
        Ok(())
    }
}

/// Wants that the other end answered.
pub fn allowed(attempt: &str, outcome: Outcome) -> Result<()> {
    Allowed.check(attempt, outcome)
}

/// Wants EPERM at once.
pub fn refused(attempt: &str, outcome: Outcome) -> Result<()> {
    Refused.check(attempt, outcome)
}

/// Wants that it did not get through.
pub fn blocked(attempt: &str, outcome: Outcome) -> Result<()> {
    Blocked.check(attempt, outcome)
}

/// The address of a port.
pub fn at(address: impl Into<std::net::IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(address.into(), port)
}

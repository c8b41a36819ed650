//! What each workload's traffic has come to since the agent started, over all policies that it has enforced.
//!
//! The kernel counts by generation and subject, which mean something within a policy only, and frees its counters once a
//! generation is out of force. Here they become names, and what has been freed is added up.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bulkhead_common::{Counter, CounterKey, Direction, Verdict};
use bulkhead_datapath::{BySubject, DatapathError, Tally, Traffic};
use bulkhead_policy::Policy;

/// Whose traffic, which way, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    /// The workload's name; empty: a workload that could not be told.
    pub(super) workload: Arc<str>,
    /// `egress` or `ingress`.
    pub(super) direction: &'static str,
    /// `allowed`, `denied` or `would-deny`.
    pub(super) verdict: &'static str,
    /// Calls that were refused before there was a packet, and no packets.
    pub(super) calls: bool,
}

/// Traffic by workload.
pub(super) type ByWorkload = BTreeMap<Entry, Counter>;

/// The ledger, for whoever adds to it and for whoever reads it.
#[derive(Clone)]
pub(super) struct Ledger(Arc<Mutex<Book>>);

struct Book {
    tally: Tally,
    /// Which workloads the subjects are, from a generation on.
    names: Vec<(u32, Vec<Arc<str>>)>,
    past: ByWorkload,
}

impl Ledger {
    /// For generations of `policy` from this one on.
    pub(super) fn of(tally: Tally, generation: u32, policy: &Policy) -> Self {
        let names = vec![(generation, names(policy))];
        Self(Arc::new(Mutex::new(Book { tally, names, past: ByWorkload::new() })))
    }

    /// Generations from this one on are of `policy`; what those before it have counted may be on its way out.
    pub(super) fn turn(&self, generation: u32, policy: &Policy) {
        let mut book = self.book();
        let retired = book.tally.take_retired();
        book.enter_past(retired);
        let names = names(policy);
        let current: Vec<_> = names.clone();
        // A workload that no policy names any more leaves no series behind.
        book.past.retain(|entry, _| entry.workload.is_empty() || current.contains(&entry.workload));
        if book.names.last().is_none_or(|(_, last)| *last != names) {
            book.names.push((generation, names));
        }
    }

    /// All traffic, and that of each workload. It may take a while.
    pub(super) fn read(&self) -> Result<(Traffic, ByWorkload), DatapathError> {
        // Held meanwhile: what is freed between two looks would be in neither of them, or in both.
        let book = self.book();
        let (traffic, subjects) = book.tally.read()?;
        let mut all = book.past.clone();
        book.enter(&mut all, subjects);
        Ok((traffic, all))
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    fn enter_past(&mut self, subjects: BySubject) {
        let mut past = std::mem::take(&mut self.past);
        self.enter(&mut past, subjects);
        self.past = past;
    }

    fn enter(&self, all: &mut ByWorkload, subjects: BySubject) {
        for (key, counter) in subjects {
            if let Some(entry) = self.entry(&key) {
                all.entry(entry).or_default().add(&counter);
            }
        }
    }

    /// None: it was counted for an agent before this one, and nobody knows any more who was who.
    fn entry(&self, key: &CounterKey) -> Option<Entry> {
        let (_, names) = self.names.iter().rev().find(|(from, _)| *from <= key.generation)?;
        let workload = match key.subject.checked_sub(1) {
            Some(n) => Arc::clone(names.get(usize::try_from(n).ok()?)?),
            None => Arc::from(""),
        };
        let direction = if key.direction == Direction::Egress as u8 { "egress" } else { "ingress" };
        let verdict = match key.verdict {
            verdict if verdict == Verdict::Allowed as u8 => "allowed",
            verdict if verdict == Verdict::WouldDeny as u8 => "would-deny",
            _ => "denied",
        };
        Some(Entry { workload, direction, verdict, calls: key.packets == 0 })
    }
}

/// The workloads' names, by subject from 1 on.
fn names(policy: &Policy) -> Vec<Arc<str>> {
    policy.workloads.iter().map(|workload| Arc::from(workload.name.as_str())).collect()
}

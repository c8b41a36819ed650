//! What each workload's traffic has come to since the agent started, over all policies that it has enforced.
//!
//! The kernel counts by generation and subject, which mean something within a policy only, and frees its counters once a
//! generation is out of force. Here they become names, and what has been freed is added up.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use bulkhead_common::{Counter, CounterKey, Direction, SubjectId, Verdict};
use bulkhead_datapath::{BySubject, DatapathError, Tally, Traffic};
use bulkhead_report::Policies;

/// Whose traffic, which way, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    /// The workload's name; empty: a workload that could not be told.
    pub(super) workload: String,
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
    policies: Policies,
    /// Of generations whose counters are freed.
    past: ByWorkload,
}

impl Ledger {
    pub(super) fn of(tally: Tally, policies: Policies) -> Self {
        Self(Arc::new(Mutex::new(Book { tally, policies, past: ByWorkload::new() })))
    }

    /// Enters what has been freed, while it is known whose it was. Never waits: whoever reads does the same.
    pub(super) fn fold(&self) {
        if let Ok(mut book) = self.0.try_lock() {
            book.fold();
        }
    }

    /// All traffic, and that of each workload. It may take a while.
    pub(super) fn read(&self) -> Result<(Traffic, ByWorkload), DatapathError> {
        // Held meanwhile: what is freed between two looks would be in neither of them, or in both.
        let mut book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        book.fold();
        let (traffic, subjects) = book.tally.read()?;
        let mut all = book.past.clone();
        enter(&mut all, &book.policies, subjects);
        Ok((traffic, all))
    }
}

impl Book {
    fn fold(&mut self) {
        enter(&mut self.past, &self.policies, self.tally.take_retired());
    }
}

fn enter(all: &mut ByWorkload, policies: &Policies, subjects: BySubject) {
    for (key, counter) in subjects {
        if let Some(entry) = entry(policies, &key) {
            all.entry(entry).or_default().add(&counter);
        }
    }
}

/// None: it was counted for an agent before this one, and nobody knows any more who was who.
fn entry(policies: &Policies, key: &CounterKey) -> Option<Entry> {
    let policy = policies.of(key.generation)?;
    let workload = match SubjectId(key.subject) {
        SubjectId::NONE => String::new(),
        SubjectId(number) => policy.workloads.get(usize::try_from(number - 1).ok()?)?.name.clone(),
    };
    let direction = if key.direction == Direction::Egress as u8 { "egress" } else { "ingress" };
    let verdict = match key.verdict {
        verdict if verdict == Verdict::Allowed as u8 => "allowed",
        verdict if verdict == Verdict::WouldDeny as u8 => "would-deny",
        _ => "denied",
    };
    Some(Entry { workload, direction, verdict, calls: key.packets == 0 })
}

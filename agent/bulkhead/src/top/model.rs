//! What `bulkhead top` shows, and how it changes: no terminal, no agent, no clock.

use std::cmp::Reverse;

use bulkhead_report::Denial;

use super::rows::{Key, Row, Rows};
use crate::control::{Drafted, Status};

/// Everything that is shown.
#[derive(Debug, Default)]
pub(super) struct Model {
    /// What is known now.
    pub(super) rows: Rows,
    /// What was known when the picture was held, if it is.
    pub(super) held: Option<Box<Rows>>,
    pub(super) status: Option<Box<Status>>,
    /// Why nothing comes from the agent now.
    pub(super) trouble: Option<String>,
    /// Reports that came faster than they were read.
    pub(super) missed: u64,
    pub(super) sort: Column,
    pub(super) ascending: bool,
    pub(super) filter: String,
    pub(super) only_refused: bool,
    pub(super) selected: Option<Key>,
    pub(super) screen: Screen,
    /// Drafts to be printed in the end.
    pub(super) kept: Vec<String>,
}

/// What rows are sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Column {
    Workload,
    Peer,
    Service,
    Connections,
    Packets,
    Bytes,
    #[default]
    Refusals,
    Refused,
}

impl Column {
    pub(super) const ALL: [Self; 8] = [
        Self::Workload,
        Self::Peer,
        Self::Service,
        Self::Connections,
        Self::Packets,
        Self::Bytes,
        Self::Refusals,
        Self::Refused,
    ];

    pub(super) const fn head(self) -> &'static str {
        match self {
            Self::Workload => "workload",
            Self::Peer => "peer",
            Self::Service => "service",
            Self::Connections => "conn/s",
            Self::Packets => "packets/s",
            Self::Bytes => "bytes/s",
            Self::Refusals => "refused/s",
            Self::Refused => "refused",
        }
    }

    /// The one so many columns to the right.
    pub(super) fn beside(self, steps: usize) -> Self {
        let at = Self::ALL.iter().position(|column| *column == self).unwrap_or(0);
        Self::ALL[(at + steps) % Self::ALL.len()]
    }
}

/// What the keys are for.
#[derive(Debug, Default)]
pub(super) enum Screen {
    #[default]
    List,
    /// The filter is typed.
    Filter,
    Help,
    /// A row's last refusals, one of which is chosen.
    Detail {
        key: Key,
        chosen: usize,
    },
    Draft(DraftScreen),
}

/// A drafted rule.
#[derive(Debug)]
pub(super) struct DraftScreen {
    /// What was refused.
    pub(super) denial: Box<Denial>,
    pub(super) draft: DraftState,
    /// The name of a file, as it is typed.
    pub(super) file: Option<String>,
    /// What has become of it.
    pub(super) note: Option<String>,
    /// Where it was asked for: a row's detail, or the list.
    pub(super) from: Option<(Key, usize)>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum DraftState {
    Asked,
    Ready(Drafted),
    /// There is none, and why.
    None(String),
}

impl Model {
    /// What is shown: what is known now, or was known when the picture was held.
    pub(super) fn shown(&self) -> &Rows {
        self.held.as_deref().unwrap_or(&self.rows)
    }

    /// Holds the picture, or lets it go on with all that has come meanwhile.
    pub(super) fn hold_or_go_on(&mut self) {
        self.held = match self.held {
            None => Some(Box::new(self.rows.clone())),
            Some(_) => None,
        };
    }

    /// The rows that are shown, in their order.
    pub(super) fn visible(&self) -> Vec<(&Key, &Row)> {
        let filter = self.filter.to_lowercase();
        let mut rows: Vec<_> = self
            .shown()
            .iter()
            .filter(|(_, row)| !self.only_refused || row.refused > 0)
            .filter(|(key, row)| holds(key, row, &filter))
            .collect();
        // Among equals an order that does not change.
        rows.sort_by_key(|(key, _)| *key);
        match self.sort {
            Column::Workload => {}
            Column::Peer => rows.sort_by(|(a, _), (b, _)| a.peer.cmp(&b.peer)),
            Column::Service => rows.sort_by(|(a, _), (b, _)| a.service.cmp(&b.service)),
            column => rows.sort_by_key(|(_, row)| Reverse(amount(row, column))),
        }
        if self.ascending {
            rows.reverse();
        }
        rows
    }

    /// Where the chosen row is among the visible ones; the first, unless one is chosen.
    pub(super) fn position(&self, visible: &[(&Key, &Row)]) -> Option<usize> {
        let chosen = self.selected.as_ref();
        let found = visible.iter().position(|(key, _)| Some(*key) == chosen);
        found.or(if visible.is_empty() { None } else { Some(0) })
    }
}

/// In thousandths: what is to be sorted has to have an order.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rates are never below zero, nor that large"
)]
fn amount(row: &Row, column: Column) -> u64 {
    let rate = match column {
        Column::Connections => row.rates.connections,
        Column::Packets => row.rates.packets,
        Column::Bytes => row.rates.bytes,
        Column::Refusals => row.refusals(),
        Column::Refused => return row.refused,
        Column::Workload | Column::Peer | Column::Service => 0.0,
    };
    (rate * 1_000.0) as u64
}

fn holds(key: &Key, row: &Row, filter: &str) -> bool {
    let ends = [
        Some(&key.workload),
        Some(&key.peer),
        Some(&key.service),
        row.environment.as_ref(),
        row.peer_environment.as_ref(),
    ];
    filter.split_whitespace().all(|word| ends.iter().flatten().any(|end| end.to_lowercase().contains(word)))
}

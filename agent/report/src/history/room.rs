//! What goes when the file is full: the oldest records of whoever holds most of it. A workload that is refused all the time
//! pushes its own records out, and not those of others.

use std::{borrow::Cow, collections::HashMap, ops::ControlFlow};

use redb::{ReadableTable, Table};
use serde::Deserialize;

use super::store::{FlowRow, HistoryError};

/// Denials, as [`super::store::DENIALS`].
pub(super) type Denials<'t> = Table<'t, u64, &'static str>;
/// Flows, as [`super::store::FLOWS`].
pub(super) type Flows<'t> = Table<'t, u64, FlowRow>;

/// Which part of all that is held goes at a time.
const PART: u64 = 8;

/// Takes out the oldest records of those who hold most, until that is an eighth less of all; tells how many records those were.
pub(super) fn make(
    denials: &mut Denials<'_>,
    flows: &mut Flows<'_>,
    kinds: &impl ReadableTable<u32, (bool, &'static str)>,
) -> Result<u64, HistoryError> {
    let mut owners = Owners::of(kinds)?;
    let mut held = Vec::new();
    in_order(denials, flows, &mut owners, |record| {
        *at(&mut held, record.owner) += record.bytes;
        ControlFlow::Continue(())
    })?;
    let mut over = excess(&held);
    let mut left: u64 = over.iter().sum();
    // Up to which key each of them loses its records.
    let mut until = vec![0; held.len()];
    in_order(denials, flows, &mut owners, |record| {
        let over = at(&mut over, record.owner);
        if *over > 0 {
            let goes = record.bytes.min(*over);
            *over -= goes;
            left -= goes;
            *at(&mut until, record.owner) = record.key;
        }
        if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    let last = until.iter().max().copied().unwrap_or(0);
    let mut gone = 0;
    let mut stays = |key: u64, owner: usize| {
        let stays = until.get(owner).is_none_or(|until| key > *until);
        gone += u64::from(!stays);
        stays
    };
    flows.retain_in(..=last, |key, row| stays(key, owners.of_kind(row.0)))?;
    denials.retain_in(..=last, |key, text| stays(key, owners.of_denial(text)))?;
    Ok(gone)
}

/// How much each has to give for all to hold an eighth less, if nobody gives who holds less than those who do keep.
fn excess(held: &[u64]) -> Vec<u64> {
    let mut wanted = held.iter().sum::<u64>().div_ceil(PART);
    let mut most_first = held.to_vec();
    most_first.sort_unstable_by(|a, b| b.cmp(a));
    let mut level = most_first.first().copied().unwrap_or(0);
    for (above, next) in (1..).zip(most_first.iter().skip(1).copied().chain([0])) {
        // So many hold as much as the level by now.
        let until_next = (level - next) * above;
        if until_next >= wanted {
            level -= wanted.div_ceil(above);
            break;
        }
        wanted -= until_next;
        level = next;
    }
    held.iter().map(|held| held.saturating_sub(level)).collect()
}

/// A record of either table.
struct Record {
    key: u64,
    owner: usize,
    bytes: u64,
}

/// Shows all records, the oldest first.
fn in_order(
    denials: &Denials<'_>,
    flows: &Flows<'_>,
    owners: &mut Owners,
    mut show: impl FnMut(Record) -> ControlFlow<()>,
) -> Result<(), HistoryError> {
    let (mut all_denials, mut all_flows) = (denials.iter()?, flows.iter()?);
    let (mut denial, mut flow) = (None, None);
    loop {
        if denial.is_none() {
            denial = all_denials.next().transpose()?.map(|(key, text)| {
                let text = text.value();
                Record { key: key.value(), owner: owners.of_denial(text), bytes: text.len() as u64 }
            });
        }
        if flow.is_none() {
            flow = all_flows.next().transpose()?.map(|(key, row)| {
                let owner = owners.of_kind(row.value().0);
                Record { key: key.value(), owner, bytes: size_of::<FlowRow>() as u64 }
            });
        }
        let denial_first = match (&denial, &flow) {
            (Some(denial), Some(flow)) => denial.key < flow.key,
            (denial, _) => denial.is_some(),
        };
        let Some(next) = (if denial_first { denial.take() } else { flow.take() }) else { return Ok(()) };
        if show(next).is_break() {
            return Ok(());
        }
    }
}

/// Numbers of workloads.
struct Owners {
    by_name: HashMap<String, usize>,
    by_kind: HashMap<u32, usize>,
}

impl Owners {
    /// Whoever could not be told, taken together.
    const NOBODY: usize = 0;

    fn of(kinds: &impl ReadableTable<u32, (bool, &'static str)>) -> Result<Self, HistoryError> {
        let mut owners = Self { by_name: HashMap::new(), by_kind: HashMap::new() };
        for row in kinds.iter()? {
            let (kind, row) = row?;
            let owner = owners.of_text(row.value().1);
            owners.by_kind.insert(kind.value(), owner);
        }
        Ok(owners)
    }

    fn of_kind(&self, kind: u32) -> usize {
        self.by_kind.get(&kind).copied().unwrap_or(Self::NOBODY)
    }

    fn of_denial(&mut self, text: &str) -> usize {
        self.of_text(text)
    }

    /// Whose allowlist judged, by the JSON of a denial or of a kind of flow.
    fn of_text(&mut self, text: &str) -> usize {
        #[derive(Deserialize)]
        struct Judged<'t> {
            #[serde(borrow)]
            workload: Workload<'t>,
        }
        #[derive(Deserialize)]
        struct Workload<'t> {
            #[serde(borrow)]
            name: Option<Cow<'t, str>>,
        }
        let judged = serde_json::from_str(text).ok();
        let Some(name) = judged.and_then(|judged: Judged<'_>| judged.workload.name) else {
            return Self::NOBODY;
        };
        if let Some(known) = self.by_name.get(&*name) {
            return *known;
        }
        let new = self.by_name.len() + 1;
        self.by_name.insert(name.into_owned(), new);
        new
    }
}

/// The number of an owner, who may not have been seen before.
fn at(all: &mut Vec<u64>, owner: usize) -> &mut u64 {
    if owner >= all.len() {
        all.resize(owner + 1, 0);
    }
    &mut all[owner]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_holds_most_gives_first() {
        assert!(excess(&[]).is_empty());
        assert_eq!(excess(&[80]), [10]);
        assert_eq!(excess(&[100, 20, 40]), [20, 0, 0]);
        // Two hold the most: each gives half of an eighth.
        assert_eq!(excess(&[40, 40]), [5, 5]);
        // The second gives only down to what the first has left.
        assert_eq!(excess(&[50, 48, 30]), [9, 7, 0]);
        assert_eq!(excess(&[0, 0]), [0, 0]);
    }
}

//! `bulkhead simulate`.

use std::{path::PathBuf, slice};

use bulkhead_policy::{ChangedFlow, Inventory, Simulation, Summary, Tally};
use serde::Serialize;

use crate::{
    cli::{Output, SimulateArguments},
    flow_file::{self, Lines},
    input::{self, InputError},
    output::{self, Outcome, plural},
};

/// Puts recorded flows to a policy.
pub(crate) fn simulate(arguments: &SimulateArguments, output: Output) -> Result<Outcome, InputError> {
    let SimulateArguments { policy, flows, against, dry_run } = arguments;
    input::standard_input_once(&[&policy.paths, against, slice::from_ref(flows)])?;
    let read = |paths: &[PathBuf]| {
        let mut policy = input::policy(paths)?;
        if *dry_run {
            policy.dry_run();
        }
        Ok::<_, InputError>(policy)
    };
    let new = read(&policy.paths)?;
    let old = if against.is_empty() { None } else { Some(read(against)?) };
    let mut simulation = Simulation::new(&new, old.as_ref(), &Inventory::default());
    let lines = flow_file::read(flows, |line| simulation.record(line))
        .map_err(|source| InputError::Flows { name: flow_file::name(flows), source })?;
    if lines.records == 0 && lines.bad > 0 {
        let lines = plural(lines.bad, "line");
        return Err(InputError::NoRecords { name: flow_file::name(flows), lines });
    }
    let mut summary = simulation.summary();
    if old.is_some() {
        summary.pairs.retain(|(_, _, tally)| tally.changed > 0);
    }
    let finding = summary.total.changed > 0;
    let text = match output {
        Output::Json => output::json(&Report::new(summary, &lines)),
        Output::Human => render(&summary, &lines),
    };
    Ok(Outcome { text, finding })
}

fn render(summary: &Summary, lines: &Lines) -> String {
    let mut text = output::plain_lines(&summary.to_string());
    if lines.bad > 0 {
        text += &plural(lines.bad, "line");
        text += " left out: no flow records\n";
    }
    text
}

/// What is printed as JSON.
#[derive(Serialize)]
struct Report {
    records: u64,
    bad_lines: usize,
    unattributed: u64,
    left_alone: u64,
    total: Tally,
    pairs: Vec<Pair>,
    changes: Vec<ChangedFlow>,
    other_changes: u64,
}

#[derive(Serialize)]
struct Pair {
    from: String,
    to: String,
    #[serde(flatten)]
    tally: Tally,
}

impl Report {
    fn new(summary: Summary, lines: &Lines) -> Self {
        let Summary { records, unattributed, left_alone, total, pairs, changes, other_changes } = summary;
        let pairs = pairs.into_iter().map(|(from, to, tally)| Pair { from, to, tally }).collect();
        Self { records, bad_lines: lines.bad, unattributed, left_alone, total, pairs, changes, other_changes }
    }
}

//! `bulkhead simulate`.

use bulkhead_policy::{Inventory, Simulation, Summary};
use serde::Serialize;

use crate::{
    cli::{Output, SimulateArguments},
    flow_file,
    input::{self, InputError},
    output::{self, Outcome, plural},
};

/// What is printed as JSON.
#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    summary: Summary,
    bad_lines: usize,
}

/// Puts recorded flows to a policy.
pub(crate) fn simulate(arguments: &SimulateArguments, output: Output) -> Result<Outcome, InputError> {
    let SimulateArguments { policy, flows, against } = arguments;
    let new = input::policy(&policy.paths)?;
    let old = if against.is_empty() { None } else { Some(input::policy(against)?) };
    let mut simulation = Simulation::new(&new, old.as_ref(), &Inventory::default());
    let lines = flow_file::read(flows, |line| simulation.record(line))
        .map_err(|source| InputError::Flows { path: flows.clone(), source })?;
    if lines.records == 0 && lines.bad > 0 {
        let lines = plural(lines.bad, "line");
        return Err(InputError::NoRecords { path: flows.clone(), lines });
    }
    let mut summary = simulation.summary();
    if old.is_some() {
        summary.pairs.retain(|(_, _, tally)| tally.changed > 0);
    }
    let finding = summary.total.changed > 0;
    let text = match output {
        Output::Json => output::json(&Report { summary, bad_lines: lines.bad }),
        Output::Human => {
            let mut text = output::plain_lines(&summary.to_string());
            if lines.bad > 0 {
                text += &plural(lines.bad, "line");
                text += " left out: no flow records\n";
            }
            text
        }
    };
    Ok(Outcome { text, finding })
}

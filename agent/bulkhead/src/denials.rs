//! `bulkhead denials`.

use std::{io, path::Path};

use bulkhead_report::{Denial, lines as in_lines, plain};
use jiff::Timestamp;

use crate::{
    cli::{DenialsArguments, Output},
    control::{DENIALS, WantedDenials, lines},
    output,
    records::{self, Shown},
};

/// Shows what the agent on `socket` tells of refusals.
pub(crate) async fn show(socket: &Path, arguments: &DenialsArguments, output: Output) -> anyhow::Result<()> {
    let wanted = WantedDenials {
        follow: arguments.part.follow,
        since: arguments.part.since(Timestamp::now()),
        limit: Some(arguments.part.limit()),
        workload: arguments.workload.clone(),
        verdict: arguments.verdict.clone(),
    };
    let told = lines(socket, DENIALS, &wanted, wanted.follow).await?;
    let color = output::color(&io::stdout());
    let shown = match output {
        Output::Json => Shown::AsTold,
        // What another version has written is still there to be read.
        Output::Human => Shown::ForPeople(&|line| {
            Denial::from_json(line).map_or_else(|_| plain(line) + "\n", |denial| in_lines(&denial, color))
        }),
    };
    records::show(told, shown).await
}

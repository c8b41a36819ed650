//! `bulkhead detach`: ends enforcement, with an agent or without.

use std::path::Path;

use bulkhead_datapath::DatapathError;

use crate::{cli::Output, output::plural};

/// Removes all pins, and tells how many programs that has detached.
pub(crate) fn detach(bpffs: &Path, output: Output) -> Result<String, DatapathError> {
    let detached = bulkhead_datapath::detach(bpffs)?;
    Ok(match output {
        Output::Json => format!("{}\n", serde_json::json!({ "detached": detached, "bpffs": bpffs })),
        Output::Human if detached == 0 => {
            format!("nothing was attached by pins in {}\n", bpffs.display())
        }
        Output::Human => format!(
            "detached {}: nothing is enforced any more. An agent that still runs will not attach anything again; stop it\n",
            plural(detached, "program")
        ),
    })
}

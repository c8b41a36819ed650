//! `bulkhead diff`.

use std::slice;

use bulkhead_policy::{Inventory, diff as compared};

use crate::{
    cli::{DiffArguments, Output},
    input::{self, InputError},
    output::{self, Outcome},
};

/// Says what access changes from one policy to another.
pub(crate) fn diff(arguments: &DiffArguments, output: Output) -> Result<Outcome, InputError> {
    let [old, new] = [&arguments.old, &arguments.new].map(slice::from_ref);
    input::standard_input_once(&[old, new])?;
    let [old, new] = [old, new].map(input::policy);
    let difference = compared(&old?, &new?, &Inventory::default(), input::now_ns());
    let text = match output {
        Output::Json => output::json(&difference),
        Output::Human if difference.is_empty() => "no difference in access\n".to_owned(),
        Output::Human => output::plain_lines(&difference.to_string()),
    };
    Ok(Outcome { text, finding: !difference.is_empty() })
}

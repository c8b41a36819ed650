//! The few inputs that are worth keeping.

use std::collections::BTreeSet;

/// An input and the numbers of what it reaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Input {
    pub(super) path: String,
    reaches: BTreeSet<u32>,
}

/// Reads libFuzzer's merge control file: two counts, the files, and `FT <file> <feature>…` for each that was run.
pub(super) fn inputs(control: &str) -> Option<Vec<Input>> {
    let mut lines = control.lines();
    let files: usize = lines.next()?.parse().ok()?;
    lines.next()?;
    let paths: Vec<_> = lines.by_ref().take(files).collect();
    let features = lines.filter_map(|line| line.strip_prefix("FT "));
    let input = |line: &str| {
        let mut numbers = line.split_whitespace().map(str::parse);
        let file: usize = numbers.next()?.ok().and_then(|n: u32| n.try_into().ok())?;
        Some(Input { path: (*paths.get(file)?).to_owned(), reaches: numbers.collect::<Result<_, _>>().ok()? })
    };
    features.map(input).collect()
}

/// At most `most` of them, each time the one that reaches most of what is not reached yet; of equals the first.
pub(super) fn worth_keeping(mut inputs: Vec<Input>, most: usize) -> Vec<String> {
    let mut kept = Vec::new();
    while kept.len() < most {
        let best = inputs.iter().enumerate().rev().max_by_key(|(_, input)| input.reaches.len());
        let Some(best) = best.filter(|(_, input)| !input.reaches.is_empty()).map(|(n, _)| n) else { break };
        let Input { path, reaches } = inputs.swap_remove(best);
        for input in &mut inputs {
            input.reaches.retain(|feature| !reaches.contains(feature));
        }
        kept.push(path);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTROL: &str =
        "3\n0\na\nb\nc\nSTARTED 0 9\nFT 0 1 2\nCOV 0 1\nSTARTED 1 9\nFT 1 2 3 4\nSTARTED 2 9\nFT 2 3 4\n";

    #[test]
    fn inputs_that_reach_nothing_of_their_own_are_left_out() {
        let inputs = inputs(CONTROL).unwrap();
        assert_eq!(worth_keeping(inputs.clone(), 9), ["b", "a"]);
        assert_eq!(worth_keeping(inputs, 1), ["b"]);
    }

    #[test]
    fn a_control_file_of_another_form_is_none() {
        assert_eq!(inputs("files: 3"), None);
        assert_eq!(inputs("1\n0\na\nFT 7 1\n"), None);
    }
}

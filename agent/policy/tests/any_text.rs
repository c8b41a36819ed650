//! Whatever a policy file or a record holds: findings, never a panic.

use bulkhead_policy::{Inventory, Simulation, Source, compile, load, run_tests};
use proptest::{collection::vec, prelude::*, sample::select, test_runner::Config};

const WHOLE: &str = include_str!("../../../policies/homelab.toml");

/// What damages a text: nothing, TOML's own signs, other alphabets, a byte order mark.
const PIECES: [&str; 22] = [
    "",
    "\"",
    "'''",
    "[",
    "]]",
    "{",
    "}",
    "=",
    "\n",
    "\r",
    "#",
    ",",
    "ß",
    "日本",
    "\u{feff}",
    "\u{0}",
    "0",
    "e9",
    "any",
    "/",
    "2026-01-01",
    "env:",
];

fn damaged() -> impl Strategy<Value = String> {
    vec((any::<prop::sample::Index>(), 0..40_usize, select(&PIECES[..])), 1..6).prop_map(|edits| {
        let mut text: Vec<char> = WHOLE.chars().collect();
        for (at, length, piece) in edits {
            let start = at.index(text.len().max(1)).min(text.len());
            let end = (start + length).min(text.len());
            text.splice(start..end, piece.chars());
        }
        text.into_iter().collect()
    })
}

proptest! {
    #![proptest_config(Config { cases: 300, failure_persistence: None, ..Config::default() })]

    #[test]
    fn a_damaged_policy_is_read_or_explained(text in damaged()) {
        let source = [Source::new("p", text)];
        match load(&source) {
            Ok(loaded) => {
                compile(&loaded.policy, &Inventory::default());
                run_tests(&loaded.policy, &Inventory::default(), 0);
                loaded.warnings.render(&source, true);
            }
            Err(e) => {
                prop_assert!(e.has_errors());
                prop_assert!(!e.render(&source, true).is_empty());
            }
        }
    }

    #[test]
    fn any_text_is_explained(text in ".{0,60}") {
        let source = [Source::new("p", text)];
        if let Err(e) = load(&source) {
            e.render(&source, false);
        }
    }

    #[test]
    fn any_line_is_a_record_or_an_error(line in ".{0,80}") {
        let loaded = load(&[Source::new("p", WHOLE)]).unwrap();
        let mut simulation = Simulation::new(&loaded.policy, None, &Inventory::default());
        let _ = simulation.record(line.as_bytes());
    }
}

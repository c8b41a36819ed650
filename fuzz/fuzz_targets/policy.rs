//! Any text as a policy: it is read or explained, and what is read can be compiled, tested and put to records.

#![no_main]

use bulkhead_policy::{Inventory, Source, compile, expired_rules, load, run_tests};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    // Half of the text in a second file: names, rules and mistakes of both are looked at together.
    let (first, second) = text.split_once("\n#---\n").unwrap_or((text, ""));
    let sources = [Source::new("first.toml", first), Source::new("second.toml", second)];
    match load(&sources) {
        Ok(loaded) => {
            let _ = loaded.warnings.render(&sources, true);
            let _ = expired_rules(&loaded.policy, u64::MAX).render(&sources, false);
            compile(&loaded.policy, &Inventory::default());
            run_tests(&loaded.policy, &Inventory::default(), 0);
        }
        Err(findings) => {
            assert!(findings.has_errors());
            assert!(!findings.render(&sources, true).is_empty());
            assert!(!findings.to_string().is_empty());
        }
    }
});

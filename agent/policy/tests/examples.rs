//! Every policy in policies/ says what it is meant to say: it loads without a warning that it could heed, and its own tests pass.

use std::{fs, path::Path};

use bulkhead_policy::{Code, Inventory, Source, load, run_tests};

#[test]
fn every_example_keeps_its_promises() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../policies");
    let mut examples: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    examples.retain(|path| path.extension().is_some_and(|e| e == "toml"));
    assert!(examples.len() >= 4, "found only {examples:?}");
    for path in examples {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let source = [Source::new(name.clone(), fs::read_to_string(&path).unwrap())];
        let loaded = load(&source).unwrap_or_else(|e| panic!("{}", e.render(&source, false)));
        // What examples show and no agent follows yet is said of them, too.
        let is_meant = loaded.warnings.iter().all(|w| w.code == Code::NotFollowed);
        assert!(is_meant, "{}", loaded.warnings.render(&source, false));
        let results = run_tests(&loaded.policy, &Inventory::default(), 1_800_000_000_000_000_000);
        assert!(!results.is_empty(), "{name} promises nothing");
        for result in results {
            assert!(result.passed, "{name}:{} {}\n{}", result.line, result.name, result.failures.join("\n"));
        }
    }
}

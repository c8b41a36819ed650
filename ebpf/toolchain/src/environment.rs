//! What the outer build's environment may tell the inner one.

use std::{env, process::Command};

/// What an outer cargo, rustup or clippy sets for its own build, by prefix.
const LEAKING: [&str; 5] = ["CARGO", "RUST", "CLIPPY_", "DEP_", "__CARGO"];

/// What of these speaks of the machine and not of the outer build: where cargo keeps and fetches crates, how it prints,
/// and the job server, by which both builds share the processors.
const KEPT: [&str; 9] = [
    "CARGO_HOME",
    "CARGO_HTTP_",
    "CARGO_MAKEFLAGS",
    "CARGO_NET_",
    "CARGO_REGISTR",
    "CARGO_SOURCE_",
    "CARGO_TERM_",
    "RUSTUP_HOME",
    "RUST_BACKTRACE",
];

/// Takes the outer build's settings out of a command's environment.
pub(crate) fn isolate(command: &mut Command) {
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(leaks) {
            command.env_remove(name);
        }
    }
}

fn leaks(name: &str) -> bool {
    LEAKING.iter().any(|prefix| name.starts_with(prefix))
        && !KEPT.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::leaks;

    #[test]
    fn settings_of_the_outer_build_stay_outside() {
        for name in [
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_TARGET_DIR",
            "CARGO_PROFILE_RELEASE_LTO",
            "RUSTC",
            "RUSTC_WORKSPACE_WRAPPER",
            "RUSTFLAGS",
            "RUSTUP_TOOLCHAIN",
            "CLIPPY_ARGS",
        ] {
            assert!(leaks(name), "{name} would disturb the inner build");
        }
    }

    #[test]
    fn settings_of_the_machine_come_along() {
        for name in [
            "CARGO_HOME",
            "CARGO_HTTP_PROXY",
            "CARGO_MAKEFLAGS",
            "CARGO_REGISTRIES_CRATES_IO_PROTOCOL",
            "PATH",
        ] {
            assert!(!leaks(name), "the inner build needs {name}");
        }
    }
}

//! `[history]` of agent.toml: how much is kept of what was refused and what has passed.

use std::time::Duration;

use bulkhead_report::Limits;
use serde::{Deserialize, Deserializer, de::Error};

use crate::span;

/// The least that is of any use.
const LEAST: u64 = 8 << 20;

/// `[history]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct History {
    pub(super) enabled: bool,
    #[serde(deserialize_with = "size")]
    pub(super) max_size: u64,
    #[serde(deserialize_with = "age")]
    pub(super) max_age: Duration,
}

/// Its keys, for suggestions.
pub(super) const KEYS: [&str; 3] = ["enabled", "max-size", "max-age"];

impl Default for History {
    fn default() -> Self {
        Self { enabled: true, max_size: 64 << 20, max_age: Duration::from_hours(30 * 24) }
    }
}

impl History {
    /// How much is kept; none: nothing is.
    pub(super) fn limits(self) -> Option<Limits> {
        self.enabled.then_some(Limits { size: self.max_size, age: self.max_age })
    }
}

/// `64 MiB`.
fn size<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let text = String::deserialize(from)?;
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match text[digits.len()..].trim() {
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return Err(D::Error::custom("a size such as \"64 MiB\" or \"1 GiB\" is expected")),
    };
    let number: u64 = digits.parse().map_err(|_| D::Error::custom("a whole number is expected"))?;
    let bytes = number.saturating_mul(1 << unit);
    if (LEAST..=1 << 40).contains(&bytes) {
        Ok(bytes)
    } else {
        Err(D::Error::custom("it has to be between 8 MiB and 1024 GiB"))
    }
}

/// `30 days`.
fn age<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    span::parse(&String::deserialize(from)?).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::{super::tests::parse, *};

    fn history(text: &str) -> Result<History, String> {
        parse(&format!("[history]\n{text}\n")).map(|file| file.history)
    }

    #[test]
    fn a_history_is_kept_unless_it_is_said_otherwise() {
        let usual = parse("").unwrap().history.limits();
        assert_eq!(usual, Some(Limits { size: 64 << 20, age: Duration::from_hours(720) }));
        assert_eq!(history("enabled = false").unwrap().limits(), None);
        let other = history("max-size = \"1GiB\"\nmax-age = \"90 days\"").unwrap();
        assert_eq!((other.max_size, other.max_age), (1 << 30, Duration::from_hours(90 * 24)));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, error) in [
            ("max-size = \"64 MB\"", "a size such as \"64 MiB\""),
            ("max-size = \"MiB\"", "a whole number"),
            ("max-size = \"1 MiB\"", "between 8 MiB and"),
            ("max-age = \"30 nights\"", "a time such as 2h"),
            ("max-age = 30", "expected a string"),
            ("maxsize = \"64 MiB\"", "help: did you mean `max-size`?"),
        ] {
            let said = history(text).unwrap_err();
            assert!(said.contains(error), "{text}: {said}");
        }
    }
}

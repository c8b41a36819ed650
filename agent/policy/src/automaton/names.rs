//! Names of directories, one by one or by how they begin and end.

use crate::language::Pattern;

/// A name, or every name that a lookup does not tell apart.
#[derive(Clone, Copy, Debug)]
pub(super) enum Name<'a> {
    /// This one.
    Whole(&'a str),
    /// Those that begin and end so, without the two overlapping, and of which no pattern at hand wants more.
    Ends { prefix: &'a str, suffix: &'a str },
}

/// A pattern with a wildcard, cut at its first and last one.
#[derive(Clone, Debug)]
pub(super) struct Starred {
    pub(super) prefix: String,
    pub(super) suffix: String,
    /// Is there more between the two than a wildcard?
    more: bool,
    pattern: Pattern,
}

impl Starred {
    /// None if the pattern has no wildcard.
    pub(super) fn new(pattern: &Pattern) -> Option<Self> {
        let text = pattern.as_str();
        let (prefix, rest) = text.split_once('*')?;
        let (middle, suffix) = rest.rsplit_once('*').unwrap_or(("", rest));
        Some(Self {
            prefix: prefix.to_owned(),
            suffix: suffix.to_owned(),
            more: middle.contains(|c| c != '*'),
            pattern: pattern.clone(),
        })
    }

    /// Does the name match? None: some do.
    pub(super) fn matches(&self, name: Name<'_>) -> Option<bool> {
        match name {
            Name::Whole(name) => Some(self.pattern.matches(name)),
            Name::Ends { prefix, suffix } => {
                let fits = prefix.starts_with(&self.prefix) && suffix.ends_with(&self.suffix);
                (!fits || !self.more).then_some(fits)
            }
        }
    }
}

impl Name<'_> {
    /// The least number of its characters, and whether there are no more.
    pub(super) fn length(self) -> (usize, bool) {
        match self {
            Self::Whole(name) => (name.chars().count(), true),
            Self::Ends { prefix, suffix } => {
                ((prefix.chars().count() + suffix.chars().count()).max(1), false)
            }
        }
    }

    /// Is it a slice of systemd? It compares the suffix to the letter.
    pub(super) fn is_slice(self) -> bool {
        match self {
            Self::Whole(name) => name.ends_with(SLICE),
            Self::Ends { suffix, .. } => suffix.ends_with(SLICE),
        }
    }
}

/// How the names of slices end.
pub(super) const SLICE: &str = ".slice";

/// The names that begin with `prefix` and end with `suffix` where the two overlap.
pub(super) fn overlaps(prefix: &str, suffix: &str) -> impl Iterator<Item = String> {
    let common = (1..=prefix.len().min(suffix.len())).filter(|&k| suffix.is_char_boundary(k));
    common.filter(|&k| prefix.ends_with(&suffix[..k])).map(move |k| prefix.to_owned() + &suffix[k..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_begins_and_ends_so_may_overlap() {
        let names: Vec<_> = overlaps("abab", "abc").collect();
        assert_eq!(names, ["ababc"]);
        let names: Vec<_> = overlaps("aa", "aaa").collect();
        assert_eq!(names, ["aaaa", "aaa"]);
    }
}

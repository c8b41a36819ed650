//! Globs over cgroup paths.

use std::fmt;

use super::selector::LONGEST_NAME;

/// A glob over the components of a path: `*` matches within a component, `**` any number of components, none
/// included.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Glob {
    parts: Vec<Part>,
}

/// One component of a glob.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Part {
    /// `**`
    Any,
    /// One directory.
    One(Pattern),
}

/// A glob over one component: literal text with `*` between.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern(String);

impl Pattern {
    /// The pattern written as `text`.
    pub(super) fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// Does `name` match?
    pub fn matches(&self, name: &str) -> bool {
        // Greedy with one point to come back to: linear in the pattern for each character of the name.
        let (pattern, name) = (self.0.as_bytes(), name.as_bytes());
        let (mut p, mut n, mut retry) = (0, 0, None);
        while n < name.len() {
            if pattern.get(p) == Some(&b'*') {
                retry = Some((p + 1, n));
                p += 1;
            } else if pattern.get(p) == Some(&name[n]) {
                p += 1;
                n += 1;
            } else if let Some((after_star, from)) = retry {
                retry = Some((after_star, from + 1));
                p = after_star;
                n = from + 1;
            } else {
                return false;
            }
        }
        pattern[p..].iter().all(|b| *b == b'*')
    }

    /// As policies write it.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Is it one name, spelt out?
    pub fn is_literal(&self) -> bool {
        !self.0.contains('*')
    }

    /// How specific it is: its literal characters first, then whether it has a wildcard.
    pub fn specificity(&self) -> usize {
        2 * self.literals() + usize::from(self.is_literal())
    }

    fn literals(&self) -> usize {
        self.0.chars().filter(|c| *c != '*').count()
    }

    /// Can one name match both?
    pub fn meets(&self, other: &Self) -> bool {
        let (a, b) = (self.0.as_bytes(), other.0.as_bytes());
        let literal = |c: &(&u8, &u8)| *c.0 != b'*' && *c.1 != b'*';
        let differs = |(a, b): (&u8, &u8)| a != b;
        // What stands before the first star and after the last one tells most apart at once.
        if a.iter().zip(b).take_while(literal).any(differs)
            || a.iter().rev().zip(b.iter().rev()).take_while(literal).any(differs)
        {
            return false;
        }
        let star = |p: &[u8], at: usize| p.get(at) == Some(&b'*');
        // reach[j]: the patterns can be walked together up to a[..i], b[..j].
        let mut reach = vec![false; b.len() + 1];
        reach[0] = true;
        for i in 0..=a.len() {
            let above = if i == 0 {
                vec![false; b.len() + 1]
            } else {
                std::mem::replace(&mut reach, vec![false; b.len() + 1])
            };
            for j in 0..=b.len() {
                let start = i == 0 && j == 0;
                let skip_a = i > 0 && above[j] && (star(a, i - 1) || star(b, j));
                let skip_b = j > 0 && reach[j - 1] && (star(b, j - 1) || star(a, i));
                let same = i > 0 && j > 0 && above[j - 1] && a[i - 1] == b[j - 1];
                reach[j] = start || skip_a || skip_b || same;
            }
        }
        reach[b.len()]
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Glob {
    /// The glob written as `text`; the error says what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let Some(path) = text.strip_prefix('/') else {
            return Err("a cgroup path starts with `/`");
        };
        let mut parts = Vec::new();
        for part in path.split('/') {
            parts.push(match part {
                // A path may end in one slash, as `cd` would take it.
                "" => continue,
                "**" => Part::Any,
                "." | ".." => return Err("a cgroup path has no `.` or `..`"),
                p if p.contains("**") => return Err("`**` stands alone between two slashes"),
                p if p.contains(['\0', '\n']) => {
                    return Err("no cgroup's name has a line break or NUL in it");
                }
                p if p.bytes().filter(|b| *b != b'*').count() > LONGEST_NAME => {
                    return Err("no cgroup's name has more than 255 bytes");
                }
                p => Part::One(Pattern::new(p)),
            });
        }
        if text.contains("//") {
            return Err("a cgroup path has no empty component");
        }
        // A match covers what is below it: `/a/**` and `/a` are the same selector.
        while parts.last() == Some(&Part::Any) {
            parts.pop();
        }
        parts.dedup_by(|a, b| *a == Part::Any && *b == Part::Any);
        Ok(Self { parts })
    }

    /// Its components.
    pub(crate) fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Does it match exactly this directory?
    pub fn matches<'n>(&self, path: impl IntoIterator<Item = &'n str>) -> bool {
        // here[i]: the parts up to i match what was read.
        let mut here = vec![false; self.parts.len() + 1];
        here[0] = true;
        self.close(&mut here);
        for name in path {
            let mut next = vec![false; here.len()];
            for (i, part) in self.parts.iter().enumerate().filter(|(i, _)| here[*i]) {
                match part {
                    Part::Any => next[i] = true,
                    Part::One(pattern) => next[i + 1] |= pattern.matches(name),
                }
            }
            self.close(&mut next);
            here = next;
        }
        here[self.parts.len()]
    }

    /// `**` may match nothing.
    fn close(&self, reached: &mut [bool]) {
        for (i, part) in self.parts.iter().enumerate() {
            if reached[i] && *part == Part::Any {
                reached[i + 1] = true;
            }
        }
    }

    /// Is it one path, spelt out?
    pub fn is_literal(&self) -> bool {
        self.parts.iter().all(|p| matches!(p, Part::One(pattern) if pattern.is_literal()))
    }

    /// How specific it is: its literal characters and the slashes before them first, then whether it has a wildcard.
    pub fn specificity(&self) -> usize {
        let literals: usize = self.components().map(|p| 1 + p.literals()).sum();
        2 * literals + usize::from(self.is_literal())
    }

    /// The least number of directories on the way to a match.
    pub fn depth(&self) -> usize {
        self.components().count()
    }

    /// Does it begin with `**`?
    pub fn is_floating(&self) -> bool {
        self.parts.first().is_none_or(|p| *p == Part::Any)
    }

    /// Can one directory match both?
    pub fn meets(&self, other: &Self) -> bool {
        let (a, b) = (&self.parts, &other.parts);
        let mut reach = vec![vec![false; b.len() + 1]; a.len() + 1];
        reach[0][0] = true;
        for i in 0..=a.len() {
            for j in 0..=b.len() {
                let any_a = i > 0 && a[i - 1] == Part::Any;
                let any_b = j > 0 && b[j - 1] == Part::Any;
                let came = |i: usize, j: usize| reach[i][j];
                let met = (any_a && came(i - 1, j))
                    || (any_b && came(i, j - 1))
                    || (i > 0 && came(i - 1, j) && b.get(j) == Some(&Part::Any))
                    || (j > 0 && came(i, j - 1) && a.get(i) == Some(&Part::Any))
                    || match (i.checked_sub(1).map(|i| &a[i]), j.checked_sub(1).map(|j| &b[j])) {
                        (Some(Part::One(p)), Some(Part::One(q))) => came(i - 1, j - 1) && p.meets(q),
                        _ => false,
                    };
                reach[i][j] |= met;
            }
        }
        reach[a.len()][b.len()]
    }

    fn components(&self) -> impl Iterator<Item = &Pattern> {
        self.parts.iter().filter_map(|p| match p {
            Part::One(pattern) => Some(pattern),
            Part::Any => None,
        })
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.parts.is_empty() {
            return f.write_str("/**");
        }
        self.parts.iter().try_for_each(|part| match part {
            Part::Any => f.write_str("/**"),
            Part::One(pattern) => write!(f, "/{pattern}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn glob(s: &str) -> Glob {
        Glob::parse(s).unwrap_or_else(|e| panic!("{s}: {e}"))
    }

    fn matches(g: &str, path: &str) -> bool {
        glob(g).matches(path.split('/').filter(|c| !c.is_empty()))
    }

    #[test]
    fn a_star_stays_within_a_component() {
        assert!(matches("/ci.slice/job-*.scope", "/ci.slice/job-7.scope"));
        assert!(matches("/ci.slice/job-*.scope", "/ci.slice/job-.scope"));
        assert!(!matches("/ci.slice/job-*.scope", "/ci.slice/job-7/x.scope"));
        assert!(!matches("/ci.slice/*", "/ci.slice"));
        assert!(matches("/*a*b*", "/xaxbx"));
        assert!(!matches("/*a*b", "/xaxbx"));
    }

    #[test]
    fn two_stars_cross_components_and_may_be_none() {
        assert!(matches("/a/**/z", "/a/z"));
        assert!(matches("/a/**/z", "/a/b/c/z"));
        assert!(!matches("/a/**/z", "/a/b/c"));
        assert!(matches("/**/z", "/z"));
        assert_eq!(glob("/a/**"), glob("/a"));
        assert_eq!(glob("/a/**/**/b"), glob("/a/**/b"));
        assert!(matches("/**", "/"));
    }

    #[test]
    fn globs_that_can_match_one_directory_meet() {
        for (a, b, meet) in [
            ("/a/*", "/*/b", true),
            ("/a/*", "/b/*", false),
            ("/a/**/z", "/a/b", false),
            ("/a/**/z", "/*/*/z", true),
            ("/**/z", "/a/**/y", false),
            ("/x*1", "/x2*", true),
            ("/x*1", "/y*1", false),
            ("/**/b", "/a/b", true),
            ("/a/b", "/a", false),
            ("/ab*", "/*bc", true),
        ] {
            assert_eq!(glob(a).meets(&glob(b)), meet, "{a} {b}");
            assert_eq!(glob(b).meets(&glob(a)), meet, "{b} {a}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for s in ["ci.slice", "/a/x**", "/a//b", "//a", "/../a", ""] {
            assert!(Glob::parse(s).is_err(), "{s}");
        }
    }
}

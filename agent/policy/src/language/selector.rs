use std::{collections::BTreeMap, fmt};

use super::{Glob, Pattern};
use crate::text::nearest;

/// What names the processes of a workload.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Selector {
    /// A unit of the system manager, or several by a glob: never a unit of a user's own manager.
    Systemd(Pattern),
    /// Cgroups by their path, and everything below them.
    Cgroup(Glob),
    /// Containers. What is left out matches all.
    Container {
        /// The container's name.
        name: Option<Pattern>,
        /// The name of its image.
        image: Option<Pattern>,
        /// Its labels.
        labels: BTreeMap<String, Pattern>,
    },
    /// Kubernetes pods.
    Kubernetes {
        /// Their namespace.
        namespace: Pattern,
        /// Their labels.
        labels: BTreeMap<String, Pattern>,
    },
}

/// Types of units that have a cgroup (systemd.unit(5)).
const UNIT_TYPES: [&str; 6] = ["service", "socket", "scope", "slice", "mount", "swap"];

/// And those that have none.
const IDLE_UNIT_TYPES: [&str; 5] = ["automount", "device", "path", "target", "timer"];

/// The longest name of a unit and of a directory, in bytes (UNIT_NAME_MAX, NAME_MAX).
pub(super) const LONGEST_NAME: usize = 255;

/// What to write instead of nothing.
const NO_NAME: &str = "write the name of a unit or the path of a cgroup, or leave it out of the list";

impl Selector {
    /// The systemd selector written as `text`; the error says what is wrong and what to write.
    pub(super) fn systemd(text: &str) -> Result<Self, (String, Option<String>)> {
        if text.contains('/') {
            return Err((
                format!("`{text}` is no unit name"),
                Some("a unit's name has no `/`; to select a path, write `cgroup = \"/…\"`".into()),
            ));
        }
        // unit_name_is_valid() in systemd's src/basic/unit-name.c.
        let good = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@*".contains(c);
        if let Some(bad) = text.chars().find(|c| !good(*c)) {
            return Err((
                format!("`{text}` is no unit name: it has {bad:?}"),
                Some("systemd writes such a character as `\\xNN`, as `systemctl` shows".into()),
            ));
        }
        if text.len() > LONGEST_NAME {
            return Err((
                format!("a unit's name has at most {LONGEST_NAME} bytes, and not {}", text.len()),
                None,
            ));
        }
        match text.rsplit_once('.') {
            _ if text.is_empty() => Err(("this selects nothing".into(), Some(NO_NAME.into()))),
            Some(("", kind)) => Err((
                format!("`{text}` has no name before the unit's type"),
                Some(format!("did you mean `*.{kind}`, which is every {kind}?")),
            )),
            Some((_, kind)) if UNIT_TYPES.contains(&kind) => Ok(Self::Systemd(Pattern::new(text))),
            Some((_, kind)) if IDLE_UNIT_TYPES.contains(&kind) => Err((
                format!("units of type `{kind}` have no processes"),
                Some(format!("types with processes are {}", UNIT_TYPES.join(", "))),
            )),
            Some((_, kind)) if let Some(help) = nearest(kind, UNIT_TYPES) => {
                Err((format!("`{text}` is of no type that units have"), Some(help)))
            }
            _ => Err((
                format!("`{text}` lacks the unit's type"),
                Some(format!("did you mean `{text}.service`?")),
            )),
        }
    }

    /// The cgroup selector written as `text`; the error says what is wrong.
    pub(super) fn cgroup(text: &str) -> Result<Self, (String, Option<String>)> {
        if text.is_empty() {
            return Err(("this selects nothing".into(), Some(NO_NAME.into())));
        }
        match Glob::parse(text) {
            Ok(glob) if glob.depth() > MAX_DEPTH => Err((
                format!("`{text}` lies {} levels deep", glob.depth()),
                Some(format!(
                    "a selected cgroup is at most {MAX_DEPTH} levels below the root; what is below it may be deeper"
                )),
            )),
            Ok(glob) => Ok(Self::Cgroup(glob)),
            Err(fault) => {
                let help = (!text.starts_with('/')).then(|| format!("write \"/{text}\""));
                Err((format!("{fault}, unlike `{text}`"), help))
            }
        }
    }

    /// If this selector matches exactly the directory at the end of `path`: how specific the match is. Literal
    /// characters count, and of two selectors with as many the one without a wildcard is the more specific.
    ///
    /// A systemd unit has one place in the tree, so that what is above it counts as spelt out.
    pub(crate) fn matches_cgroup(&self, path: &[&str], delegated: bool) -> Option<usize> {
        match self {
            Self::Systemd(unit) => {
                let (name, above) = path.split_last()?;
                let is_system_unit = !delegated && above.iter().all(|dir| is_slice(dir));
                let above = above.iter().map(|dir| 1 + dir.chars().count()).sum::<usize>();
                (is_system_unit && unit.matches(name)).then(|| 2 * (above + 1) + unit.specificity())
            }
            Self::Cgroup(glob) => glob.matches(path.iter().copied()).then(|| glob.specificity()),
            Self::Container { .. } | Self::Kubernetes { .. } => None,
        }
    }

    /// What it has in common with every selector that it can tie with.
    pub(crate) fn likeness(&self) -> Likeness {
        match self {
            Self::Systemd(unit) if unit.is_literal() => Likeness::Spelt(unit.to_string()),
            Self::Systemd(unit) => Likeness::Globs(unit.specificity()),
            Self::Cgroup(glob) if glob.is_literal() => {
                let path = glob.to_string();
                Likeness::Spelt(path.rsplit('/').next().unwrap_or_default().to_owned())
            }
            Self::Cgroup(glob) => Likeness::Globs(glob.specificity()),
            Self::Container { .. } | Self::Kubernetes { .. } => Likeness::Spelt(self.to_string()),
        }
    }

    /// Can one directory match both with equal right?
    pub(crate) fn ties_with(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Systemd(a), Self::Systemd(b)) => a.specificity() == b.specificity() && a.meets(b),
            (Self::Cgroup(a), Self::Cgroup(b)) => a.specificity() == b.specificity() && a.meets(b),
            // A path spelt out that is the unit's: both name one directory.
            (Self::Systemd(unit), Self::Cgroup(glob)) | (Self::Cgroup(glob), Self::Systemd(unit)) => {
                let path = glob.to_string();
                let path: Vec<_> = path.split('/').skip(1).collect();
                let spelt = Self::Systemd(unit.clone()).matches_cgroup(&path, false);
                glob.is_literal() && spelt == Some(glob.specificity())
            }
            _ => self == other,
        }
    }
}

/// Selectors can tie only if they have this in common: what is spelt out is never as specific as a glob.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Likeness {
    /// The last name of a path that is spelt out, or all of a selector by facts.
    Spelt(String),
    /// How specific a glob is.
    Globs(usize),
}

/// systemd compares the suffix to the letter.
fn is_slice(unit: &str) -> bool {
    unit.rsplit_once('.').is_some_and(|(_, kind)| kind == "slice")
}

/// Deepest level of a directory that a selector may match.
pub(crate) const MAX_DEPTH: usize = bulkhead_common::MAX_CGROUP_LEVEL.unsigned_abs() as usize;

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = |f: &mut fmt::Formatter<'_>, facts: Vec<String>| f.write_str(&facts.join(" "));
        let labels = |labels: &BTreeMap<String, Pattern>| {
            labels.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>()
        };
        match self {
            Self::Systemd(unit) => write!(f, "systemd {unit}"),
            Self::Cgroup(glob) => write!(f, "cgroup {glob}"),
            Self::Container { name, image, labels: l } => {
                let name = name.iter().map(|n| format!("name={n}"));
                let image = image.iter().map(|i| format!("image={i}"));
                f.write_str("container ")?;
                all(f, name.chain(image).chain(labels(l)).collect())
            }
            Self::Kubernetes { namespace, labels: l } => {
                f.write_str("kubernetes ")?;
                all(f, std::iter::once(format!("namespace={namespace}")).chain(labels(l)).collect())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_named_with_its_type() {
        assert!(Selector::systemd("nginx.service").is_ok());
        assert!(Selector::systemd("web@*.service").is_ok());
        assert!(Selector::systemd("user.slice").is_ok());
        let help = |s| Selector::systemd(s).unwrap_err().1.unwrap();
        assert_eq!(help("nginx"), "did you mean `nginx.service`?");
        assert_eq!(help("nginx.servce"), "did you mean `service`?");
        assert_eq!(help("nginx.Service"), "did you mean `service`?");
        assert_eq!(help("nginx.org"), "did you mean `nginx.org.service`?");
        assert_eq!(help(".service"), "did you mean `*.service`, which is every service?");
        assert!(help("daily.timer").contains("types with processes are service"));
        assert!(help("/system.slice/nginx.service").contains("cgroup = "));
    }

    #[test]
    fn what_no_unit_and_no_directory_is_called_is_refused() {
        for unit in ["", "a b.service", "a\n.service", "a\0.service", "straße.service", "a.service "] {
            assert!(Selector::systemd(unit).is_err(), "{unit:?}");
        }
        let long = "a".repeat(LONGEST_NAME);
        assert!(Selector::systemd(&format!("{long}.service")).is_err());
        assert!(Selector::systemd(&format!("{}.service", &long[8..])).is_ok());
        assert!(Selector::systemd("dev-disk-by\\x2duuid-*.swap").is_ok());
        for path in ["", "//", "//a", "/a//b", "/a//", "/a\nb", "/a\0", &format!("/{long}a")] {
            assert!(Selector::cgroup(path).is_err(), "{path:?}");
        }
        for path in ["/", "/a/", "/a b/straße", &format!("/{long}*")] {
            assert!(Selector::cgroup(path).is_ok(), "{path:?}");
        }
    }

    #[test]
    fn a_selector_deeper_than_the_kernel_looks_is_refused() {
        let path = |n| "/d".repeat(n);
        assert!(Selector::cgroup(&path(MAX_DEPTH)).is_ok());
        assert!(Selector::cgroup(&path(MAX_DEPTH + 1)).is_err());
    }

    #[test]
    fn selectors_of_one_directory_tie_only_with_equal_right() {
        let systemd = |s: &str| Selector::systemd(s).unwrap();
        let cgroup = |s: &str| Selector::cgroup(s).unwrap();
        assert!(systemd("nginx.service").ties_with(&systemd("nginx.service")));
        assert!(systemd("a*.service").ties_with(&systemd("*a.service")));
        assert!(!systemd("nginx.service").ties_with(&systemd("nginx*.service")));
        assert!(systemd("nginx.service").ties_with(&cgroup("/system.slice/nginx.service")));
        assert!(!systemd("nginx.service").ties_with(&cgroup("/system.slice/**")));
        assert!(!systemd("ng*.service").ties_with(&cgroup("/system.slice/nginx.service")));
    }
}

//! Licences of what Bulkhead is built from. cargo-deny knows more, and takes minutes to install on a fresh machine.

/// Those that ask for no more than a notice.
const ACCEPTED: [&str; 10] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Zlib",
];

/// What is wrong with a package's licence, an SPDX expression.
pub(super) fn complaint(licence: Option<&str>) -> Option<String> {
    let Some(licence) = licence else {
        return Some("states no licence".to_owned());
    };
    // How crates wrote "OR" before cargo asked for SPDX.
    let spaced = licence.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    let accepted = any(&mut words) && words.next().is_none();
    (!accepted).then(|| format!("is under {licence}: not an accepted licence"))
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any(words: &mut Words<'_>) -> bool {
    let mut accepted = all(words);
    while words.next_if_eq(&"OR").is_some() {
        accepted |= all(words);
    }
    accepted
}

fn all(words: &mut Words<'_>) -> bool {
    let mut accepted = one(words);
    while words.next_if_eq(&"AND").is_some() {
        accepted &= one(words);
    }
    accepted
}

fn one(words: &mut Words<'_>) -> bool {
    if words.next_if_eq(&"(").is_some() {
        let accepted = any(words);
        return words.next_if_eq(&")").is_some() && accepted;
    }
    let mut name = words.next().unwrap_or_default().to_owned();
    if words.next_if_eq(&"WITH").is_some() {
        name = format!("{name} WITH {}", words.next().unwrap_or_default());
    }
    ACCEPTED.contains(&name.as_str())
}

#[cfg(test)]
mod tests {
    use super::complaint;

    #[test]
    fn one_accepted_alternative_is_enough() {
        for licence in [
            "MIT",
            "MIT OR Apache-2.0",
            "MIT/Apache-2.0",
            "GPL-2.0-only OR MIT",
            "Apache-2.0 WITH LLVM-exception OR GPL-3.0-only",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
        ] {
            assert_eq!(complaint(Some(licence)), None, "{licence}");
        }
    }

    #[test]
    fn a_licence_that_binds_is_refused() {
        for licence in
            ["GPL-3.0-only", "MIT AND GPL-2.0-only", "(MIT OR Apache-2.0) AND SSPL-1.0", "MIT OR", "( MIT"]
        {
            let refused = complaint(Some(licence)).is_some();
            assert_eq!(refused, licence != "MIT OR", "{licence}");
        }
        assert_eq!(complaint(None).as_deref(), Some("states no licence"));
    }
}

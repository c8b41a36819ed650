//! Where this host's own packages come from: the lab fetches from there, too.

use std::fs;

use anyhow::{Context as _, Result};

/// The mirrors that apt's sources name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirrors {
    /// Of the distribution.
    pub main: String,
    /// Of its security updates.
    pub security: Option<String>,
}

/// The mirrors of this host's distribution, from its sources in either format.
pub fn mirrors() -> Result<Mirrors> {
    let id = os_release("ID")?;
    let files = [format!("/etc/apt/sources.list.d/{id}.sources"), "/etc/apt/sources.list".to_owned()];
    let texts = files.iter().filter_map(|file| fs::read_to_string(file).ok()).collect::<Vec<_>>();
    Mirrors::of(&texts.join("\n")).with_context(|| format!("none of {files:?} names a mirror"))
}

/// A field of /etc/os-release.
pub fn os_release(field: &str) -> Result<String> {
    let text = fs::read_to_string("/etc/os-release")?;
    let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix('='));
    Ok(value.with_context(|| format!("/etc/os-release has no {field}"))?.trim_matches('"').to_owned())
}

impl Mirrors {
    fn of(sources: &str) -> Option<Self> {
        let lines = sources.lines().filter(|line| line.starts_with("URIs:") || line.starts_with("deb "));
        let uris = || lines.clone().flat_map(str::split_whitespace).filter(|word| word.contains("://"));
        let security = |uri: &&str| uri.contains("security");
        Some(Self {
            main: uris().find(|uri| !security(uri)).or_else(|| uris().next())?.to_owned(),
            security: uris().find(security).map(str::to_owned),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_are_read() {
        let lines = "# deb http://old/debian x main\ndeb http://a/debian bookworm main\n\
                     deb http://a/debian-security bookworm-security main\n";
        let stanzas = "Types: deb\nURIs: http://a/debian\nSuites: bookworm\n\n\
                       Types: deb\nURIs: http://a/debian-security\nSuites: bookworm-security\n";
        let expected =
            Mirrors { main: "http://a/debian".into(), security: Some("http://a/debian-security".into()) };
        assert_eq!(Mirrors::of(lines), Some(expected.clone()));
        assert_eq!(Mirrors::of(stanzas), Some(expected));
        assert_eq!(Mirrors::of(""), None);
    }
}

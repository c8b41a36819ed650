//! `[[sink]]` of agent.toml: where denials go.

use std::{collections::BTreeSet, path::PathBuf};

use bulkhead_report::{Address, Endpoint};
use serde::Deserialize;

/// Where the system's journal listens.
pub(crate) const JOURNAL: &str = "/run/systemd/journal/socket";

/// One `[[sink]]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Table")]
pub(crate) struct Sink {
    pub(crate) name: String,
    pub(crate) kind: SinkKind,
}

/// What it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SinkKind {
    Stdout,
    File(PathBuf),
    Journald(PathBuf),
    Syslog(Address),
    Otlp(Endpoint),
}

/// As it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    r#type: Type,
    name: Option<String>,
    path: Option<PathBuf>,
    address: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Type {
    Stdout,
    File,
    Journald,
    Syslog,
    Otlp,
}

impl Type {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::File => "file",
            Self::Journald => "journald",
            Self::Syslog => "syslog",
            Self::Otlp => "otlp",
        }
    }
}

/// Why a `[[sink]]` is none.
#[derive(Debug, thiserror::Error)]
pub(super) enum SinkError {
    #[error("a {0} sink has no `{1}`")]
    Needless(&'static str, &'static str),
    #[error("a file sink needs the file's `path`, such as \"/var/log/bulkhead/denials.jsonl\"")]
    NoPath,
    #[error("an otlp sink needs the collector's `address`, such as \"http://127.0.0.1:4318\"")]
    NoEndpoint,
    #[error("`path` must begin with a slash: {}", .0.display())]
    Relative(PathBuf),
    #[error("a sink's `name` is 1 to 64 letters, digits, `-`, `_` and `.`")]
    Name,
    #[error("{0}")]
    Address(#[from] bulkhead_report::AddressError),
    #[error("{0}")]
    Endpoint(#[from] bulkhead_report::EndpointError),
}

impl TryFrom<Table> for Sink {
    type Error = SinkError;

    fn try_from(table: Table) -> Result<Self, SinkError> {
        let Table { r#type, name, path, address } = table;
        let kind = match r#type {
            Type::Stdout => SinkKind::Stdout,
            Type::File => SinkKind::File(path.clone().ok_or(SinkError::NoPath)?),
            Type::Journald => SinkKind::Journald(path.clone().unwrap_or_else(|| JOURNAL.into())),
            Type::Syslog => {
                SinkKind::Syslog(address.as_deref().map(str::parse).transpose()?.unwrap_or_default())
            }
            Type::Otlp => SinkKind::Otlp(address.as_deref().ok_or(SinkError::NoEndpoint)?.parse()?),
        };
        let (with_path, with_address) = match r#type {
            Type::Stdout => (false, false),
            Type::File | Type::Journald => (true, false),
            Type::Syslog | Type::Otlp => (false, true),
        };
        for (key, given, allowed) in
            [("path", path.is_some(), with_path), ("address", address.is_some(), with_address)]
        {
            if given && !allowed {
                return Err(SinkError::Needless(r#type.name(), key));
            }
        }
        if let Some(path) = path.filter(|path| path.is_relative()) {
            return Err(SinkError::Relative(path));
        }
        let name = name.unwrap_or_else(|| r#type.name().to_owned());
        let fits = (1..=64).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if !fits {
            return Err(SinkError::Name);
        }
        Ok(Self { name, kind })
    }
}

/// The first name that two sinks have.
pub(super) fn twice(sinks: &[Sink]) -> Option<&str> {
    let mut names = BTreeSet::new();
    sinks.iter().map(|sink| sink.name.as_str()).find(|name| !names.insert(*name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<Sink>, String> {
        super::super::tests::parse(text).map(|file| file.sink)
    }

    #[test]
    fn each_kind_has_its_place_or_the_usual_one() {
        let sinks = parse(
            "[[sink]]\ntype = \"stdout\"\n\
             [[sink]]\ntype = \"file\"\npath = \"/var/log/denials.jsonl\"\n\
             [[sink]]\ntype = \"journald\"\n\
             [[sink]]\ntype = \"syslog\"\n\
             [[sink]]\ntype = \"syslog\"\nname = \"far\"\naddress = \"tcp://192.0.2.1:601\"\n\
             [[sink]]\ntype = \"otlp\"\naddress = \"http://127.0.0.1:4318\"\n",
        )
        .unwrap();
        let named: Vec<_> = sinks.iter().map(|sink| (sink.name.as_str(), &sink.kind)).collect();
        assert_eq!(
            named,
            [
                ("stdout", &SinkKind::Stdout),
                ("file", &SinkKind::File("/var/log/denials.jsonl".into())),
                ("journald", &SinkKind::Journald(JOURNAL.into())),
                ("syslog", &SinkKind::Syslog(Address::default())),
                ("far", &SinkKind::Syslog(Address::Tcp("192.0.2.1:601".into()))),
                ("otlp", &SinkKind::Otlp("http://127.0.0.1:4318".parse().unwrap())),
            ]
        );
    }

    #[test]
    fn what_is_wrong_with_a_sink_is_said_with_its_line() {
        for (text, error) in [
            (
                "type = \"file\"",
                "a file sink needs the file's `path`, such as \"/var/log/bulkhead/denials.jsonl\"",
            ),
            ("type = \"file\"\npath = \"denials.jsonl\"", "`path` must begin with a slash: denials.jsonl"),
            ("type = \"stdout\"\npath = \"/denials\"", "a stdout sink has no `path`"),
            ("type = \"journald\"\naddress = \"/run/socket\"", "a journald sink has no `address`"),
            (
                "type = \"otlp\"",
                "an otlp sink needs the collector's `address`, such as \"http://127.0.0.1:4318\"",
            ),
            ("type = \"otlp\"\naddress = \"https://logs\"", "HTTPS is not supported"),
            ("type = \"syslog\"\naddress = \"logs\"", "`logs` is no address of a syslog"),
            ("type = \"stdout\"\nname = \"a b\"", "a sink's `name` is 1 to 64"),
            (
                "type = \"stdout\"\n[[sink]]\ntype = \"stdout\"",
                "two sinks are called `stdout`: give one another `name`",
            ),
            ("type = \"jornald\"", "help: did you mean `journald`?"),
            ("type = \"file\"\npaths = \"/denials\"", "help: did you mean `path`?"),
            ("name = \"nothing\"", "missing field `type`"),
        ] {
            let said = parse(&format!("[[sink]]\n{text}\n")).unwrap_err();
            assert!(said.contains(error) && said.starts_with("agent.toml: "), "{text}: {said}");
        }
        insta::assert_snapshot!(parse("[agent]\n\n[[sink]]\ntype = \"file\"\n").unwrap_err());
    }
}

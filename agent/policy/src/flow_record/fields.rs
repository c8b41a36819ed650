//! The fields of a record that a policy can be asked about, as they are written, in any JSON.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer};

use super::RecordError;

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Fields<'l> {
    #[serde(borrow)]
    pub(super) time: Cow<'l, str>,
    #[serde(borrow)]
    pub(super) verdict: Cow<'l, str>,
    #[serde(borrow)]
    pub(super) direction: Cow<'l, str>,
    #[serde(borrow)]
    pub(super) protocol: Cow<'l, str>,
    /// Absent in records of other programs: then the peer's port counts, which is the service port of egress.
    #[serde(borrow, default)]
    pub(super) service: Option<Cow<'l, str>>,
    #[serde(borrow)]
    pub(super) workload: Workload<'l>,
    #[serde(borrow)]
    pub(super) peer: Peer<'l>,
    #[serde(borrow, default)]
    pub(super) reason: Option<Cow<'l, str>>,
    #[serde(default = "one")]
    pub(super) count: u64,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(super) struct Workload<'l> {
    #[serde(borrow)]
    pub(super) name: Option<Cow<'l, str>>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Peer<'l> {
    /// Null where a socket was refused before it had a peer.
    #[serde(deserialize_with = "null_or_text")]
    pub(super) address: Option<Cow<'l, str>>,
    #[serde(default)]
    pub(super) port: Option<u16>,
    #[serde(borrow, default)]
    pub(super) name: Option<Cow<'l, str>>,
    /// Of a flow, which has no address: one that its policy took for the same.
    #[serde(borrow, default)]
    pub(super) like: Option<Cow<'l, str>>,
    /// Only a flow has it.
    #[serde(borrow, default)]
    pub(super) is: Option<Vec<Cow<'l, str>>>,
}

/// A field that may be null and not be missing.
fn null_or_text<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    Option::deserialize(from)
}

const fn one() -> u64 {
    1
}

/// The fields of a line in any form.
pub(super) fn read(line: &[u8]) -> Result<Fields<'_>, RecordError> {
    let text = str::from_utf8(line).map_err(|e| RecordError::NotText { column: e.valid_up_to() + 1 })?;
    serde_json::from_str(text).map_err(|e| RecordError::json(&e))
}

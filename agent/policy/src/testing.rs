//! What the tests of this crate share.

use std::net::IpAddr;

use crate::{Policy, Source, language};

/// The policy written as `text`.
#[track_caller]
pub(crate) fn policy(text: &str) -> Policy {
    let source = [Source::new("policy.toml", text)];
    match language::load(&source) {
        Ok(loaded) => loaded.policy,
        Err(e) => panic!("{}", e.render(&source, false)),
    }
}

/// The findings about `text`, one a line.
pub(crate) fn findings(text: &str) -> String {
    match language::load(&[Source::new("p", text)]) {
        Ok(loaded) => loaded.warnings.to_string(),
        Err(e) => e.to_string(),
    }
}

/// The policy written as `text`, with the selectors that it would be refused for.
pub(crate) fn unchecked(text: &str) -> Policy {
    let mut whole = Policy::default();
    for part in text.split_inclusive('}') {
        whole.workloads.extend(policy(part).workloads);
    }
    whole
}

/// The address written as `text`.
pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

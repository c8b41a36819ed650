//! The policy language: text to [`Policy`].

mod cidr;
mod decode;
mod forbid;
mod glob;
mod meeting;
mod model;
mod overlap;
mod ports;
mod resolve;
mod selector;
#[cfg(test)]
mod tests;
mod warn;

pub use cidr::{Cidr, CidrError};
pub(crate) use cidr::{address, bits, mask};
pub(crate) use glob::Part;
pub use glob::{Glob, Pattern};
pub use model::{
    End, Environment, EnvironmentId, Expectation, Forbid, Mode, Peer, Policy, Rule, Test, Workload,
    WorkloadId,
};
pub use ports::{PortSpan, Ports, PortsError};
pub(crate) use selector::MAX_DEPTH;
pub use selector::Selector;
pub use warn::{empty_selectors, expired_rules, unnamed_resolvers};

use crate::text::{Diagnostics, Findings, Source};

/// A policy that compiles, and what its author should know all the same.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The policy.
    pub policy: Policy,
    /// What probably is not meant as it is written.
    pub warnings: Diagnostics,
}

/// Reads policy files as one policy. The order of the files means nothing but the order of the rules.
///
/// # Errors
/// Everything that is wrong in all files, with the warnings.
pub fn load(sources: &[Source]) -> Result<Loaded, Diagnostics> {
    let mut findings = Findings::default();
    let document = decode::decode(sources, &mut findings);
    // What a misread file declares is unknown: names would be called unknown that are not.
    let resolved = (!document.unreadable).then(|| resolve::resolve(document, &mut findings));
    if let Some(policy) = &resolved {
        forbid::check(policy, &mut findings);
    }
    match resolved {
        Some(policy) if !findings.has_errors() => {
            warn::check(&policy, &mut findings);
            Ok(Loaded { policy, warnings: findings.finish() })
        }
        _ => Err(findings.finish()),
    }
}

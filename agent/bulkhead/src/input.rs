//! What commands that need no agent are given: policies, a time, and what can be wrong with it.

use std::{io, path::PathBuf};

use bulkhead_policy::{Diagnostics, Policy, PortsError, Source, TooManyConnections, UnknownEnd, load};

use crate::{
    here::HereError,
    policy_files::{self, PolicyFilesError},
};

/// Why a command cannot use what it was given.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InputError {
    #[error(transparent)]
    Files(#[from] PolicyFilesError),
    #[error("the policy does not compile; `bulkhead check` shows the same")]
    Policy { sources: Vec<Source>, findings: Diagnostics },
    #[error(transparent)]
    Here(#[from] HereError),
    #[error(transparent)]
    End(#[from] UnknownEnd),
    #[error(transparent)]
    TooMany(#[from] TooManyConnections),
    #[error("--port {text}: {}; {}", .fault.message, .fault.help)]
    Port { text: String, fault: PortsError },
    #[error(
        "--port {0} is more than one connection can be opened to: give one port, such as tcp/443 or icmp/8"
    )]
    SeveralPorts(String),
    #[error("there is no connection from {from} to {to} of which a workload's allowlist decides")]
    NothingToAsk { from: String, to: String },
    #[error(
        "standard input is named twice (`-`) and can be read once: name a file for one of them, or in bash <(COMMAND)"
    )]
    StandardInputTwice,
    #[error("cannot read the flows in {name}")]
    Flows { name: String, source: io::Error },
    #[error("{name} holds no flow record, in {lines}: give what `bulkhead run --output json` printed")]
    NoRecords { name: String, lines: String },
}

/// The policy at `paths`. Warnings are `bulkhead check`'s.
pub(crate) fn policy(paths: &[PathBuf]) -> Result<Policy, InputError> {
    let sources = policy_files::read(paths)?;
    match load(&sources) {
        Ok(loaded) => Ok(loaded.policy),
        Err(findings) => Err(InputError::Policy { sources, findings }),
    }
}

/// Fails if standard input is named for several of these, which are read one by one: to the second it would be empty.
pub(crate) fn standard_input_once(inputs: &[&[PathBuf]]) -> Result<(), InputError> {
    let from_there = |paths: &&&[PathBuf]| paths.iter().any(|path| policy_files::is_standard_input(path));
    if inputs.iter().filter(from_there).count() > 1 { Err(InputError::StandardInputTwice) } else { Ok(()) }
}

/// Nanoseconds since the Unix epoch, for which rules' expiry is judged.
pub(crate) fn now_ns() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(0)
}

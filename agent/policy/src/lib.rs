//! The policy engine: policy text to compiled tables, and everything that can be said of them without a kernel.
//!
//! Text goes in, values come out. Nothing here reads a file, a clock or the network: what depends on the host is
//! handed over as an [`Inventory`], and the time as a number.
//!
//! ```
//! use bulkhead_policy::{Inventory, Source, compile, load};
//!
//! let source = Source::new("web.toml", r#"
//!     [workload.web]
//!     select = { systemd = "nginx.service" }
//!     [[allow]]
//!     from = "any"
//!     to = "web"
//!     ports = ["tcp/443"]
//! "#);
//! let loaded = load(&[source])?;
//! let compiled = compile(&loaded.policy, &Inventory::default());
//! assert_eq!(compiled.policy.len(), 1);
//! # Ok::<(), bulkhead_policy::Diagnostics>(())
//! ```

#![forbid(unsafe_code)]

mod automaton;
mod by_address;
mod changes;
mod compile;
mod connection;
mod content_hash;
mod describe;
mod diff;
mod draft;
mod flow_record;
mod identity;
mod inventory;
mod junit;
mod language;
mod nearest;
mod one_end;
mod own_addresses;
mod parties;
mod prove;
mod question;
mod schema;
mod service;
mod simulate;
mod steps;
#[cfg(test)]
mod testing;
mod text;
mod unresolved;
mod whom;
mod words;

pub use automaton::{Automaton, Leads, Target};
pub use changes::Changes;
pub use compile::{Compiled, Compiler, Edits, NamedClass, PeerClass, compile};
pub use connection::{Connection, EndDecision, Explanation, Party};
pub use content_hash::ContentHash;
pub use describe::describe_peer;
pub use diff::{Access, Change, Difference, diff};
pub use draft::{Draft, NoDraft, draft};
pub use flow_record::RecordError;
pub use identity::{CgroupDir, Identity};
pub use inventory::Inventory;
pub use junit::junit;
pub use language::{
    Cidr, CidrError, End, Environment, EnvironmentId, Expectation, Forbid, Glob, Loaded, Mode, Pattern, Peer,
    Policy, PortSpan, Ports, PortsError, Rule, Selector, Test, Workload, WorkloadId, empty_selectors,
    expired_rules, load, unnamed_resolvers,
};
pub use nearest::{Asked, NearRules, NearestRule, nearest_rule};
pub use one_end::OneEnd;
pub use prove::{TestResult, run_tests};
pub use question::{Answer, TooManyConnections, ask};
pub use schema::json_schema;
pub use service::{protocol_name, service};
pub use simulate::{ChangedFlow, Simulation, Summary, Tally};
pub use text::{Code, Diagnostic, Diagnostics, Place, Severity, Source};
pub use unresolved::Unresolved;
pub use whom::{UnknownEnd, Whom};

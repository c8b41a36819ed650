//! The control API: HTTP and JSON over a Unix socket, for root and the group `bulkhead`.

mod change;
mod client;
mod draft;
mod lines;
mod records;
mod routes;
mod rules;
mod server;
mod shadow;
mod status;
mod traffic;
mod workloads;

pub(crate) use change::{
    Applied, Confirmation, Cut, End, File, NearestRule, Plan, Process, Proposal, Refusal,
};
pub(crate) use client::{ClientError, delete, get, post, put};
pub(crate) use draft::{Drafted, Refused};
pub(crate) use lines::{Lines, lines};
pub(crate) use records::{LostLines, Records, WantedDenials, WantedFlows};
pub(crate) use routes::{Question, Reply};
pub(crate) use rules::{ListedRule, RuleHits, Rules};
pub(crate) use server::{Server, ServerError};
pub(crate) use shadow::{Candidate, Comparison, Shadow};
pub(crate) use status::{Count, Environment, Events, History, Sink, Status, Traffic, Trial, Workload};
pub(crate) use traffic::{CurrentTraffic, WantedTraffic};
pub(crate) use workloads::{DetailedWorkload, WorkloadTraffic};

/// Where the agent tells its [`Status`].
pub(crate) const STATUS: &str = "/v1/status";
/// Where it tells of each workload: [`DetailedWorkload`]s.
pub(crate) const WORKLOADS: &str = "/v1/workloads";
/// Where it tells of each rule: [`Rules`].
pub(crate) const RULES: &str = "/v1/rules";
/// Where it tells what is counted now: [`CurrentTraffic`].
pub(crate) const TRAFFIC: &str = "/v1/traffic";
/// Where it drafts a rule that would allow what was [`Refused`]: [`Drafted`].
pub(crate) const DRAFT: &str = "/v1/draft";
/// Where it tells what a [`Proposal`] would change: a [`Plan`].
pub(crate) const PLAN: &str = "/v1/plan";
/// Where it puts a [`Proposal`] in force: [`Applied`].
pub(crate) const APPLY: &str = "/v1/apply";
/// Where a [`Candidate`] is put to be compared with what is in force ([`Shadow`]), where it tells what has come of that
/// ([`Comparison`]), and where that is ended.
pub(crate) const SHADOW: &str = "/v1/shadow";
/// Where what is in force for a while is put in force for good: [`Applied`].
pub(crate) const CONFIRM: &str = "/v1/confirm";
/// Where it goes back to the policy before: [`Applied`].
pub(crate) const ROLLBACK: &str = "/v1/rollback";
/// Where it tells of refusals, one line for each: those that [`WantedDenials`] asks for.
pub(crate) const DENIALS: &str = "/v1/denials";
/// Where it tells of flows, likewise: those that [`WantedFlows`] asks for.
pub(crate) const FLOWS: &str = "/v1/flows";
/// Where it tells all this in OpenAPI's terms.
pub(crate) const OPENAPI: &str = "/v1/openapi.json";

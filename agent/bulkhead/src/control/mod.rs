//! The control API: HTTP and JSON over a Unix socket, for root alone.

mod client;
mod server;
mod status;

pub(crate) use client::{ClientError, get};
pub(crate) use server::{Question, Server, ServerError};
pub(crate) use status::{Count, Environment, Events, Sink, Status, Traffic, Workload};

/// Where the agent tells its [`Status`].
pub(crate) const STATUS: &str = "/v1/status";

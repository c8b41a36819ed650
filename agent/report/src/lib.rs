//! Refusals as people and programs read them.
//!
//! A record from the kernel passes the [`Coalescer`], which lets the first of a kind through at once and repeats once a
//! second; [`Enricher`] makes it a [`Denial`] with everything that is known of it; [`Lines`] prints it, one line or
//! one JSON object each, without ever holding up who reports.

#![forbid(unsafe_code)]

mod clock;
mod coalesce;
mod denial;
mod departed;
mod enrich;
mod human;
mod lines;
mod policies;
mod process;
mod socket;
mod unit;

pub use coalesce::{Coalescer, Told};
pub use denial::{Denial, NearestRule, Peer, Process, Rule, Workload};
pub use departed::Departed;
pub use enrich::Enricher;
pub use human::plain;
pub use lines::{Format, Lines};
pub use policies::Policies;

//! Refusals as people and programs read them.
//!
//! A record from the kernel passes the [`Coalescer`], which lets the first of a kind through at once and repeats once a
//! second; [`Enricher`] makes it a [`Denial`] with everything that is known of it; [`Sinks`] take it to
//! where it is read, without ever holding up who reports.

#![forbid(unsafe_code)]

mod clock;
mod coalesce;
mod denial;
mod departed;
mod difference;
mod enrich;
mod feed;
mod history;
mod human;
mod json;
mod policies;
mod process;
mod sinks;
mod socket;
mod unit;

pub use clock::time_of_day;
pub use coalesce::{Coalescer, Told};
pub use denial::{Denial, NearestRule, Peer, Process, Rule, Workload};
pub use departed::Departed;
pub use difference::Difference;
pub use enrich::Enricher;
pub use feed::{Feed, Followed, Follower};
pub use history::{
    Count, Counted, Flow, FlowEnd, FlowKind, FlowPeer, History, HistoryError, Hits, Limits, Reached, Record,
    Wanted, Writing,
};
pub use human::{lines, plain};
pub use json::json;
pub use policies::Policies;
pub use sinks::{Account, Address, AddressError, Destination, Endpoint, EndpointError, Format, Kind, Sinks};

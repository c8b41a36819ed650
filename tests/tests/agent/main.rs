//! The built agent under real policies, with real processes in real cgroups and networks.
//!
//! Every test has a lab of its own, so ports may be fixed and names may repeat.

#![forbid(unsafe_code)]

mod api;
mod beginnings;
mod changes;
mod crowds;
mod detours;
mod doctor;
mod export;
mod faults;
mod lifecycle;
mod listings;
mod modes;
mod package;
mod recorded;
mod records;
mod reports;
mod service;
mod sessions;
mod shadow;
mod sockets;
mod survival;
mod systemd;
mod top;
mod workloads;

use bulkhead_tests::{scene as loopback, verdicts};

//! The built agent under real policies, with real processes in real cgroups and networks.
//!
//! Every test has a lab of its own, so ports may be fixed and names may repeat.

#![forbid(unsafe_code)]

mod attacks;
mod evasion;
mod lifecycle;
mod loopback;
mod modes;
mod protocols;
mod recorded;
mod reports;
mod sockets;
mod systemd;
mod verdicts;
mod workloads;

//! A laboratory for tests and the demo: cgroups, network namespaces, real processes in them, and the built agent
//! watching over them. Nothing here touches the root of the cgroup tree or an interface of this machine, and
//! nothing has a name or a port that two labs could share.
//!
//! | module | holds |
//! |---|---|
//! | [`cgroup`] | a cgroup subtree of one's own, gone at the end, also after a panic or a `kill -9` |
//! | [`network`] | network namespaces without a name, joined by a bridge |
//! | [`pace`] | how long things may take |
//! | [`cost`] | what a process costs |
//! | [`place`] | where a process runs from its first instruction: cgroup, network, mounts |
//! | [`probe`] | a process that opens sockets and uses them on command |
//! | [`agent`] | the built `bulkhead`, started and stopped as an operator would |
//! | [`denials`] | what the agent reports |
//! | [`follower`] | a command that goes on, and what it prints |
//! | [`artifact`] | where the programs under test lie, built from this tree |
//! | [`lab`] | all of it together |
//! | [`scene`] | the cast of most tests, as a policy |
//! | [`terminal`] | a terminal with a program in it, and what is seen there |
//! | [`verdicts`] | what tests expect of an attempt |
//! | [`mirror`] | where this host's packages come from |
//! | [`python`] | tools of others, from the Python Package Index |
//! | [`machine`] | a Debian with its real systemd as process 1, in a lab |

#![forbid(unsafe_code)]

pub mod agent;
pub mod artifact;
pub mod cgroup;
pub mod cost;
pub mod denials;
pub mod figure;
pub mod follower;
pub mod lab;
pub mod machine;
pub mod mirror;
pub mod network;
pub mod pace;
pub mod place;
pub mod probe;
pub mod python;
pub mod rounds;
pub mod scene;
pub mod terminal;
pub mod verdicts;

pub use agent::{Agent, Launch};
pub use denials::{Denial, Denials};
pub use follower::Follower;
pub use lab::Lab;
pub use machine::Machine;
pub use network::Network;
pub use place::Place;
pub use probe::{Outcome, Probe, Server, Socket};
pub use terminal::Terminal;

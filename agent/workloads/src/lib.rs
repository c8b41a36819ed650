//! Where workloads come from: the cgroup tree, who its directories belong to, and the addresses that a workload has
//! to itself.
//!
//! [`Watcher`] keeps the [`Tree`] of cgroups as the kernel has it, [`Members`] says which of its cgroups the policy
//! names, and [`addresses`] finds the addresses of network namespaces that one workload has to itself.

#![forbid(unsafe_code)]

mod addresses;
mod capable;
mod hierarchy;
mod layout;
mod members;
mod netns;
mod population;
mod privileged;
mod processes;
mod resolvers;
mod tree;
mod watch;

pub use addresses::addresses;
pub use capable::{Capable, with_raw_packets};
pub use hierarchy::{CgroupRoot, HierarchyError};
pub use layout::{Hierarchy, Layout};
pub use members::{Edit, Members};
pub use population::{Population, population};
pub use privileged::{Privileged, privileged};
pub use processes::{Listed, list_processes};
pub use tree::{CgroupId, SharedTree, Tree};
pub use watch::{Changes, WatchError, Watcher};

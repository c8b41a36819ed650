use serde::{Deserialize, Serialize};

/// A process that somebody has moved out of its workload. Facts that are absent are null.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Departed {
    /// Its number.
    pub pid: u32,
    /// Its command name.
    pub comm: String,
    /// The workload that it was in; null if that could not be told.
    pub from: Option<String>,
    /// Path of the cgroup that it was in, below the cgroup root.
    pub from_cgroup: Option<String>,
    /// The workload that it is in now; null: none.
    pub to: Option<String>,
    /// Path of the cgroup that it is in now, below the cgroup root; null if it is not there.
    pub to_cgroup: Option<String>,
    /// Who has moved it.
    pub by_pid: u32,
    /// The command name of who has moved it.
    pub by_comm: String,
}

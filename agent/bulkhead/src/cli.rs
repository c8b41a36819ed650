//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

/// eBPF micro-segmentation: an allowlist for every workload of this machine, environments kept apart, and every
/// refusal reported and explained.
#[derive(Debug, Parser)]
#[command(
    name = "bulkhead",
    version,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command accepts.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Common {
    /// Settings of the agent [default: /etc/bulkhead/agent.toml, if it is there]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Socket on which the agent answers [default: /run/bulkhead/control.sock]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) control_socket: Option<PathBuf>,
    /// Where the agent keeps what is to outlive it; nothing yet [default: /var/lib/bulkhead]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// Where the agent pins what is to outlive it; nothing yet [default: /sys/fs/bpf]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) bpffs: Option<PathBuf>,
    /// For people, or one JSON object a line
    #[arg(long, global = true, value_name = "FORMAT", default_value = "human")]
    pub(crate) output: Output,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    // Not as documentation: the help would take a paragraph for each.
    // For people.
    Human,
    // One JSON object a line.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Enforce a policy on this machine until stopped, and report what is refused
    Run(RunArguments),
    /// Show what the running agent enforces
    Status,
    /// Validate policy files; exit status 1 and diagnostics if something is wrong
    Check(CheckArguments),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page (roff)
    Man,
}

#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    /// Policy file, or folder of *.toml files; may be given several times [default: /etc/bulkhead/policy]
    #[arg(long, value_name = "PATH")]
    pub(crate) policy: Vec<PathBuf>,
    /// Refuse nothing; report what would be refused
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Look for workloads below this cgroup only [default: the root of the cgroup v2 hierarchy]
    #[arg(long, value_name = "DIR")]
    pub(crate) cgroup_root: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArguments {
    /// Policy files, or folders of *.toml files; checked as one policy
    #[arg(required = true, value_name = "PATH")]
    pub(crate) policy: Vec<PathBuf>,
}

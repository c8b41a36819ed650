//! The command line.

use std::{path::PathBuf, time::Duration};

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum, error::ErrorKind};
use clap_complete::Shell;
use jiff::{SignedDuration, Timestamp};

use crate::span;

/// eBPF micro-segmentation: an allowlist for every workload of this machine, environments kept apart, and every
/// refusal reported and explained.
#[derive(Debug, Parser)]
#[command(
    name = "bulkhead",
    version,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Exit status: 0 fine, 1 something was found or does not work here, 2 wrong usage or input"
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
    /// Where the agent keeps what is to outlive it: the policy that was confirmed last, and the
    /// history of refusals and flows [default: /var/lib/bulkhead]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// BPF file system where the agent pins what is to outlive it [default: /sys/fs/bpf]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) bpffs: Option<PathBuf>,
    /// For people, one JSON object a line, or (`test` only) JUnit XML
    #[arg(long, global = true, value_name = "FORMAT", default_value = "human")]
    pub(crate) output: Format,
}

impl Common {
    /// Ends with this message if results are wanted for programs, by a command that has none for them.
    pub(crate) fn output_for_people(&self, why: &str) {
        if self.output() == Output::Json {
            Cli::command().error(ErrorKind::ArgumentConflict, why).exit()
        }
    }

    /// How results are printed by commands that run no tests.
    pub(crate) fn output(&self) -> Output {
        match self.output {
            Format::Human => Output::Human,
            Format::Json => Output::Json,
            Format::Junit => {
                let why = "--output junit is for `bulkhead test`; use human or json";
                Cli::command().error(ErrorKind::ArgumentConflict, why).exit()
            }
        }
    }
}

/// How results are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    // Not as documentation: the help would take a paragraph for each.
    // For people.
    Human,
    // One JSON object a line.
    Json,
    // Results of tests as CI systems read them.
    Junit,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

const TOP_HELP: &str = "Keys: arrows choose a row, < and > sort, / filters, Enter shows the last refusals of a row, a the rule \
                        that would allow the last one, ? all keys, q quits. A rule is added to a file, or printed at the \
                        end, if you say so; nothing changes by itself.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Enforce a policy on this machine and report what is refused; the kernel goes on when it ends
    Run(RunArguments),
    /// Show what the running agent enforces
    Status,
    /// Show each workload: who is in it, and what its traffic has come to since the agent started
    Workloads,
    /// Show each rule in force: what it says, what it has let pass, and which were never hit
    Rules(RulesArguments),
    /// Show who talks with whom and who is refused, now, on the whole terminal
    #[command(after_help = TOP_HELP)]
    Top,
    /// Show what was refused, or would be, one line for each
    Denials(DenialsArguments),
    /// Show who has talked with whom, and what came of it
    Flows(FlowsArguments),
    /// Say what a policy would change here, and which open connections it would cut; exit status 1 if there are such
    Plan(PlanArguments),
    /// Put a policy in force; exit status 1, and nothing changes, if it would cut the way back in
    Apply(ApplyArguments),
    /// Compare a policy with the one in force, on live traffic, and refuse nothing by it; show what it decides otherwise; exit
    /// status 1 if there is such
    Shadow(ShadowArguments),
    /// Let the policy stay that was applied with --confirm-within
    Confirm(ConfirmArguments),
    /// Go back: to the policy before the one that waits to be confirmed, or else before the one confirmed last
    Rollback,
    /// End all enforcement on this machine, whether an agent runs or not
    Detach,
    /// Say whether this machine has what enforcement takes, and what to do if not; exit status 1 if something fails
    Doctor(DoctorArguments),
    /// Validate policy files; exit status 1 and diagnostics if something is wrong
    Check(CheckArguments),
    /// Run the [[test]]s of a policy; exit status 1 if one fails
    Test(TestArguments),
    /// Say what comes of a connection, and why; exit status 1 unless it is allowed
    Explain(ExplainArguments),
    /// Put recorded flows to a policy; exit status 1 if some fare otherwise
    Simulate(SimulateArguments),
    /// Say what access a policy adds and removes; exit status 1 if there is a difference
    Diff(DiffArguments),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print a manual page (roff)
    Man(ManArguments),
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
#[command(
    after_help = "Example:\n  bulkhead rules --unused\n\nHits are exact: connections that a rule has opened, and packets that it \
                  has let pass, at each end that is a workload here. They are kept in the history by the rule's id, over agents, \
                  policies and boots, and begin when the rule is first in force under this state directory (or its history is \
                  begun anew). Without [history] they are not known. What found no counter of its own (`other` in `bulkhead \
                  status --output json`) is in no rule's hits."
)]
pub(crate) struct RulesArguments {
    /// Only rules that have let nothing pass since they are watched
    #[arg(long)]
    pub(crate) unused: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  bulkhead denials --since 2h --workload ci\n  bulkhead denials --follow --verdict would-deny"
)]
pub(crate) struct DenialsArguments {
    #[command(flatten)]
    pub(crate) part: PartArguments,
    /// Of this workload only
    #[arg(long, value_name = "NAME")]
    pub(crate) workload: Option<String>,
    /// Only what was refused, or only what would be
    #[arg(long, value_name = "VERDICT", value_parser = ["denied", "would-deny"])]
    pub(crate) verdict: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  bulkhead flows --since 2h --from web --verdict denied\n  \
                  bulkhead flows --limit 100000 --output json > flows.jsonl && \
                  bulkhead simulate policies/ --flows flows.jsonl")]
pub(crate) struct FlowsArguments {
    #[command(flatten)]
    pub(crate) part: PartArguments,
    /// Only those that this one opened: a workload or peer, env:NAME, or whatever else a rule names
    #[arg(long, value_name = "NAME")]
    pub(crate) from: Option<String>,
    /// Only those to this one
    #[arg(long, value_name = "NAME")]
    pub(crate) to: Option<String>,
    /// Only what was allowed, refused, or would be refused
    #[arg(long, value_name = "VERDICT", value_parser = ["allowed", "denied", "would-deny"])]
    pub(crate) verdict: Option<String>,
}

/// Which part of the history is shown.
#[derive(Debug, Args)]
pub(crate) struct PartArguments {
    /// Only what was in this last stretch of time, such as 2h or 7d [default: all that is kept]
    #[arg(long, value_name = "TIME", value_parser = span::parse)]
    pub(crate) since: Option<Duration>,
    /// Only the last so many [default: 1000, or with --follow 10]
    #[arg(long, value_name = "NUMBER")]
    pub(crate) limit: Option<u64>,
    /// Then show what comes, until Ctrl-C
    #[arg(long)]
    pub(crate) follow: bool,
}

impl PartArguments {
    pub(crate) fn since(&self, now: Timestamp) -> Option<Timestamp> {
        self.since.map(|time| now.checked_sub(time).unwrap_or(Timestamp::UNIX_EPOCH))
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit.unwrap_or(if self.follow { 10 } else { 1000 })
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  bulkhead plan /etc/bulkhead/policy")]
pub(crate) struct PlanArguments {
    #[command(flatten)]
    pub(crate) policy: PolicyArguments,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  bulkhead apply /etc/bulkhead/policy --confirm-within 60s && bulkhead confirm\n  \
                  bulkhead apply --force emergency.toml\n\nThe connections that stop it are those of the login session that it \
                  is called from, of SSH, of the Kubernetes API, and DNS."
)]
pub(crate) struct ApplyArguments {
    #[command(flatten)]
    pub(crate) policy: PolicyArguments,
    /// Go back to the policy before unless `bulkhead confirm` comes in time: the kernel does, agent alive or not
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) confirm_within: Option<Duration>,
    /// Apply it whatever it cuts, and whether or not it can be kept for the next start
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  bulkhead confirm\n  bulkhead confirm --policy-hash 07bf10a6")]
pub(crate) struct ConfirmArguments {
    /// Confirm this policy only, by what `apply --output json` told as `policy_hash`, or the beginning of it: somebody may have
    /// applied another since
    #[arg(long, value_name = "HASH")]
    pub(crate) policy_hash: Option<String>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  bulkhead shadow policies/\n  bulkhead shadow\n  bulkhead shadow --end\n\nWith files the comparison \
                  begins, or begins anew; without, it is shown so far. Both policies decide on the same packets and calls, and only \
                  the one in force refuses. Counts are exact, and begin with the comparison. It ends as another policy is applied, \
                  and with the agent. Exit status 0: no difference; 1: some, or no policy is compared."
)]
pub(crate) struct ShadowArguments {
    /// Policy files, or folders of *.toml files, to be compared; read as one policy [default: show the comparison so far]
    #[arg(value_name = "PATH", conflicts_with = "end")]
    pub(crate) paths: Vec<PathBuf>,
    /// End the comparison, and show what has come of it
    #[arg(long)]
    pub(crate) end: bool,
}

/// `60s`, `2m`, `1h 30m`.
fn time(text: &str) -> Result<Duration, String> {
    let time: SignedDuration =
        text.parse().map_err(|_| "a time such as 60s, 2m or 1h is expected".to_owned())?;
    let time = Duration::try_from(time).map_err(|_| "it has to be later than now".to_owned())?;
    if (Duration::from_secs(1)..=Duration::from_hours(24)).contains(&time) {
        Ok(time)
    } else {
        Err("it has to be between 1s and 24h".to_owned())
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  bulkhead doctor --self-test")]
pub(crate) struct DoctorArguments {
    /// Also let the real programs refuse a connection, in cgroups of their own that are removed again
    #[arg(long)]
    pub(crate) self_test: bool,
    /// Where the agent looks for workloads [default: the root of the cgroup v2 hierarchy]
    #[arg(long, value_name = "DIR")]
    pub(crate) cgroup_root: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  bulkhead check --deny-warnings /etc/bulkhead/policy")]
pub(crate) struct CheckArguments {
    #[command(flatten)]
    pub(crate) policy: PolicyArguments,
    /// Take warnings for errors: exit status 1
    #[arg(long)]
    pub(crate) deny_warnings: bool,
    /// Also warn of workloads that nothing on this machine is, now, or that may not ask its resolver
    #[arg(long)]
    pub(crate) host: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  bulkhead test policies/ --output junit > policy-tests.xml")]
pub(crate) struct TestArguments {
    #[command(flatten)]
    pub(crate) policy: PolicyArguments,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  bulkhead explain policies/demo.toml --from ci --to secrets --port tcp/8200\n  \
                  bulkhead explain policies/ --from nginx --to internet --port icmp/echo-request\n  \
                  bulkhead explain policies/ --against /etc/bulkhead/policy --from web --to db --port tcp/5432"
)]
pub(crate) struct ExplainArguments {
    #[command(flatten)]
    pub(crate) policy: PolicyArguments,
    /// Who connects: whatever a rule can name (a workload, a peer, env:NAME, an address or range, any, host, dns,
    /// private, internet), or a DNS name of a peer
    #[arg(long, value_name = "END")]
    pub(crate) from: String,
    /// To whom; who stands for several is asked for each of them
    #[arg(long, value_name = "END")]
    pub(crate) to: String,
    /// To which port, as rules write it: tcp/443, udp/53, icmp/echo-request, gre
    #[arg(long)]
    pub(crate) port: String,
    /// Ask this policy, too, and say whether the verdict changes; may be given several times
    #[arg(long, value_name = "OLD")]
    pub(crate) against: Vec<PathBuf>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  bulkhead simulate policies/ --flows flows.jsonl --against /etc/bulkhead/policy"
)]
pub(crate) struct SimulateArguments {
    #[command(flatten)]
    pub(crate) policy: PolicyArguments,
    /// Flows and denials as the agent records them, one JSON object a line; `-` for standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) flows: PathBuf,
    /// Compare with what this policy makes of the flows, and show only what changes; may be given several times
    /// [default: compare with the recorded verdicts]
    #[arg(long, value_name = "OLD")]
    pub(crate) against: Vec<PathBuf>,
    /// As `bulkhead run --dry-run`: nothing is refused, what is not allowed would be
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  bulkhead diff /etc/bulkhead/policy policies/")]
pub(crate) struct DiffArguments {
    /// Policy file, or folder of *.toml files; `-` for standard input
    #[arg(value_name = "OLD")]
    pub(crate) old: PathBuf,
    /// What is to take its place
    #[arg(value_name = "NEW")]
    pub(crate) new: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  bulkhead man check | man -l -")]
pub(crate) struct ManArguments {
    /// The command that it is about [default: all of bulkhead]
    pub(crate) command: Option<String>,
}

/// The policy that a command is about.
#[derive(Debug, Args)]
pub(crate) struct PolicyArguments {
    /// Policy files, or folders of *.toml files; read as one policy; `-` for standard input
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
}

//! Settings of the agent: defaults, agent.toml over them, the command line over both.

mod history;
mod metrics;
mod sinks;

use std::{
    fs,
    io::{self, IsTerminal as _},
    net::SocketAddr,
    path::{Path, PathBuf},
};

use bulkhead_report::Limits;
use serde::Deserialize;

pub(crate) use self::sinks::{JOURNAL, Sink, SinkKind};
use self::{history::History, metrics::Metrics};
use crate::{
    cli::{Common, RunArguments},
    doctor::Places,
};

const CONFIG: &str = "/etc/bulkhead/agent.toml";
const CONTROL_SOCKET: &str = "/run/bulkhead/control.sock";
const BPFFS: &str = "/sys/fs/bpf";
const STATE_DIR: &str = "/var/lib/bulkhead";
const POLICY: &str = "/etc/bulkhead/policy";

/// Why agent.toml cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    #[error("cannot read {}", .path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{}: {message}", .path.display())]
    Invalid { path: PathBuf, message: String },
}

/// What `bulkhead run` goes by.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) policy: Vec<PathBuf>,
    pub(crate) dry_run: bool,
    pub(crate) cgroup_root: Option<PathBuf>,
    pub(crate) control_socket: PathBuf,
    pub(crate) bpffs: PathBuf,
    pub(crate) state_dir: PathBuf,
    /// Was the policy named on the command line?
    pub(crate) names_policy: bool,
    /// Where denials go; nowhere in particular if there is none.
    pub(crate) sinks: Vec<Sink>,
    /// Where metrics are served, if they are.
    pub(crate) metrics: Option<SocketAddr>,
    /// How much history is kept; none: nothing is.
    pub(crate) history: Option<Limits>,
    on_stop: OnStop,
    reload: Reload,
}

/// What becomes of enforcement as the agent is told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum OnStop {
    /// The kernel goes on by itself.
    Keep,
    /// It ends.
    Detach,
}

impl OnStop {
    /// Who tries a policy from a terminal, and cuts that off, is to get back in as it closes. A service is there to stay.
    fn usual(in_terminal: bool) -> Self {
        if in_terminal { Self::Detach } else { Self::Keep }
    }
}

/// What makes the agent read its policy files anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Reload {
    /// Nothing: SIGHUP stops it.
    Off,
    /// SIGHUP.
    Signal,
    /// SIGHUP, and that they have changed.
    Watch,
}

impl Reload {
    /// SIGHUP tells who runs in a terminal that it is gone.
    fn usual(in_terminal: bool) -> Self {
        if in_terminal { Self::Off } else { Self::Signal }
    }
}

/// agent.toml.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    agent: Agent,
    #[serde(default)]
    sink: Vec<Sink>,
    metrics: Option<Metrics>,
    #[serde(default)]
    history: History,
}

/// Its `[agent]` table.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Agent {
    policy: Option<Vec<PathBuf>>,
    dry_run: Option<bool>,
    cgroup_root: Option<PathBuf>,
    control_socket: Option<PathBuf>,
    bpffs: Option<PathBuf>,
    state_dir: Option<PathBuf>,
    on_stop: Option<OnStop>,
    reload: Option<Reload>,
}

/// Keys of the `[agent]` table, for suggestions.
const KEYS: [&str; 8] =
    ["policy", "dry-run", "cgroup-root", "control-socket", "bpffs", "state-dir", "on-stop", "reload"];

/// Other keys of agent.toml, and words among its values.
#[rustfmt::skip]
const WORDS: [&str; 17] = [
    "agent", "sink", "metrics", "history", "type", "name", "path", "address", "stdout", "file", "journald", "syslog", "otlp", "keep",
    "detach", "signal", "watch",
];

impl Settings {
    /// For `bulkhead run`.
    pub(crate) fn of_run(common: &Common, run: &RunArguments) -> Result<Self, SettingsError> {
        let File { agent: file, sink: sinks, metrics, history } = File::of(common)?;
        let in_terminal = io::stderr().is_terminal();
        Ok(Self {
            names_policy: !run.policy.is_empty(),
            sinks,
            metrics: metrics.map(|metrics| metrics.address),
            history: history.limits(),
            policy: if run.policy.is_empty() {
                file.policy.unwrap_or_else(|| vec![POLICY.into()])
            } else {
                run.policy.clone()
            },
            dry_run: run.dry_run || file.dry_run.unwrap_or(false),
            cgroup_root: run.cgroup_root.clone().or(file.cgroup_root),
            control_socket: common
                .control_socket
                .clone()
                .or(file.control_socket)
                .unwrap_or_else(|| CONTROL_SOCKET.into()),
            bpffs: common.bpffs.clone().or(file.bpffs).unwrap_or_else(|| BPFFS.into()),
            state_dir: common.state_dir.clone().or(file.state_dir).unwrap_or_else(|| STATE_DIR.into()),
            on_stop: file.on_stop.unwrap_or_else(|| OnStop::usual(in_terminal)),
            reload: file.reload.unwrap_or_else(|| Reload::usual(in_terminal)),
        })
    }
}

impl Settings {
    /// Does what it enforces go on after its end? A dry run enforces nothing.
    pub(crate) fn keeps(&self) -> bool {
        self.on_stop == OnStop::Keep && !self.dry_run
    }

    /// Does SIGHUP ask for the policy files to be read anew? Else it stops the agent.
    pub(crate) fn reloads_on_signal(&self) -> bool {
        self.reload != Reload::Off
    }

    /// Are they read anew when they have changed?
    pub(crate) fn watches_files(&self) -> bool {
        self.reload == Reload::Watch
    }
}

/// Where `bulkhead doctor` looks.
pub(crate) fn places(common: &Common, cgroup_root: Option<&Path>) -> Result<Places, SettingsError> {
    let file = File::of(common)?.agent;
    Ok(Places {
        bpffs: bpffs(common)?,
        cgroup_root: cgroup_root.map(Path::to_owned).or(file.cgroup_root),
        control_socket: control_socket(common)?,
    })
}

/// Where pins are.
pub(crate) fn bpffs(common: &Common) -> Result<PathBuf, SettingsError> {
    if let Some(bpffs) = &common.bpffs {
        return Ok(bpffs.clone());
    }
    Ok(File::of(common)?.agent.bpffs.unwrap_or_else(|| BPFFS.into()))
}

/// Where the agent answers, for those who ask it.
pub(crate) fn control_socket(common: &Common) -> Result<PathBuf, SettingsError> {
    if let Some(socket) = &common.control_socket {
        return Ok(socket.clone());
    }
    Ok(File::of(common)?.agent.control_socket.unwrap_or_else(|| CONTROL_SOCKET.into()))
}

impl File {
    fn of(common: &Common) -> Result<Self, SettingsError> {
        let path = common.config.as_deref().unwrap_or(Path::new(CONFIG));
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(path, &text),
            // Only the file that nobody asked for may be missing.
            Err(e) if e.kind() == io::ErrorKind::NotFound && common.config.is_none() => Ok(Self::default()),
            Err(source) => Err(SettingsError::Unreadable { path: path.to_owned(), source }),
        }
    }

    fn parse(path: &Path, text: &str) -> Result<Self, SettingsError> {
        let invalid =
            |message: &str| SettingsError::Invalid { path: path.to_owned(), message: message.to_owned() };
        let file: Self = toml::from_str(text).map_err(|error| {
            let mut unknown = ["unknown field `", "unknown variant `"].into_iter();
            let unknown = unknown.find_map(|what| error.message().strip_prefix(what));
            let unknown = unknown.and_then(|rest| rest.split('`').next());
            let hint = unknown.and_then(nearest).map(|word| format!("help: did you mean `{word}`?\n"));
            let message = format!("{error}{}", hint.unwrap_or_default());
            invalid(message.trim_end())
        })?;
        if let Some(name) = sinks::twice(&file.sink) {
            return Err(invalid(&format!("two sinks are called `{name}`: give one another `name`")));
        }
        Ok(file)
    }
}

fn nearest(word: &str) -> Option<&'static str> {
    let (distance, nearest) = KEYS
        .into_iter()
        .chain(history::KEYS)
        .chain(WORDS)
        .map(|known| (strsim::damerau_levenshtein(word, known), known))
        .min()?;
    (distance <= 3).then_some(nearest)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn parse(text: &str) -> Result<File, String> {
        File::parse(Path::new("agent.toml"), text).map_err(|e| e.to_string())
    }

    #[test]
    fn the_file_sets_what_the_command_line_leaves_out() {
        let file = parse("[agent]\npolicy = [\"/etc/p\"]\ndry-run = true\n").unwrap();
        assert_eq!(file.agent.policy, Some(vec!["/etc/p".into()]));
        assert_eq!(file.agent.dry_run, Some(true));
    }

    #[test]
    fn the_example_of_the_page_is_right() {
        let page =
            fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reporting.md")).unwrap();
        let example = page.split("```").find_map(|block| block.strip_prefix("toml\n")).unwrap();
        let file = parse(example).unwrap();
        assert_eq!(file.sink.iter().map(|sink| &*sink.name).collect::<Vec<_>>(), ["file", "collector"]);
        assert!(file.metrics.is_some());
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_one_that_was_meant() {
        insta::assert_snapshot!(parse("[agent]\ndry_run = true\n").unwrap_err(), @r"
        agent.toml: TOML parse error at line 2, column 1
          |
        2 | dry_run = true
          | ^^^^^^^
        unknown field `dry_run`, expected one of `policy`, `dry-run`, `cgroup-root`, `control-socket`, `bpffs`, `state-dir`, `on-stop`, `reload`
        help: did you mean `dry-run`?
        ");
    }

    /// What packages install: a dry run, every other setting shown with its default.
    #[test]
    fn the_packages_settings_are_a_dry_run_and_name_every_setting_with_its_default() {
        let text = include_str!("../../../deploy/agent.toml");
        let installed = parse(text).unwrap().agent;
        assert_eq!(installed.dry_run, Some(true));
        assert!(installed.policy.is_none() && installed.on_stop.is_none() && installed.bpffs.is_none());

        // Prose has a space after the `#`, a setting has none.
        let offered =
            |line: &str| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).map(str::to_owned);
        let lines = text.lines().map(|line| offered(line).unwrap_or_else(|| line.to_owned()));
        let shown = parse(&lines.collect::<Vec<_>>().join("\n")).unwrap();
        assert_eq!(shown.history, History::default());
        let shown = shown.agent;
        assert_eq!(shown.policy, Some(vec![POLICY.into()]));
        assert_eq!(shown.control_socket, Some(CONTROL_SOCKET.into()));
        assert_eq!(shown.bpffs, Some(BPFFS.into()));
        assert_eq!(shown.state_dir, Some(STATE_DIR.into()));
        assert_eq!(shown.on_stop, Some(OnStop::usual(false)));
        assert_eq!(shown.reload, Some(Reload::usual(false)));
        for key in KEYS.into_iter().chain(history::KEYS) {
            assert!(text.contains(&format!("{key} = ")), "{key} is not shown");
        }
    }
}

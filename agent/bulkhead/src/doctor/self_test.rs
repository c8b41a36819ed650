//! The self-test: the real programs refuse a connection of a cgroup of their own, and let one from beside it pass.

use std::{
    ffi::OsString,
    fs,
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::{fs::MetadataExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use bulkhead_common::UNPLACED;
use bulkhead_datapath::{Cgroups, Datapath, Generation};
use bulkhead_policy::{Compiler, Inventory, Source, WorkloadId, load};
use bulkhead_workloads::{CgroupRoot, HierarchyError};

use super::finding::Finding;
use crate::own_cgroup::OwnCgroup;

/// It isolates its one workload. Which cgroup that is, is told by number.
const POLICY: &str = "[workload.canary]\nselect = { cgroup = \"/canary\" }\n";

/// Names of its cgroups; the first ends in the number of its process.
const NAME: &str = "bulkhead-self-test-";
const CANARY: &str = "canary";
const BESIDE: &str = "beside";

/// How long a connection may take that nobody refuses.
const PATIENCE: Duration = Duration::from_secs(2);

/// Runs it below the cgroup root.
pub(super) fn self_test(root: Result<&CgroupRoot, &HierarchyError>) -> Vec<Finding> {
    const CHECK: &str = "self-test";
    const CONSEQUENCE: &str = "that anything is enforced on this machine is not shown";
    let root = match root {
        Ok(root) => root,
        Err(error) => {
            return vec![Finding::failure(CHECK, error, CONSEQUENCE, "give --cgroup-root one that is there")];
        }
    };
    vec![match run(root) {
        Ok(Outcome { inside: Visit::Refused, beside: Visit::Connected, unwatched }) => {
            let found =
                "connect() from an isolated cgroup was refused (EPERM), and from one beside it was not";
            return vec![Finding::ok(CHECK, found), departures(unwatched)];
        }
        Ok(Outcome { inside: Visit::Refused, beside, .. }) => Finding::warning(
            CHECK,
            format_args!("connect() from an isolated cgroup was refused, and from one beside it {beside}"),
            "whether it was Bulkhead's doing is not shown: something else stops connections on loopback, too",
            "bring the loopback device up, and run it where no policy and no firewall holds for the cgroup root itself",
        ),
        Ok(Outcome { inside, .. }) => Finding::failure(
            CHECK,
            format_args!("connect() from an isolated cgroup {inside}"),
            "what a policy refuses is not refused on this machine",
            "report it, with what `bulkhead doctor --output json` prints",
        ),
        Err(error) => Finding::failure(
            CHECK,
            format_args!("{error:#}"),
            CONSEQUENCE,
            "run it as root, on a machine where nothing above fails",
        ),
    }]
}

/// Does the kernel tell of processes that are moved out of their workload?
fn departures(unwatched: Option<String>) -> Finding {
    const CHECK: &str = "departures";
    match unwatched {
        None => Finding::ok(CHECK, "the kernel tells of processes that are moved out of their workload"),
        Some(why) => Finding::warning(
            CHECK,
            why,
            "a process that is moved out of its workload, which takes root's help, is not reported",
            "boot a kernel that takes tracing programs (fentry; on arm64 from Linux 6.0)",
        ),
    }
}

/// What came of it.
#[derive(Debug)]
struct Outcome {
    /// The connection from the isolated cgroup.
    inside: Visit,
    /// The one from beside it.
    beside: Visit,
    /// Why the kernel does not tell of processes that are moved out of their workload; none: it does.
    unwatched: Option<String>,
}

/// Attaches the programs and lets two processes connect.
fn run(root: &CgroupRoot) -> Result<Outcome> {
    let ground = Ground::make(root)?;
    let Ok(loaded) = load(&[Source::new("self-test", POLICY)]) else {
        bail!("the policy of the self-test does not compile: this is a bug");
    };
    let compiler = Compiler::new(&loaded.policy, Inventory::default());
    let tables = compiler.compiled();
    let canary = fs::metadata(&ground.canary)?.ino();
    let endpoints = [(canary, compiler.endpoint(WorkloadId(0))), (UNPLACED, compiler.unidentified())];
    let mut datapath = Datapath::load(ground.all.path(), None)?;
    datapath.install(&Generation {
        number: 1,
        cgroups: Cgroups { endpoints: &endpoints, followed: &[], names: &[] },
        peers: &tables.peers,
        policy: &tables.policy,
    })?;
    let attached = datapath.attach(|cgroup| (cgroup == canary).then_some(canary))?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen on 127.0.0.1")?;
    let to = listener.local_addr()?;
    let unwatched = attached.unwatched.map(|error| format!("{:#}", anyhow::Error::new(error)));
    Ok(Outcome {
        inside: visit_from(&ground.canary, to)?,
        beside: visit_from(&ground.beside, to)?,
        // A verifier has much to say.
        unwatched: unwatched.and_then(|why| why.lines().next().map(str::to_owned)),
    })
}

/// What came of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Visit {
    Connected,
    Refused,
    /// It failed in another way.
    Failed(String),
}

impl std::fmt::Display for Visit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Connected => f.write_str("succeeded"),
            Self::Refused => f.write_str("was refused"),
            Self::Failed(why) => write!(f, "failed ({why})"),
        }
    }
}

/// What the process that connects calls itself, and what it says.
const VISITOR: &str = "bulkhead-self-test";
const CONNECTED: &str = "connected";
const REFUSED: &str = "refused";

/// Lets a process of its own connect from a cgroup: this program, once more, under another name.
fn visit_from(cgroup: &Path, to: SocketAddr) -> Result<Visit> {
    let mut command = Command::new("/proc/self/exe");
    command.arg0(VISITOR).arg(cgroup).arg(to.to_string());
    let output = command.output().context("cannot start another process of bulkhead")?;
    let said = String::from_utf8_lossy(&output.stdout);
    Ok(match said.trim() {
        CONNECTED => Visit::Connected,
        REFUSED => Visit::Refused,
        "" => bail!("{}", String::from_utf8_lossy(&output.stderr).trim()),
        other => Visit::Failed(other.to_owned()),
    })
}

/// If this is that process by its arguments, it enters the cgroup, connects, and this is what comes of it.
pub(crate) fn visit(mut arguments: impl Iterator<Item = OsString>) -> Option<Result<String>> {
    if arguments.next()? != VISITOR {
        return None;
    }
    let (cgroup, to) = (PathBuf::from(arguments.next()?), arguments.next()?.into_string().ok()?);
    Some(to.parse().context("no address to connect to").and_then(|to| connect_in(&cgroup, to)))
}

fn connect_in(cgroup: &Path, to: SocketAddr) -> Result<String> {
    fs::write(cgroup.join("cgroup.procs"), "0")
        .with_context(|| format!("cannot enter {}", cgroup.display()))?;
    Ok(match TcpStream::connect_timeout(&to, PATIENCE) {
        Ok(_) => CONNECTED.to_owned(),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => REFUSED.to_owned(),
        Err(error) => error.to_string(),
    } + "\n")
}

/// Cgroups of the self-test's own. Dropping it removes them.
#[derive(Debug)]
struct Ground {
    /// Where the programs are attached.
    all: OwnCgroup,
    /// The isolated workload.
    canary: PathBuf,
    /// In no workload.
    beside: PathBuf,
}

impl Ground {
    fn make(root: &CgroupRoot) -> Result<Self> {
        let all = OwnCgroup::make(root.path(), NAME, &[CANARY, BESIDE])
            .with_context(|| format!("cannot make a cgroup in {}", root.path().display()))?;
        Ok(Self { canary: all.path().join(CANARY), beside: all.path().join(BESIDE), all })
    }
}

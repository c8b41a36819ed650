//! The Debian package on a machine with a real systemd: installed, upgraded in the midst of traffic, removed, purged.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use bulkhead_deploy::{Compression, Product, deb, install};
use bulkhead_tests::{
    Follower, Lab, Machine, Outcome, Place, Probe, agent, artifact,
    pace::until,
    probe::{Family, Kind},
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    loopback::{POLICY, PORT},
    verdicts::{allowed, at, refused},
};

/// Versions, one after the other.
const VERSIONS: [&str; 2] = ["0.1.0", "0.1.1"];
/// What `systemd-analyze security` may find at most, in tenths.
const EXPOSURE: &str = "--threshold=40";
/// Where iperf3 serves.
const BULK: u16 = 5201;
const UNIT: &str = "/usr/lib/systemd/system/bulkhead.service";
const SETTINGS: &str = "/etc/bulkhead/agent.toml";
const PINS: &str = "/sys/fs/bpf/bulkhead";
/// The machine's own server, which is older than the agent: it is known only if the service may tag the sockets of others.
const SERVER: &str = r#"
use IO::Socket::INET;
my $listener = IO::Socket::INET->new(LocalPort => 5432, Listen => 64, ReuseAddr => 1) or die;
$SIG{CHLD} = "IGNORE";
while (1) {
    my $stream = $listener->accept or next;
    if (fork == 0) {
        while (sysread($stream, my $bytes, 2048)) { syswrite($stream, $bytes) }
        exit;
    }
}
"#;
const SERVER_UNIT: &str = "[Service]\nExecStart=perl /etc/echo.pl\n";

/// Everything that the package and its service make.
const TRACES: [&str; 9] = [
    "/etc/bulkhead",
    "/run/bulkhead",
    "/usr/bin/bulkhead",
    "/usr/share/doc/bulkhead",
    "/usr/share/man/man1/bulkhead.1.gz",
    "/var/lib/bulkhead",
    "/var/log/bulkhead",
    UNIT,
    PINS,
];

/// Packages of the agent under test, one a version.
struct Packages {
    folder: TempDir,
    files: Vec<PathBuf>,
}

impl Packages {
    fn build() -> Result<Self> {
        let folder = TempDir::new()?;
        let binary = folder.path().join("bulkhead");
        let strip = Command::new("strip").arg("-o").arg(&binary).arg(artifact::agent()?).status()?;
        ensure!(strip.success(), "strip: {strip}");
        let mut files = Vec::new();
        for version in VERSIONS {
            let product = Product {
                binary: &binary,
                speaker: &binary,
                version,
                arch: std::env::consts::ARCH,
                notices: "nothing in a test\n",
                epoch: 1_700_000_000,
            };
            let root = folder.path().join(version);
            install(&product, &root)?;
            files.push(deb(&product, &root, folder.path(), Compression::None)?);
        }
        Ok(Self { folder, files })
    }

    /// Installs one, over whatever there is.
    fn install(&self, machine: &Machine, number: usize) -> Result<String> {
        fs::copy(&self.files[number], machine.outside("/bulkhead.deb"))?;
        machine.succeed("dpkg", &["--install", "/bulkhead.deb"])
    }
}

/// A journal that takes few entries of a service, times the six by which it is more patient where there is room on disk.
const IMPATIENT: (&str, &str) =
    ("systemd/journald.conf.d/impatient.conf", "[Journal]\nRateLimitIntervalSec=1min\nRateLimitBurst=20\n");
/// More than those.
const MANY: u16 = 300;

/// A machine with a server, and who may and may not call it.
struct Host {
    machine: Machine,
    lab: Lab,
    web: Probe,
    ci: Probe,
    to: SocketAddr,
}

impl Host {
    fn boot() -> Result<Self> {
        let lab = Lab::new()?;
        let machine = Machine::boot(
            &lab,
            &[("echo.pl", SERVER), ("systemd/system/db.service", SERVER_UNIT), IMPATIENT],
        )?;
        let (web, ci) = (lab.probe("/web")?, lab.probe("/ci")?);
        let to = at(lab.host().v4, PORT);
        until("the server listens", || Ok(ci.tcp(to)? == Outcome::Answered))?;
        Ok(Self { machine, lab, web, ci, to })
    }

    fn property(&self, name: &str) -> Result<String> {
        let value = self.machine.systemctl(&["show", "--value", "--property", name, "bulkhead.service"])?;
        Ok(value.trim().to_owned())
    }

    fn is_up(&self) -> Result<()> {
        let (state, log) = (self.property("ActiveState")?, self.machine.run("journalctl", &["--no-pager"])?);
        ensure!(state == "active", "bulkhead.service is {state}:\n{}", String::from_utf8_lossy(&log.stdout));
        Ok(())
    }

    fn status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.machine.succeed("bulkhead", &["status", "--output", "json"])?)?)
    }

    /// Enforces the policy from now on, as an administrator would have it.
    fn enforce(&self) -> Result<()> {
        let policy = POLICY.replace(r#"cgroup = "/db""#, r#"systemd = "db.service""#);
        let policy = policy.replace("tcp/5432", &format!("tcp/5432\", \"tcp/{BULK}"));
        fs::write(self.machine.outside("/etc/bulkhead/policy/shop.toml"), policy)?;
        let settings = self.machine.read(SETTINGS)?;
        let changed = settings.replace("dry-run = true", "dry-run = false");
        ensure!(changed != settings, "the package's settings are no dry run:\n{settings}");
        fs::write(self.machine.outside(SETTINGS), changed)?;
        self.machine.systemctl(&["restart", "bulkhead.service"]).map(drop)
    }

    /// What is pinned, each with its number in the file system.
    fn pins(&self) -> Result<Vec<String>> {
        let listed = self.machine.succeed("find", &[PINS, "-type", "f", "-printf", "%i %P\n"])?;
        let mut pins: Vec<_> = listed.lines().map(str::to_owned).collect();
        pins.sort();
        Ok(pins)
    }

    /// Of those, what judges and what it remembers. (A tracepoint's program cannot be replaced in place.)
    fn judging_pins(&self) -> Result<Vec<String>> {
        let mut pins = self.pins()?;
        pins.retain(|pin| !pin.contains("/links/cgroup_"));
        ensure!(pins.len() > 20, "hardly anything is pinned: {pins:?}");
        Ok(pins)
    }

    fn traces(&self) -> Vec<&'static str> {
        TRACES.into_iter().filter(|path| self.machine.outside(path).exists()).collect()
    }
}

#[test]
fn the_package_installs_upgrades_under_traffic_and_goes_without_a_trace() -> Result<()> {
    let (packages, host) = (Packages::build()?, Host::boot()?);
    packages.install(&host.machine, 0)?;
    begins_with_a_dry_run(&host)?;

    host.enforce()?;
    refused("ci to db", host.ci.tcp(host.to)?)?;
    allowed("web to db", host.web.tcp(host.to)?)?;
    the_journal_is_told_in_fields_and_once(&host)?;
    a_file_is_told_as_well(&host)?;
    a_killed_agent_comes_back(&host)?;
    upgrade_under_traffic(&packages, &host)?;

    host.machine.succeed("dpkg", &["--remove", "bulkhead"])?;
    allowed("ci to db without the package", host.ci.tcp(host.to)?)?;
    ensure!(agent::attached(host.lab.root()?.path())?.is_empty(), "programs are left attached");
    ensure!(!host.machine.outside(PINS).exists(), "pins are left: {:?}", host.pins()?);
    ensure!(host.machine.outside(SETTINGS).exists(), "settings outlive a removal");

    host.machine.succeed("dpkg", &["--purge", "bulkhead"])?;
    ensure!(host.traces().is_empty(), "traces are left: {:?}", host.traces());
    let load = host.property("LoadState")?;
    ensure!(load == "not-found", "systemd holds the unit for {load}");
    drop(packages.folder);
    Ok(())
}

fn begins_with_a_dry_run(host: &Host) -> Result<()> {
    host.is_up()?;
    let said = host.property("StatusText")?;
    ensure!(said.starts_with("watching (dry run"), "systemd is told: {said:?}");
    let status = host.status()?;
    ensure!(status["dry_run"] == true, "{status}");
    ensure!(status["workloads"].as_array().is_some_and(Vec::is_empty), "{status}");
    let enabled = host.machine.systemctl(&["is-enabled", "bulkhead.service"])?;
    ensure!(enabled.trim() == "enabled", "the service is {enabled}");
    let verified = host.machine.succeed("systemd-analyze", &["verify", "--man=no", "bulkhead.service"])?;
    ensure!(verified.is_empty(), "systemd is not content with the unit:\n{verified}");
    for waiting in ["sysinit.target", "network-pre.target"] {
        let after = host.machine.systemctl(&["show", "--value", "--property", "After", waiting])?;
        ensure!(after.contains("bulkhead.service"), "{waiting} does not wait, but for {after}");
    }
    allowed("ci to db in the dry run", host.ci.tcp(host.to)?)?;
    let missing: Vec<_> = TRACES.into_iter().filter(|path| !host.traces().contains(path)).collect();
    ensure!(missing.is_empty(), "not installed: {missing:?}");
    host.machine.succeed("dpkg", &["--verify", "bulkhead"])?;
    Ok(())
}

/// What the service prints the journal would have anyway: as text.
fn the_journal_is_told_in_fields_and_once(host: &Host) -> Result<()> {
    let told = ["BULKHEAD_WORKLOAD=ci", "BULKHEAD_PEER=db"];
    until("the journal is told", || Ok(!host.machine.journal(&told)?.is_empty()))?;
    let unit = host.machine.journal(&["_SYSTEMD_UNIT=bulkhead.service"])?;
    let messages = unit.iter().filter_map(|entry| Some((entry, entry["MESSAGE"].as_str()?)));
    for (entry, message) in messages.filter(|(_, message)| message.contains("no rule allows it")) {
        ensure!(entry["BULKHEAD_REASON"] == "no-rule", "a report as text: {message}");
    }
    for port in 1..=MANY {
        refused("ci to everywhere", host.ci.tcp(at([198, 51, 100, 7], port))?)?;
    }
    let all = ["BULKHEAD_WORKLOAD=ci", "BULKHEAD_PEER_ADDRESS=198.51.100.7"];
    let mut there = 0;
    until("the journal has every report", || {
        there = host.machine.journal(&all)?.len();
        Ok(there == usize::from(MANY))
    })
    .with_context(|| format!("{there} of {MANY} are there"))
}

fn a_file_is_told_as_well(host: &Host) -> Result<()> {
    const FILE: &str = "/var/log/bulkhead/denials.jsonl";
    let settings = host.machine.read(SETTINGS)?;
    // As the package offers it in comments, but for the metrics.
    let (agent, offered) = settings.split_once("#[[sink]]").context("no sink is offered")?;
    let (sinks, metrics) = offered.split_once("\n\n").context("nothing comes after the sinks")?;
    let changed = format!("{agent}[[sink]]{}\n\n{metrics}", sinks.replace("\n#", "\n"));
    fs::write(host.machine.outside(SETTINGS), &changed)?;
    host.machine.systemctl(&["restart", "bulkhead.service"])?;
    refused("ci to db after a restart", host.ci.tcp(host.to)?)?;
    until("the file is told", || {
        let there = host.machine.outside(FILE).exists();
        Ok(there && host.machine.read(FILE)?.lines().any(|line| line.contains(r#""name":"ci""#)))
    })?;
    let status = host.status()?;
    let sinks = status["events"]["sinks"].as_array().context("no sinks")?;
    let names: Vec<_> = sinks.iter().filter_map(|sink| sink["name"].as_str()).collect();
    ensure!(names == ["journald", "file"], "{status}");
    ensure!(sinks.iter().all(|sink| sink["failing"].is_null()), "{status}");
    Ok(())
}

fn a_killed_agent_comes_back(host: &Host) -> Result<()> {
    let (pins, pid) = (host.judging_pins()?, host.property("MainPID")?);
    host.machine.systemctl(&["kill", "--signal", "KILL", "bulkhead.service"])?;
    until("the agent is started again", || {
        refused("ci to db with the agent killed", host.ci.tcp(host.to)?)?;
        Ok(host.property("ActiveState")? == "active" && host.property("MainPID")? != pid)
    })?;
    ensure!(pins == host.judging_pins()?, "other programs judge than before");
    allowed("web to db with an agent started again", host.web.tcp(host.to)?)?;
    Ok(())
}

/// iperf3 from web to db, for as long as it lasts.
struct Bulk {
    // Fields drop in this order.
    client: Follower,
    _server: Follower,
}

impl Bulk {
    fn between(lab: &Lab) -> Result<Self> {
        let iperf3 = |cgroup: &str, arguments: &[&str]| -> Result<Follower> {
            let mut command = Place::new(lab.cgroup(cgroup)?, lab.host()).command("iperf3");
            command.args(arguments).args(["--port", &BULK.to_string(), "--forceflush"]);
            Follower::of(command)
        };
        let server = iperf3("/system.slice/db.service", &["--server", "--one-off"])?;
        while !server.next()?.1.contains("Server listening") {}
        // As much as leaves both processors to others.
        let bulk = ["--time", "0", "--interval", "1", "--bitrate", "200M", "--format", "k"];
        let client = iperf3("/web", &[&["--client", "127.0.0.1"][..], &bulk].concat())?;
        Ok(Self { client, _server: server })
    }

    /// Data has flowed in every second so far, and does in the next.
    fn goes_on(&self) -> Result<()> {
        let (now, mut seconds) = (Instant::now(), 0);
        while seconds < 2 {
            // `[  5]   0.00-1.00   sec  24.0 MBytes  201196 Kbits/sec    0   1.25 MBytes`
            let (when, line) = self.client.next()?;
            let Some((before, _)) = line.split_once(" Kbits/sec") else { continue };
            let rate: f64 = before.split_whitespace().last().context("no rate")?.parse()?;
            ensure!(rate > 0.0, "nothing flows: {line}");
            seconds += u32::from(when > now);
        }
        Ok(())
    }
}

fn upgrade_under_traffic(packages: &Packages, host: &Host) -> Result<()> {
    let (before, pid) = (host.judging_pins()?, host.property("MainPID")?);
    let (machine, to) = (&host.machine, host.to);
    let flow = host.web.open(Kind::Tcp, Family::V4)?;
    allowed("web to db", flow.connect_and_exchange(to)?)?;
    let bulk = Bulk::between(&host.lab)?;
    bulk.goes_on()?;
    thread::scope(|scope| -> Result<()> {
        let upgrade = scope.spawn(|| packages.install(machine, 1));
        let mut rounds = 0;
        while !upgrade.is_finished() {
            refused("ci to db during the upgrade", host.ci.tcp(to)?)?;
            allowed("web's connection during the upgrade", flow.exchange(None)?)?;
            rounds += 1;
        }
        upgrade.join().expect("no panic")?;
        ensure!(rounds > 20, "too little traffic: {rounds} rounds");
        Ok(())
    })?;
    allowed("web's connection after the upgrade", flow.exchange(None)?)?;
    bulk.goes_on().context("iperf3 through the upgrade")?;
    host.is_up()?;
    let version = host.machine.succeed("dpkg-query", &["--show", "--showformat=${Version}", "bulkhead"])?;
    ensure!(version == VERSIONS[1], "version {version} is installed");
    ensure!(host.property("MainPID")? != pid, "the agent before the upgrade still runs");
    ensure!(host.status()?["dry_run"] == false, "the administrator's settings are gone");
    let after = host.judging_pins()?;
    ensure!(before == after, "pins before {before:?} and after {after:?}");
    refused("ci to db after the upgrade", host.ci.tcp(to)?)?;
    Ok(())
}

/// What `systemd-analyze security` finds that is not as it would have it.
fn exposures(machine: &Machine) -> Result<Vec<String>> {
    let found = machine.run("systemd-analyze", &["security", "--offline=yes", "--json=short", UNIT])?;
    let found: Vec<Value> = serde_json::from_slice(&found.stdout)?;
    let open = found.iter().filter(|entry| entry["set"] == false && !entry["exposure"].is_null());
    open.map(|entry| Ok(entry["name"].as_str().context("a finding has a name")?.to_owned())).collect()
}

#[test]
fn the_service_is_as_closed_as_its_work_allows_and_says_why_not_more() -> Result<()> {
    let lab = Lab::new()?;
    let machine = Machine::boot(&lab, &[])?;
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd/bulkhead.service");
    fs::create_dir_all(machine.outside("/usr/lib/systemd/system"))?;
    fs::copy(&unit, machine.outside(UNIT))?;
    machine.succeed("systemd-analyze", &["security", "--offline=yes", EXPOSURE, UNIT])?;
    let text = fs::read_to_string(&unit)?;
    let reasons: Vec<_> = text.lines().filter(|line| line.starts_with('#')).collect();
    let exposures = exposures(&machine)?;
    ensure!(!exposures.is_empty(), "systemd-analyze finds nothing: is it asked right?");
    for name in exposures {
        // As in "User=/DynamicUser=" or "CapabilityBoundingSet=~CAP_BPF".
        let mut directives = name.split('/').filter_map(|part| Some(part.split_once('=')?.0));
        let is_given = |directive| reasons.iter().any(|line| line.contains(&format!("{directive}=")));
        ensure!(directives.all(is_given), "{name} stays off, and the unit does not say why");
    }
    Ok(())
}

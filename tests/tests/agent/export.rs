//! Denials in files, in a real journal, in collectors that are there or not; and metrics.

use std::{
    fs,
    net::SocketAddr,
    os::unix::net::UnixDatagram,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use bulkhead_tests::{Agent, Follower, Lab, Machine, Place, Probe, pace::until, probe::Kind, python};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    loopback::{POLICY, PORT},
    verdicts::{allowed, at, blocked, refused},
};

/// ci calls each of these ports once, and is refused.
fn calls(ci: &Probe, ports: std::ops::Range<u16>) -> Result<()> {
    ports.into_iter().try_for_each(|port| blocked("ci", ci.tcp(at([192, 0, 2, 1], port))?))
}

/// What `status` tells of a sink.
fn sink(agent: &Agent, name: &str) -> Result<Value> {
    let status = agent.status()?;
    let sinks = status["events"]["sinks"].as_array().context("status has no sinks")?;
    let found = sinks.iter().find(|sink| sink["name"] == name);
    Ok(found.with_context(|| format!("no {name} among {sinks:?}"))?.clone())
}

/// The JSON lines of a file that the agent sees.
fn lines(lab: &Lab, path: &str) -> Result<Vec<Value>> {
    let text = String::from_utf8(lab.run("cat", &[path])?.stdout)?;
    text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

fn ports(denials: &[Value]) -> Vec<u64> {
    denials.iter().filter_map(|denial| denial["peer"]["port"].as_u64()).collect()
}

#[test]
fn a_file_is_told_what_standard_output_is_told_and_may_be_rotated() -> Result<()> {
    let lab = Lab::new()?;
    let ci = lab.probe("/ci")?;
    let folder = TempDir::new()?;
    let (path, old) = (folder.path().join("denials.jsonl"), folder.path().join("denials.jsonl.1"));
    let agent = lab
        .agent(POLICY)?
        .settings(&format!("[[sink]]\ntype = \"stdout\"\n[[sink]]\ntype = \"file\"\npath = {path:?}\n"))?
        .start()?;
    calls(&ci, 1..11)?;
    until("ten are in the file", || Ok(sink(&agent, "file")?["delivered"] == 10))?;
    fs::rename(&path, &old)?;
    calls(&ci, 11..21)?;
    until("all are in the files", || Ok(sink(&agent, "file")?["delivered"] == 20))?;
    agent.denials().expect(&json!({"peer": {"port": 20}}))?;
    let told: Vec<Value> = agent.denials().all()?.into_iter().map(|denial| denial.record).collect();
    agent.stop()?;
    let (before, after) = (lines(&lab, &old.to_string_lossy())?, lines(&lab, &path.to_string_lossy())?);
    ensure!(ports(&before) == (1..11).collect::<Vec<_>>(), "before: {:?}", ports(&before));
    ensure!(ports(&after) == (11..21).collect::<Vec<_>>(), "after: {:?}", ports(&after));
    ensure!([before, after].concat() == told, "the file tells otherwise than standard output");
    Ok(())
}

#[test]
fn a_full_disk_holds_up_nobody_and_all_is_written_once_there_is_room() -> Result<()> {
    const CALLS: u16 = 60;
    let lab = Lab::new()?;
    let ci = lab.probe("/ci")?;
    let folder = TempDir::new()?;
    let place = folder.path().to_string_lossy().into_owned();
    lab.run("mount", &["-t", "tmpfs", "-o", "size=16k", "small", &place])?;
    let path = format!("{place}/denials.jsonl");
    let agent = lab
        .agent(POLICY)?
        .settings(&format!("[[sink]]\ntype = \"stdout\"\n[[sink]]\ntype = \"file\"\npath = {path:?}\n"))?
        .start()?;
    calls(&ci, 1..CALLS + 1)?;
    until("the disk is full", || {
        Ok(sink(&agent, "file")?["failing"].as_str().is_some_and(|why| why.contains("No space left")))
    })?;
    until("standard output has all", || Ok(sink(&agent, "stdout")?["delivered"] == CALLS))?;
    let there = lines(&lab, &path)?;
    ensure!(!there.is_empty() && there.len() < CALLS.into(), "{} lines on a full disk", there.len());
    lab.run("mount", &["-o", "remount,size=1m", &place])?;
    until("the rest is written", || Ok(sink(&agent, "file")?["delivered"] == CALLS))?;
    let told = sink(&agent, "file")?;
    ensure!(told["lost"] == 0 && told["failing"].is_null(), "{told}");
    let there = lines(&lab, &path)?;
    ensure!(ports(&there) == (1..=u64::from(CALLS)).collect::<Vec<_>>(), "{:?}", ports(&there));
    agent.stop()?;
    Ok(())
}

#[test]
fn the_journal_holds_every_fact_in_a_field() -> Result<()> {
    let lab = Lab::new()?;
    let ci = lab.probe("/ci")?;
    let machine = Machine::boot(&lab, &[])?;
    let socket = machine.outside("/run/systemd/journal/socket");
    let agent = lab
        .agent(POLICY)?
        .settings(&format!("[[sink]]\ntype = \"journald\"\npath = {socket:?}\n"))?
        .start()?;
    let to = at([192, 0, 2, 1], 5432);
    refused("ci to another machine", ci.tcp(to)?)?;
    until("the journal has it", || Ok(!machine.journal(&["SYSLOG_IDENTIFIER=bulkhead"])?.is_empty()))?;
    let entries = machine.journal(&["BULKHEAD_WORKLOAD=ci", "BULKHEAD_PEER_ADDRESS=192.0.2.1"])?;
    let [entry] = &entries[..] else { anyhow::bail!("{entries:?}") };
    let pid = ci.pid().to_string();
    for (field, value) in [
        ("BULKHEAD_VERDICT", "denied"),
        ("BULKHEAD_WORKLOAD_ENVIRONMENT", "dev"),
        ("BULKHEAD_WORKLOAD_CGROUP", "/ci"),
        ("BULKHEAD_PEER_PORT", "5432"),
        ("BULKHEAD_PROCESS_PID", &pid),
        ("BULKHEAD_PROCESS_COMM", "bulkhead-probe"),
        ("BULKHEAD_REASON", "no-rule"),
        ("BULKHEAD_COUNT", "1"),
        ("PRIORITY", "4"),
    ] {
        ensure!(entry[field] == value, "{field} is {} and not {value}", entry[field]);
    }
    let message = entry["MESSAGE"].as_str().context("no message")?;
    ensure!(message.starts_with("denied ci (dev) → 192.0.2.1 tcp/5432: no rule allows it"), "{message}");
    agent.stop()?;
    Ok(())
}

/// Rotel, a collector of OpenTelemetry's by others, that shows what it takes.
fn collector(lab: &Lab, files: &TempDir) -> Result<Follower> {
    let environment = python::environment("collector")?;
    let listed = fs::read_dir(environment.join("lib"))?.collect::<Result<Vec<_>, _>>()?;
    let of_python = listed.first().context("an empty environment")?.path();
    let mut command =
        Place::new(lab.outside()?, lab.host()).command(of_python.join("site-packages/rotel/rotel-agent"));
    command.args([
        "start",
        "--exporter",
        "blackhole",
        "--debug-log",
        "logs",
        "--debug-log-verbosity",
        "detailed",
    ]);
    command.arg("--pid-file").arg(files.path().join("pid"));
    Follower::of(command)
}

#[test]
fn a_collector_reads_every_fact() -> Result<()> {
    let (lab, files) = (Lab::new()?, TempDir::new()?);
    let ci = lab.probe("/ci")?;
    let collector = collector(&lab, &files)?;
    let sinks = "[[sink]]\ntype = \"otlp\"\naddress = \"http://127.0.0.1:4318\"\n";
    let agent = lab.agent(POLICY)?.settings(sinks)?.start()?;
    refused("ci to another machine", ci.tcp(at([192, 0, 2, 1], 5432))?)?;
    until("the collector has it", || Ok(sink(&agent, "otlp")?["delivered"] == 1))?;
    let mut told = Vec::new();
    while !told.last().is_some_and(|line: &String| line.starts_with("Flags:")) {
        told.push(collector.next()?.1);
    }
    let pid = format!("-> bulkhead.process.pid: Int({})", ci.pid());
    for fact in [
        "-> service.name: Str(bulkhead)",
        "SeverityText: WARN",
        "SeverityNumber: SEVERITY_NUMBER_WARN(13)",
        "EventName: bulkhead.denial",
        "-> bulkhead.verdict: Str(denied)",
        "-> bulkhead.workload.name: Str(ci)",
        "-> bulkhead.workload.environment: Str(dev)",
        "-> bulkhead.peer.address: Str(192.0.2.1)",
        "-> bulkhead.peer.port: Int(5432)",
        "-> bulkhead.process.comm: Str(bulkhead-probe)",
        &pid,
        "-> bulkhead.reason: Str(no-rule)",
        "-> bulkhead.count: Int(1)",
    ] {
        ensure!(told.iter().any(|line| line.trim() == fact), "no {fact:?} in\n{}", told.join("\n"));
    }
    let body = told.iter().find_map(|line| line.strip_prefix("Body: Str(")).context("no body")?;
    ensure!(body.starts_with("denied ci (dev) → 192.0.2.1 tcp/5432: no rule allows it"), "{body}");
    agent.stop()?;
    Ok(())
}

#[test]
fn sinks_that_are_away_hold_up_nobody() -> Result<()> {
    const CALLS: u16 = 500;
    let lab = Lab::new()?;
    let ci = lab.probe("/ci")?;
    let folder = TempDir::new()?;
    let full = folder.path().join("full");
    // It is there, and nobody ever reads from it.
    let _full = UnixDatagram::bind(&full)?;
    let agent = lab
        .agent(POLICY)?
        .settings(&format!(
            "[[sink]]\ntype = \"stdout\"\n\
             [[sink]]\ntype = \"syslog\"\nname = \"full\"\naddress = {full:?}\n\
             [[sink]]\ntype = \"syslog\"\nname = \"nobody\"\naddress = \"tcp://127.0.0.1:601\"\n\
             [[sink]]\ntype = \"otlp\"\naddress = \"http://127.0.0.1:4318\"\n",
        ))?
        .start()?;
    calls(&ci, 1..CALLS + 1)?;
    until("standard output has all", || Ok(sink(&agent, "stdout")?["delivered"] == CALLS))?;
    for name in ["nobody", "otlp"] {
        until("it is said", || {
            Ok(sink(&agent, name)?["failing"].as_str().is_some_and(|why| why.contains("refused")))
        })?;
    }
    let before = Instant::now();
    agent.stop()?;
    ensure!(before.elapsed() < Duration::from_secs(8), "it took {:?} to stop", before.elapsed());
    Ok(())
}

/// What the metrics tell.
pub(crate) struct Metrics(String);

impl Metrics {
    pub(crate) fn of(lab: &Lab) -> Result<Self> {
        let read =
            lab.run("curl", &["--silent", "--show-error", "--fail", "http://127.0.0.1:9469/metrics"])?;
        Ok(Self(String::from_utf8(read.stdout)?))
    }

    /// The value of the series that is written so.
    pub(crate) fn value(&self, series: &str) -> Result<u64> {
        let mut lines = self.0.lines().filter_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        Ok(lines.next().with_context(|| format!("no {series} in\n{}", self.0))?.parse()?)
    }

    /// Name and type of each metric, and the names of its labels.
    fn families(&self) -> Vec<(String, String, Vec<String>)> {
        let types = self.0.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        types
            .map(|(family, kind)| {
                let name = match kind {
                    "counter" => format!("{family}_total"),
                    "info" => format!("{family}_info"),
                    _ => family.to_owned(),
                };
                let series = self.0.lines().find_map(|line| line.strip_prefix(&name)?.strip_prefix('{'));
                let labels = series.and_then(|rest| rest.split_once('}')).map_or("", |(labels, _)| labels);
                let labels = labels.split(',').filter_map(|label| label.split_once('='));
                (name.clone(), kind.to_owned(), labels.map(|(label, _)| label.to_owned()).collect())
            })
            .collect()
    }
}

pub(crate) fn with_metrics(lab: &Lab) -> Result<Agent> {
    lab.agent(POLICY)?.settings("[metrics]\n")?.start()
}

#[test]
fn metrics_count_what_happened() -> Result<()> {
    let lab = Lab::new()?;
    let (web, db, ci) = (lab.probe("/web")?, lab.probe("/db")?, lab.probe("/ci")?);
    let to: SocketAddr = at(lab.host().v4, PORT);
    db.serve(Kind::Tcp, to)?;
    let agent = with_metrics(&lab)?;
    allowed("web to db", web.tcp(to)?)?;
    refused("ci to db", ci.tcp(to)?)?;
    calls(&ci, 1..6)?;
    agent.denials().expect(&json!({"peer": {"port": 5}}))?;
    let metrics = Metrics::of(&lab)?;
    for (series, expected) in [
        ("bulkhead_dry_run", 0),
        ("bulkhead_rules", 1),
        ("bulkhead_workloads", 3),
        ("bulkhead_workload_cgroups{workload=\"ci\"}", 1),
        ("bulkhead_refusals_total", 6),
        ("bulkhead_refused_calls_total", 6),
        ("bulkhead_sink_delivered_total{sink=\"stdout\",type=\"stdout\"}", 6),
        ("bulkhead_sink_lost_total{sink=\"stdout\",type=\"stdout\"}", 0),
        ("bulkhead_connections_total{verdict=\"allowed\"}", 2),
        ("bulkhead_packets_total{verdict=\"denied\"}", 0),
        ("bulkhead_faults_total", 0),
        ("bulkhead_workload_connections_total{workload=\"web\",direction=\"egress\",verdict=\"allowed\"}", 1),
        ("bulkhead_workload_connections_total{workload=\"db\",direction=\"ingress\",verdict=\"allowed\"}", 1),
        ("bulkhead_workload_refused_calls_total{workload=\"ci\",direction=\"egress\",verdict=\"denied\"}", 6),
    ] {
        let value = metrics.value(series)?;
        ensure!(value == expected, "{series} is {value} and not {expected}");
    }
    let status = agent.status()?;
    let packets = status["traffic"]["allowed"]["packets"].as_u64();
    ensure!(packets == Some(metrics.value("bulkhead_packets_total{verdict=\"allowed\"}")?), "{status}");
    agent.stop()?;
    Ok(())
}

#[test]
fn what_a_workload_has_done_is_counted_on_over_policies() -> Result<()> {
    const SERIES: &str =
        "bulkhead_workload_refused_calls_total{workload=\"ci\",direction=\"egress\",verdict=\"denied\"}";
    let lab = Lab::new()?;
    let ci = lab.probe("/ci")?;
    let agent = with_metrics(&lab)?;
    let folder = TempDir::new()?;
    for round in 1..=5 {
        calls(&ci, 1..4)?;
        let seen = Metrics::of(&lab)?.value(SERIES)?;
        ensure!(seen == 3 * round, "{seen} calls of ci, and not {}", 3 * round);
        // Subjects are numbered anew: ci is another one each time.
        let others = (0..round).map(|n| format!("[workload.a{n}]\nselect = {{ cgroup = \"/a{n}\" }}\n"));
        let policy = folder.path().join("policy.toml");
        fs::write(&policy, others.collect::<Vec<_>>().concat() + POLICY)?;
        let (policy, socket) = (policy.to_string_lossy(), agent.control_socket());
        let applied =
            lab.bulkhead(&["apply", &policy, "--force", "--control-socket", &socket.to_string_lossy()])?;
        ensure!(applied.status.success(), "apply: {}", String::from_utf8_lossy(&applied.stderr));
    }
    let seen = Metrics::of(&lab)?.value(SERIES)?;
    ensure!(seen == 15, "{seen} calls of ci after the last policy");
    agent.stop()?;
    Ok(())
}

#[test]
fn the_page_lists_the_metrics_that_are_served() -> Result<()> {
    let lab = Lab::new()?;
    let (web, db, ci) = (lab.probe("/web")?, lab.probe("/db")?, lab.probe("/ci")?);
    let to: SocketAddr = at(lab.host().v4, PORT);
    db.serve(Kind::Tcp, to)?;
    let agent = with_metrics(&lab)?;
    allowed("web to db", web.tcp(to)?)?;
    refused("ci to db", ci.tcp(to)?)?;
    let served = Metrics::of(&lab)?.families();
    agent.stop()?;
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reporting.md"))?;
    let rows = page.lines().filter(|line| line.starts_with("| `bulkhead_"));
    let listed: Vec<_> = rows
        .map(|row| {
            let cell = |n: usize| row.split('|').nth(n).unwrap_or_default().trim().replace('`', "");
            let labels = cell(3);
            let labels = labels.split(", ").filter(|label| !label.is_empty()).map(str::to_owned);
            (cell(1), cell(2), labels.collect::<Vec<_>>())
        })
        .collect();
    for family in &served {
        ensure!(listed.contains(family), "served, and not so in docs/reporting.md: {family:?}");
    }
    for family in &listed {
        ensure!(served.contains(family), "in docs/reporting.md, and not so served: {family:?}");
    }
    Ok(())
}

#[test]
fn the_metrics_server_does_nothing_but_tell_metrics() -> Result<()> {
    let lab = Lab::new()?;
    let agent = with_metrics(&lab)?;
    let ask = |arguments: &[&str], path: &str| -> Result<String> {
        let url = format!("http://127.0.0.1:9469{path}");
        let write = ["--silent", "--output", "/dev/null", "--write-out", "%{http_code}", &*url];
        Ok(String::from_utf8(lab.run("curl", &[&write, arguments].concat())?.stdout)?)
    };
    let long = format!("X-Long: {}", "x".repeat(100_000));
    for (arguments, path, status) in [
        (&[][..], "/metrics", "200"),
        (&[], "/", "404"),
        (&["--request", "POST", "--data", "x"], "/metrics", "405"),
        (&["--header", &long], "/metrics", "431"),
    ] {
        let answer = ask(arguments, path)?;
        ensure!(answer == status, "{arguments:?} {path}: {answer} and not {status}");
    }
    // Who sends nothing keeps nobody waiting: not even for the five seconds that it may take its time.
    let hold = "for n in 1 2 3 4 5 6 7 8; do exec 3<>/dev/tcp/127.0.0.1/9469; eval \"exec 1$n>&3\"; done; \
                curl --silent --fail --max-time 3 --output /dev/null http://127.0.0.1:9469/metrics";
    lab.run("bash", &["-c", hold])?;
    agent.stop()?;
    Ok(())
}

#[test]
fn a_taken_address_stops_no_enforcement() -> Result<()> {
    let lab = Lab::new()?;
    let (ci, other) = (lab.probe("/ci")?, lab.probe("/other")?);
    let server = other.serve(Kind::Tcp, at([127, 0, 0, 1], 9469))?;
    let agent = with_metrics(&lab)?;
    calls(&ci, 1..2)?;
    let status = agent.status()?;
    let warnings = status["warnings"].as_array().context("no warnings")?;
    let told =
        warnings.iter().filter_map(Value::as_str).any(|said| said.starts_with("metrics are not served"));
    ensure!(told, "{warnings:?}");
    drop((server, other));
    until("the address is free", || Ok(Metrics::of(&lab).is_ok()))?;
    agent.stop()?;
    Ok(())
}

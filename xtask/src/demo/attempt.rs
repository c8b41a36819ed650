//! What is tried, by curl, and what came of it.

use std::{fmt, path::Path, process::Stdio, time::Duration};

use anyhow::{Context as _, Result};
use bulkhead_tests::Agent;
use serde_json::{Value, json};

use super::{
    interrupt::Interrupt,
    scene::{Scene, Who},
    table::{self, Colour},
};

/// A refused caller is told within this time, curl's own start included.
const AT_ONCE: Duration = Duration::from_millis(50);

/// Somebody tries to reach somebody.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt {
    pub(crate) from: Who,
    pub(crate) to: Who,
    pub(crate) url: &'static str,
    pub(crate) expected: Expected,
}

/// What the policy says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    Allowed,
    /// The caller is a workload of this host: it is told at once.
    Refused,
    /// The caller is another machine: it gets no answer.
    Ignored,
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(if *self == Self::Allowed { "allowed" } else { "refused" })
    }
}

use Expected::{Allowed, Ignored, Refused};

pub(crate) const ATTEMPTS: [Attempt; 8] = [
    attempt(Who::Customer, Who::Web, "http://10.77.0.2/", Allowed),
    attempt(Who::Web, Who::Db, "telnet://10.77.0.3:5432", Allowed),
    attempt(Who::Backup, Who::Secrets, "telnet://127.0.0.1:8200", Allowed),
    attempt(Who::Ci, Who::Mirror, "http://10.77.0.5/", Allowed),
    attempt(Who::Ci, Who::Secrets, "telnet://127.0.0.1:8200", Refused),
    attempt(Who::Ci, Who::Db, "telnet://10.77.0.3:5432", Refused),
    attempt(Who::Web, Who::Customer, "http://10.77.0.4/", Refused),
    attempt(Who::Customer, Who::Db, "telnet://10.77.0.3:5432", Ignored),
];

const fn attempt(from: Who, to: Who, url: &'static str, expected: Expected) -> Attempt {
    Attempt { from, to, url, expected }
}

impl Attempt {
    /// Address and port.
    pub(crate) fn target(&self) -> (&'static str, u16) {
        let host = self.url.split("://").nth(1).unwrap_or_default().trim_end_matches('/');
        match host.split_once(':') {
            Some((address, port)) => (address, port.parse().unwrap_or_default()),
            None => (host, 80),
        }
    }
}

/// What came of an attempt.
#[derive(Clone, Debug)]
pub(crate) struct Observed {
    pub(crate) outcome: Outcome,
    /// Does it, with its report, agree with what the policy says?
    pub(crate) fits: bool,
}

/// What curl saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Answered,
    /// Answered, and reported as what enforcing would refuse.
    WouldDeny,
    RefusedIn(Duration),
    NoAnswer,
    /// Another of curl's exit statuses.
    Failed(Option<i32>),
}

impl Outcome {
    pub(crate) const fn colour(self) -> Colour {
        match self {
            Self::Answered => Colour::Green,
            Self::WouldDeny => Colour::Yellow,
            Self::RefusedIn(_) | Self::NoAnswer | Self::Failed(_) => Colour::Red,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Answered => "answered".to_owned(),
            Self::WouldDeny => "would be refused".to_owned(),
            Self::RefusedIn(time) => format!("refused in {:.1} ms", time.as_secs_f64() * 1000.0),
            Self::NoAnswer => "no answer".to_owned(),
            Self::Failed(status) => format!("curl failed: {status:?}"),
        };
        f.pad(&text)
    }
}

/// Tries everything, prints each as it comes, and gives what came of it.
pub(crate) fn all(
    scene: &Scene,
    agent: &Agent,
    dry_run: bool,
    interrupt: &Interrupt,
) -> Result<Vec<Observed>> {
    let mut observed = Vec::new();
    for attempt in &ATTEMPTS {
        interrupt.check()?;
        let (pid, seen) = curl(scene, attempt)?;
        let report = report(agent, attempt, pid, dry_run)?;
        let outcome = if seen == Outcome::Answered && report.is_some() { Outcome::WouldDeny } else { seen };
        let fits = fits(attempt.expected, outcome, report.is_some(), dry_run);
        let (from, to) = (attempt.from.label(), attempt.to.label());
        println!(
            "    {from:<13} → {to:<14}  {:<23}  {}",
            attempt.url,
            table::paint(outcome.colour(), outcome)
        );
        if let Some(report) = report {
            println!("                    {}", explain(&report));
        }
        observed.push(Observed { outcome, fits });
    }
    Ok(observed)
}

/// Has a real client try it: its process id and what it saw.
fn curl(scene: &Scene, attempt: &Attempt) -> Result<(u32, Outcome)> {
    let child = scene
        .place(attempt.from)?
        .command("curl")
        .args([
            "--silent",
            "--output",
            "/dev/null",
            "--max-time",
            "1",
            "--write-out",
            "%{time_total}",
            attempt.url,
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("nsenter cannot be started (package util-linux)")?;
    let pid = child.id();
    let output = child.wait_with_output()?;
    let seconds = String::from_utf8_lossy(&output.stdout).parse::<f64>().unwrap_or_default();
    let outcome = match output.status.code() {
        Some(0) => Outcome::Answered,
        // CURLE_COULDNT_CONNECT
        Some(7) => Outcome::RefusedIn(Duration::from_secs_f64(seconds)),
        // CURLE_OPERATION_TIMEDOUT
        Some(28) => Outcome::NoAnswer,
        other => Outcome::Failed(other),
    };
    Ok((pid, outcome))
}

/// The report that the attempt should have caused, or none if it should have caused none. Where there is none that
/// should be, none comes in time.
fn report(agent: &Agent, attempt: &Attempt, pid: u32, dry_run: bool) -> Result<Option<Value>> {
    let (address, port) = attempt.target();
    let verdict = if dry_run { "would-deny" } else { "denied" };
    let end = |who: Who| json!({"name": who.name(), "environment": who.environment()});
    let wanted = match attempt.expected {
        Allowed => {
            let denials = agent.denials().matching(&json!({"peer": {"address": address}}))?;
            let mut records = denials.into_iter().map(|denial| denial.record);
            return Ok(records.find(|record| record["workload"]["name"] == attempt.from.name()));
        }
        Refused => json!({
            "verdict": verdict, "direction": "egress", "protocol": "tcp", "workload": end(attempt.from),
            "process": {"pid": pid, "comm": "curl"}, "peer": {"address": address, "port": port}, "reason": "no-rule",
        }),
        Ignored => json!({
            "verdict": verdict, "direction": "ingress", "protocol": "tcp", "workload": end(attempt.to),
            "service": format!("tcp/{port}"), "reason": "no-rule",
        }),
    };
    Ok(agent.denials().expect(&wanted).ok().map(|denial| denial.record))
}

fn fits(expected: Expected, outcome: Outcome, reported: bool, dry_run: bool) -> bool {
    match (expected, outcome) {
        (Allowed, Outcome::Answered) => !reported,
        (Refused | Ignored, Outcome::WouldDeny) => dry_run,
        (Refused, Outcome::RefusedIn(time)) => !dry_run && reported && time < AT_ONCE,
        (Ignored, Outcome::NoAnswer) => !dry_run && reported,
        _ => false,
    }
}

/// A report in one line: who, and which rule comes closest.
fn explain(report: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let mut parts = Vec::new();
    let process = &report["process"];
    if process.is_object() {
        let exe = process["exe"].as_str().unwrap_or("already gone");
        parts.push(format!("{} (pid {}, {exe})", text(&process["comm"]), process["pid"]));
    }
    let nearest = &report["nearest_rule"];
    if nearest.is_object() {
        let file = text(&nearest["file"]);
        let file =
            Path::new(&file).file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or(file);
        let differs = nearest["differs"].as_array().into_iter().flatten().map(text).collect::<Vec<_>>();
        let rule = text(&nearest["id"]);
        parts.push(format!(
            "nearest rule {rule} ({file}:{}) differs in {}",
            nearest["line"],
            differs.join(", ")
        ));
    }
    parts.join("; ")
}

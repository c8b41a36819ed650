//! `bulkhead status`.

use std::{fmt::Write, io, path::Path};

use anstyle::{AnsiColor, Style};
use bulkhead_policy::ContentHash;
use bulkhead_report::plain;

use crate::{
    cli::Output,
    control::{ClientError, STATUS, Status, Traffic, get},
    output::{self, plural},
};

/// Asks the agent on `socket` what it enforces.
pub(crate) async fn ask(socket: &Path, output: Output) -> Result<String, ClientError> {
    let status: Status = get(socket, STATUS).await?;
    Ok(match output {
        Output::Json => output::json(&status),
        Output::Human => render(&status, output::color(&io::stdout())),
    })
}

fn render(status: &Status, color: bool) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut out, status, color);
    out
}

fn write(out: &mut String, status: &Status, color: bool) -> std::fmt::Result {
    let paint = |style: Style, text: &str| {
        if color { format!("{style}{text}{style:#}") } else { text.to_owned() }
    };
    let bold = |text: &str| paint(Style::new().bold(), text);
    let doing = if status.dry_run { "dry run: nothing is refused" } else { "enforcing" };
    writeln!(
        out,
        "bulkhead {} (pid {}), {}, for {}",
        status.version,
        status.pid,
        doing,
        output::age(status.uptime)
    )?;
    writeln!(out, "  cgroup root  {}", plain(&status.cgroup_root.to_string_lossy()))?;
    writeln!(
        out,
        "  policy       {}: {}, hash {}, generation {}",
        plain(&status.policy.join(", ")),
        plural(status.rules, "rule"),
        plain(&shortened(&status.policy_hash)),
        status.generation
    )?;
    if let Some(trial) = status.trial {
        writeln!(
            out,
            "  on trial     for another {:.0} s: say `bulkhead confirm` to keep it",
            trial.ends_in
        )?;
    }
    if let Some(shadow) = &status.shadow {
        writeln!(
            out,
            "  compared     {}: hash {}, since {:.0}; `bulkhead shadow` shows what it decides otherwise",
            plain(&shadow.policy.join(", ")),
            plain(&shortened(&shadow.policy_hash)),
            shadow.since
        )?;
    }
    let events = &status.events;
    writeln!(out, "  refusals     {} ({} not recorded)", events.refusals, events.dropped)?;
    for (n, sink) in events.sinks.iter().enumerate() {
        let what = if n == 0 { "told to" } else { "" };
        write!(out, "  {what:<12} {}: {} ({} lost)", plain(&sink.name), sink.delivered, sink.lost)?;
        if let Some(why) = &sink.failing {
            write!(out, ", {}: {}", paint(AnsiColor::Yellow.on_default().bold(), "failing"), plain(why))?;
        }
        writeln!(out)?;
    }
    if let Some(history) = &events.history {
        write!(out, "  history      {} ({} lost)", history.written, history.lost)?;
        if let Some(why) = &history.failing {
            write!(out, ", {}: {}", paint(AnsiColor::Yellow.on_default().bold(), "failing"), plain(why))?;
        }
        writeln!(out)?;
    }
    if let Some(last) = &events.last_departure {
        let from = last.from.as_deref().unwrap_or("an unknown workload");
        let to = last.to_cgroup.as_deref().unwrap_or("a cgroup beyond the root");
        writeln!(
            out,
            "  departures   {} (last {}[{}] from {} to {}, moved by {}[{}])",
            events.departures,
            plain(&last.comm),
            last.pid,
            plain(from),
            plain(to),
            plain(&last.by_comm),
            last.by_pid
        )?;
    }
    if let Some(traffic) = &status.traffic {
        let Traffic { allowed, denied, would_deny, other, .. } = traffic;
        write!(out, "  packets      {} allowed, {} denied", allowed.packets, denied.packets)?;
        for (packets, what) in [(would_deny.packets, "would be denied"), (other.packets, "not told apart")] {
            if packets > 0 {
                write!(out, ", {packets} {what}")?;
            }
        }
        writeln!(out)?;
    }
    let mut environments: Vec<Option<&str>> =
        status.environments.iter().map(|e| Some(e.name.as_str())).collect();
    environments.push(None);
    for environment in environments {
        let members: Vec<_> =
            status.workloads.iter().filter(|w| w.environment.as_deref() == environment).collect();
        match environment {
            Some(name) => {
                let mode = status.environments.iter().find(|e| e.name == name).map_or("", |e| &e.mode);
                writeln!(out, "\n{} ({mode})", bold(&plain(name)))?;
            }
            None if members.is_empty() => continue,
            None => writeln!(out, "\nin no environment (enforce)")?,
        }
        for workload in members {
            write!(out, "  {:<16}", plain(&workload.name))?;
            if workload.cgroups.is_empty() {
                write!(out, " nothing yet")?;
            }
            for (n, cgroup) in workload.cgroups.iter().enumerate() {
                let blank = if n == 0 { " " } else { "\n                   " };
                write!(out, "{blank}{}", plain(cgroup))?;
            }
            let addresses: Vec<String> = workload.addresses.iter().map(ToString::to_string).collect();
            if !addresses.is_empty() {
                write!(out, "  {}", addresses.join(" "))?;
            }
            writeln!(out)?;
        }
    }
    if !status.warnings.is_empty() {
        writeln!(out)?;
    }
    for warning in &status.warnings {
        writeln!(out, "{} {}", paint(AnsiColor::Yellow.on_default().bold(), "warning:"), plain(warning))?;
    }
    Ok(())
}

/// As `bulkhead check` shows a hash to people.
pub(crate) fn shortened(hash: &str) -> String {
    hash.chars().take(ContentHash::SHORT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{Count, Environment, Events, History, Shadow, Sink, Trial, Workload};

    #[test]
    fn a_status_shows_each_environment_with_its_workloads() {
        let workload = |name: &str, environment: Option<&str>, cgroups: &[&str]| Workload {
            name: name.into(),
            environment: environment.map(Into::into),
            mode: "enforce".into(),
            cgroups: cgroups.iter().map(|&c| c.into()).collect(),
            addresses: Vec::new(),
        };
        let sink = |name: &str, delivered, lost, failing: Option<&str>| Sink {
            name: name.into(),
            r#type: name.into(),
            delivered,
            lost,
            failing: failing.map(Into::into),
        };
        let status = Status {
            version: "0.1.0".into(),
            pid: 812,
            uptime: 3 * 3600 + 61,
            cgroup_root: "/sys/fs/cgroup".into(),
            dry_run: false,
            generation: 4,
            policy: vec!["shop.toml".into()],
            policy_hash: "8975e208e695".repeat(5) + "f00d",
            tables_hash: "c871eb9ccec8".repeat(5) + "f00d",
            trial: Some(Trial { ends_in: 41.7 }),
            shadow: Some(Shadow {
                policy: vec!["new.toml".into()],
                policy_hash: "badd111dc976".repeat(5) + "f00d",
                generation: 5,
                compared_with: "8975e208e695".repeat(5) + "f00d",
                since: "2026-11-21T20:15:03Z".parse().unwrap(),
            }),
            rules: 1,
            environments: vec![
                Environment { name: "prod".into(), mode: "enforce".into(), workloads: 2 },
                Environment { name: "dev".into(), mode: "audit".into(), workloads: 0 },
            ],
            workloads: vec![
                Workload {
                    addresses: vec![[10, 0, 3, 7].into()],
                    ..workload("db", Some("prod"), &["/system.slice/db.service"])
                },
                workload("web", Some("prod"), &["/web.slice/a", "/web.slice/b\x1b[2J"]),
                workload("batch", None, &[]),
            ],
            warnings: vec!["workload batch selects nothing now (shop.toml:12)".into()],
            events: Events {
                refusals: 17,
                unprinted: 2,
                history: Some(History {
                    written: 16,
                    lost: 1,
                    evicted: 3,
                    failing: Some("No space left on device (os error 28)".into()),
                }),
                sinks: vec![
                    sink("stdout", 15, 2, None),
                    sink("syslog", 9, 0, Some("/dev/log: No such file or directory (os error 2)")),
                ],
                ..Events::default()
            },
            traffic: Some(Traffic {
                allowed: Count { packets: 120, bytes: 9_000, connections: 3 },
                other: Count { packets: 1, ..Count::default() },
                ..Traffic::default()
            }),
        };
        insta::assert_snapshot!(render(&status, false));
    }
}

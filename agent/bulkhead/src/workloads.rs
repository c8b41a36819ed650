//! `bulkhead workloads`.

use std::{io, path::Path};

use anstyle::{AnsiColor, Style};
use bulkhead_report::plain;
use indicatif::{HumanBytes, HumanCount};
use jiff::Timestamp;

use crate::{
    cli::Output,
    control::{ClientError, DetailedWorkload, WORKLOADS, get},
    output,
    table::{Cell, Table},
};

/// Asks the agent on `socket` for its workloads.
pub(crate) async fn ask(socket: &Path, output: Output) -> Result<String, ClientError> {
    let workloads: Vec<DetailedWorkload> = get(socket, WORKLOADS).await?;
    Ok(match output {
        Output::Json => workloads.iter().map(output::json).collect(),
        Output::Human => render(&workloads, Timestamp::now(), output::color(&io::stdout())),
    })
}

fn render(workloads: &[DetailedWorkload], now: Timestamp, color: bool) -> String {
    let mut table = Table::new(&[
        "workload",
        "environment",
        "mode",
        ">processes",
        ">connections",
        ">packets",
        ">bytes",
        ">refused",
        ">last seen",
        "where",
    ]);
    let red = AnsiColor::Red.on_default().bold();
    let dim = Style::new().dimmed();
    for detailed in workloads {
        let DetailedWorkload { workload, processes, traffic, .. } = detailed;
        let [connections, packets, bytes, refused, last] = match traffic {
            Some(traffic) => {
                let judged = traffic.judged();
                let refusals = traffic.refusals();
                [
                    HumanCount(judged.connections).to_string().into(),
                    HumanCount(judged.packets).to_string().into(),
                    HumanBytes(judged.bytes).to_string().into(),
                    Cell::styled(
                        HumanCount(refusals).to_string(),
                        if refusals > 0 { red } else { Style::new() },
                    ),
                    traffic.last_seen.map_or("never".into(), |last| output::ago(last, now).into()),
                ]
            }
            None => ["?"; 5].map(Into::into),
        };
        let mut places = detailed.places();
        let first = places.next();
        table.push(vec![
            Cell::styled(plain(&workload.name), Style::new().bold()),
            workload.environment.as_deref().map_or("-".into(), plain).into(),
            workload.mode.as_str().into(),
            HumanCount(*processes as u64).to_string().into(),
            connections,
            packets,
            bytes,
            refused,
            last,
            first.map_or_else(|| Cell::styled(detailed.nothing(), dim), Into::into),
        ]);
        for place in places {
            let mut row: Vec<Cell> = vec!["".into(); 9];
            row.push(place.into());
            table.push(row);
        }
    }
    table.render(color)
}

/// So many cgroups of a workload are shown to people.
const SHOWN: usize = 5;

impl DetailedWorkload {
    /// Where it is: cgroups, then addresses of its own.
    fn places(&self) -> impl Iterator<Item = String> {
        let cgroups = &self.workload.cgroups;
        let more = cgroups.len().saturating_sub(SHOWN);
        let more = (more > 0).then(|| format!("and {more} more; --output json has all"));
        let addresses: Vec<String> = self.workload.addresses.iter().map(ToString::to_string).collect();
        let addresses = (!addresses.is_empty()).then(|| addresses.join(" "));
        cgroups.iter().take(SHOWN).map(|cgroup| plain(cgroup)).chain(more).chain(addresses)
    }

    fn nothing(&self) -> String {
        format!("nothing is {} now", plain(&self.selectors.join(" or ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{Count, Workload, WorkloadTraffic};

    #[test]
    fn a_workload_is_a_row() {
        let now: Timestamp = "2026-11-21T20:15:03Z".parse().unwrap();
        let workload = |name: &str, environment: Option<&str>, cgroups: &[&str]| Workload {
            name: name.into(),
            environment: environment.map(Into::into),
            mode: "enforce".into(),
            cgroups: cgroups.iter().map(|&cgroup| cgroup.into()).collect(),
            addresses: Vec::new(),
        };
        let web = DetailedWorkload {
            workload: Workload {
                addresses: vec![[10, 0, 3, 7].into(), [10, 0, 3, 8].into()],
                ..workload("web", Some("prod"), &["/web.slice/a", "/b\x1b[2J", "/c", "/d", "/e", "/f", "/g"])
            },
            selectors: vec!["cgroup /**".into()],
            members: 9,
            processes: 1234,
            traffic: Some(WorkloadTraffic {
                allowed: Count { packets: 120_000, bytes: 9_000_000, connections: 37 },
                denied: Count { packets: 3, bytes: 180, connections: 0 },
                refused_calls: 4,
                last_seen: "2026-11-21T20:12:01Z".parse().ok(),
                ..WorkloadTraffic::default()
            }),
        };
        let batch = DetailedWorkload {
            workload: workload("batch", None, &[]),
            selectors: vec!["systemd batch@*.service".into(), "systemd cron.service".into()],
            members: 0,
            processes: 0,
            traffic: Some(WorkloadTraffic::default()),
        };
        let unread =
            DetailedWorkload { workload: workload("db", None, &["/db"]), traffic: None, ..batch.clone() };
        insta::assert_snapshot!(render(&[web, batch, unread], now, false));
    }
}

//! The metrics by name, as OpenMetrics text.

use std::fmt;

use bulkhead_common::Counter;
use bulkhead_datapath::Traffic;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet, text::encode},
    metrics::MetricType,
    registry::{Registry, Unit},
};

use super::Measures;
use crate::{
    control::{History, Sink},
    daemon::ledger::{ByWorkload, Entry},
};

/// All of them, to be sent.
pub(super) fn render(measures: Measures) -> String {
    let read = measures.ledger.read();
    let traffic = read.inspect_err(|error| tracing::warn!(%error, "what was counted cannot be read")).ok();
    let mut registry = Registry::with_prefix("bulkhead");
    registry.register_collector(Box::new(Scraped { measures, traffic }));
    let mut text = String::new();
    encode(&mut text, &registry)
        .unwrap_or_else(|error| unreachable!("writing to a string cannot fail: {error}"));
    text
}

/// What one scrape tells.
struct Scraped {
    measures: Measures,
    /// None: it could not be read, and nothing is said of it.
    traffic: Option<(Traffic, ByWorkload)>,
}

impl fmt::Debug for Scraped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scraped").finish_non_exhaustive()
    }
}

impl Collector for Scraped {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families(encoder);
        self.agent(&mut families)?;
        self.refusals(&mut families)?;
        self.sinks(&mut families)?;
        self.history(&mut families)?;
        if let Some((traffic, workloads)) = &self.traffic {
            all_traffic(&mut families, traffic)?;
            traffic_of_workloads(&mut families, workloads)?;
        }
        Ok(())
    }
}

impl Scraped {
    fn agent(&self, families: &mut Families<'_>) -> fmt::Result {
        let Measures { uptime, dry_run, on_trial, generation, .. } = &self.measures;
        families.info("build", "What runs", &[("version", env!("CARGO_PKG_VERSION"))])?;
        families.seconds("uptime", "Since the agent enforces", uptime.as_secs_f64())?;
        families.gauge("dry_run", "1: nothing is refused, only reported", u64::from(*dry_run))?;
        families.gauge("on_trial", "1: the policy in force is not confirmed", u64::from(*on_trial))?;
        families.gauge("generation", "Number of the tables in force", u64::from(*generation))?;
        let Measures { rules, environments, workloads, .. } = &self.measures;
        families.gauge("rules", "Rules of the policy in force", *rules as u64)?;
        families.gauge("environments", "Environments of the policy in force", *environments as u64)?;
        families.gauge("workloads", "Workloads of the policy in force", workloads.len() as u64)?;
        let cgroups =
            workloads.iter().map(|(name, cgroups)| ([("workload", name.as_str())], *cgroups as u64));
        families.gauges("workload_cgroups", "Cgroups that a workload's selectors match now", cgroups)?;
        let Measures { crowded, faults, log_lines_lost, events, .. } = &self.measures;
        families.counter(
            "cgroups_crowded",
            "Times that the kernel's tables of cgroups were too small",
            *crowded,
        )?;
        families.counter("faults", "Times that the kernel did not take what it was told", *faults)?;
        let unread = "Lines of the agent's log that are lost, since nobody read standard error";
        families.counter("log_lines_lost", unread, *log_lines_lost as u64)?;
        families.counter("departures", "Processes that were moved out of their workload", events.departures)
    }

    fn refusals(&self, families: &mut Families<'_>) -> fmt::Result {
        let Measures { events, late, .. } = &self.measures;
        families.counter("refusals", "Calls and packets that were refused, or would be", events.refusals)?;
        families.counter("refusals_unreported", "Of these, those that no report tells of", events.dropped)?;
        families.counter(
            "refusals_unprinted",
            "Of these, those that standard output did not take",
            events.unprinted,
        )?;
        families.counter("records_late", "Records that found no room on their way out of the kernel", *late)
    }

    fn sinks(&self, families: &mut Families<'_>) -> fmt::Result {
        let rows = |value: fn(&Sink) -> u64| {
            let sinks = self.measures.events.sinks.iter();
            sinks.map(move |sink| {
                ([("sink", sink.name.as_str()), ("type", sink.r#type.as_str())], value(sink))
            })
        };
        let failing = |sink: &Sink| u64::from(sink.failing.is_some());
        families.counters(
            "sink_delivered",
            "Refusals whose report a sink got",
            None,
            rows(|s| s.delivered),
        )?;
        families.counters(
            "sink_lost",
            "Refusals whose report a sink will never get",
            None,
            rows(|s| s.lost),
        )?;
        families.gauges("sink_failing", "1: a sink takes nothing now", rows(failing))
    }

    fn history(&self, families: &mut Families<'_>) -> fmt::Result {
        let Some(history) = &self.measures.events.history else { return Ok(()) };
        let History { written, lost, evicted, failing } = history;
        families.counter("history_written", "Refusals whose report the history got", *written)?;
        families.counter("history_lost", "Refusals whose report the history will never get", *lost)?;
        let gone = "Reports and flows that have gone from the history to make room for newer ones";
        families.counter("history_evicted", gone, *evicted)?;
        families.gauge("history_failing", "1: nothing is written now", u64::from(failing.is_some()))
    }
}

fn all_traffic(families: &mut Families<'_>, traffic: &Traffic) -> fmt::Result {
    let Traffic { allowed, denied, would_deny, refused_calls, other } = traffic;
    let verdicts = [("allowed", allowed), ("denied", denied), ("would-deny", would_deny), ("other", other)];
    let rows = |value: fn(&Counter) -> u64| {
        verdicts.into_iter().map(move |(verdict, counter)| ([("verdict", verdict)], value(counter)))
    };
    families.counters("packets", "Packets of workloads that were judged", None, rows(|c| c.packets))?;
    families.counters(
        "traffic",
        "Bytes of these packets, with IP headers",
        Some(&Unit::Bytes),
        rows(|c| c.bytes),
    )?;
    families.counters(
        "connections",
        "Connections and exchanges that they opened",
        None,
        rows(|c| c.connections),
    )?;
    families.counter(
        "refused_calls",
        "Calls that were refused, or would be, before there was a packet",
        *refused_calls,
    )
}

fn traffic_of_workloads(families: &mut Families<'_>, workloads: &ByWorkload) -> fmt::Result {
    let rows = |calls: bool, value: fn(&Counter) -> u64| {
        workloads.iter().filter(move |(entry, _)| entry.calls == calls).map(move |(entry, counter)| {
            let Entry { workload, direction, verdict, .. } = entry;
            (
                [("workload", workload.as_str()), ("direction", *direction), ("verdict", *verdict)],
                value(counter),
            )
        })
    };
    families.counters(
        "workload_packets",
        "Packets of a workload that were judged",
        None,
        rows(false, |c| c.packets),
    )?;
    let bytes = rows(false, |c| c.bytes);
    families.counters(
        "workload_traffic",
        "Bytes of these packets, with IP headers",
        Some(&Unit::Bytes),
        bytes,
    )?;
    let connections = rows(false, |c| c.connections);
    families.counters(
        "workload_connections",
        "Connections and exchanges that they opened",
        None,
        connections,
    )?;
    let calls = rows(true, |c| c.packets);
    families.counters(
        "workload_refused_calls",
        "Calls of a workload that were refused, or would be",
        None,
        calls,
    )
}

/// Writes one metric after the other.
struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    fn info(&mut self, name: &str, help: &str, labels: &[(&str, &str)]) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Info)?.encode_info(&labels)
    }

    fn seconds(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        let unit = Unit::Seconds;
        self.0.encode_descriptor(name, help, Some(&unit), MetricType::Gauge)?.encode_gauge(&value)
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        family.encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    fn gauges<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl Iterator<Item = ([(&'l str, &'l str); N], u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in rows {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn counters<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        rows: impl Iterator<Item = ([(&'l str, &'l str); N], u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, unit, MetricType::Counter)?;
        for (labels, value) in rows {
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        Ok(())
    }
}

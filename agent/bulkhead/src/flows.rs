//! `bulkhead flows`.

use std::{
    io::{self, Write as _},
    path::Path,
};

use anstyle::{AnsiColor, Style};
use bulkhead_report::{Flow, plain};
use jiff::Timestamp;

use crate::{
    cli::{FlowsArguments, Output},
    control::{FLOWS, WantedFlows, lines},
    output,
    records::{self, Shown},
};

/// Shows what the agent on `socket` tells of flows.
pub(crate) async fn show(socket: &Path, arguments: &FlowsArguments, output: Output) -> anyhow::Result<()> {
    let FlowsArguments { part, from, to, verdict } = arguments;
    let wanted = WantedFlows {
        follow: part.follow,
        since: part.since(Timestamp::now()),
        limit: Some(part.limit()),
        from: from.clone(),
        to: to.clone(),
        verdict: verdict.clone(),
    };
    let told = lines(socket, FLOWS, &wanted, wanted.follow).await?;
    let color = output::color(&io::stdout());
    if output == Output::Human {
        // A reader that is gone is noticed at the first line.
        let _ = io::stdout().write_all(head().as_bytes());
    }
    let shown = match output {
        Output::Json => Shown::AsTold,
        // What another version has written is still there to be read.
        Output::Human => Shown::ForPeople(&|line| {
            Flow::from_json(line).map_or_else(|_| plain(line) + "\n", |flow| row(&flow, color))
        }),
    };
    records::show(told, shown).await
}

fn head() -> String {
    format!(
        "{:<19}  {:<10}  {:<36}  {:<11}  {:<24}  {:>11}  {:>9}  {:>10}\n",
        "until (UTC)", "verdict", "from → to", "service", "rule or reason", "connections", "packets", "bytes"
    )
}

fn row(flow: &Flow, color: bool) -> String {
    let (verdict, style) = match flow.kind.verdict {
        "denied" => ("denied", AnsiColor::Red.on_default().bold()),
        "would-deny" => ("would deny", AnsiColor::Yellow.on_default().bold()),
        verdict => (verdict, Style::new()),
    };
    let verdict = format!("{verdict:<10}");
    let verdict = if color { format!("{style}{verdict}{style:#}") } else { verdict };
    let cause = match &flow.kind.rule {
        Some(rule) if flow.kind.verdict == "allowed" => {
            format!("{} ({}:{})", plain(&rule.id), plain(&rule.file), rule.line)
        }
        _ => flow.kind.reason.to_owned(),
    };
    let ends = format!("{} → {}", plain(&flow.from()), plain(&flow.to()));
    let time = flow.time.strftime("%Y-%m-%d %H:%M:%S");
    let connections =
        if flow.calls > 0 { format!("{} calls", flow.calls) } else { flow.connections.to_string() };
    format!(
        "{time}  {verdict}  {ends:<36}  {:<11}  {cause:<24}  {connections:>11}  {:>9}  {:>10}\n",
        plain(&flow.kind.service),
        flow.packets,
        flow.bytes
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_is_a_row() {
        let line = r#"{"time":"2026-11-21T20:15:03.123456Z","since":"2026-11-21T20:15:01.123456Z","verdict":"allowed",
            "direction":"ingress","protocol":"tcp","service":"tcp/5432","workload":{"name":"db","environment":"prod"},
            "peer":{"address":null,"port":null,"name":null,"environment":"prod","is":["env:prod","10.0.0.0/8"],
            "like":"10.0.0.0"},"rule":{"id":"web-db","file":"shop.toml","line":31},"reason":"rule","generation":4,
            "count":3,"calls":0,"packets":120,"bytes":9000,"connections":3,
            "first_seen":"2026-11-21T20:00:00Z","last_seen":"2026-11-21T20:15:02Z"}"#;
        let allowed = Flow::from_json(line).unwrap();
        let mut refused = allowed.clone();
        (refused.kind.verdict, refused.kind.reason, refused.kind.rule) = ("denied", "no-rule", None);
        refused.kind.direction = "egress";
        refused.kind.peer.is = Some(Vec::new());
        (refused.calls, refused.packets, refused.bytes, refused.connections) = (7, 0, 0, 0);
        insta::assert_snapshot!(head() + &row(&allowed, false) + &row(&refused, false));
    }
}

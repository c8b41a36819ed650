//! `bulkhead shadow`.

use std::{fmt::Write, io, path::Path};

use anstyle::{AnsiColor, Style};
use bulkhead_report::{Difference, Rule, plain};
use indicatif::HumanCount;
use jiff::Timestamp;

use crate::{
    change::{compile, files, refused},
    cli::{Output, ShadowArguments},
    control::{Candidate, Comparison, SHADOW, Shadow, delete, get, put},
    input::InputError,
    output::{self, Outcome, plural},
    policy_files,
    status::shortened,
    table::{Cell, Table},
};

/// Has the agent on `socket` compare a policy with the one in force, or tell what has come of that.
pub(crate) async fn shadow(
    socket: &Path,
    arguments: &ShadowArguments,
    output: Output,
) -> anyhow::Result<Outcome> {
    if !arguments.paths.is_empty() {
        return begin(socket, arguments, output).await;
    }
    let told = if arguments.end { delete(socket, SHADOW).await } else { get(socket, SHADOW).await };
    told.map_or_else(
        |error| refused(error, output),
        |comparison| Ok(tell(&comparison, arguments.end, output)),
    )
}

async fn begin(socket: &Path, arguments: &ShadowArguments, output: Output) -> anyhow::Result<Outcome> {
    let sources = policy_files::read(&arguments.paths).map_err(InputError::from)?;
    let (policy, warnings) = match compile(&sources, output) {
        Ok(compiled) => compiled,
        Err(outcome) => return Ok(outcome),
    };
    let begun: Shadow = match put(socket, SHADOW, &Candidate { policy: files(sources) }).await {
        Ok(begun) => begun,
        Err(error) => return refused(error, output),
    };
    let text = match output {
        Output::Json => output::json(&begun),
        Output::Human => {
            format!(
                "{warnings}compared with the policy in force from now on, and nothing is refused by it: {} and {}, hash {}, \
                 generation {}. `bulkhead shadow` shows what it decides otherwise\n",
                plural(policy.workloads.len(), "workload"),
                plural(policy.rules.len(), "rule"),
                plain(&shortened(&begun.policy_hash)),
                begun.generation
            )
        }
    };
    Ok(Outcome { text, finding: false })
}

fn tell(comparison: &Comparison, has_ended: bool, output: Output) -> Outcome {
    let Comparison { shadow, ended, differences, untold } = comparison;
    let Some(shadow) = shadow else {
        let why = ended.as_ref().map(|ended| format!(": {}", plain(ended))).unwrap_or_default();
        let error = format!("no policy is compared with the one in force{why}");
        let text = match output {
            Output::Json => output::json(&serde_json::json!({ "error": error })),
            Output::Human => error + ". Begin with `bulkhead shadow PATH…`\n",
        };
        return Outcome { text, finding: true };
    };
    let untold = (*untold > 0).then(|| {
        format!(
            "{} packets and calls found no counter of their own, and more may fare otherwise among them\n",
            HumanCount(*untold)
        )
    });
    let text = match output {
        Output::Json => {
            if let Some(untold) = &untold {
                eprint!("{untold}");
            }
            differences.iter().map(output::json).collect()
        }
        Output::Human => {
            let now = Timestamp::now();
            head(shadow, has_ended, now)
                + &render(differences, now, output::color(&io::stdout()))
                + untold.as_deref().unwrap_or_default()
        }
    };
    Outcome { text, finding: !differences.is_empty() || untold.is_some() }
}

fn head(shadow: &Shadow, has_ended: bool, now: Timestamp) -> String {
    let Shadow { policy, policy_hash, compared_with, since, .. } = shadow;
    format!(
        "{} (hash {}) {} compared with the policy in force (hash {}) for {}, since {since:.0}\n",
        plain(&policy.join(", ")),
        plain(&shortened(policy_hash)),
        if has_ended { "was" } else { "is" },
        plain(&shortened(compared_with)),
        output::span(*since, now),
    )
}

fn render(differences: &[Difference], now: Timestamp, color: bool) -> String {
    if differences.is_empty() {
        return "it has decided nothing otherwise\n".to_owned();
    }
    let mut text = String::new();
    let (refused, allowed): (Vec<_>, Vec<_>) = differences.iter().partition(|one| one.is_refused());
    for (what, these) in [("newly refused", refused), ("newly allowed", allowed)] {
        if !these.is_empty() {
            let [packets, calls] = [|one: &&Difference| one.packets, |one: &&Difference| one.calls]
                .map(|of| these.iter().map(of).sum());
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "\n{what}: {}, {} packets and {} calls",
                plural(these.len(), "kind") + " of traffic",
                HumanCount(packets),
                HumanCount(calls)
            );
            text += &table(&these, now).render(color);
        }
    }
    text
}

fn table(differences: &[&Difference], now: Timestamp) -> Table {
    let mut table = Table::new(&[
        "from → to",
        "at",
        "service",
        "in force → compared",
        ">connections",
        ">packets",
        ">calls",
        ">first seen",
        ">last seen",
        "why",
    ]);
    for one in differences {
        let workload = one.workload.name.as_deref().unwrap_or("no workload of it");
        let (own, peer) = (plain(workload), plain(&one.peer.in_words()));
        let ends =
            if one.direction == "egress" { format!("{own} → {peer}") } else { format!("{peer} → {own}") };
        table.push(vec![
            Cell::styled(ends, Style::new().bold()),
            format!("{} of {own}", one.direction).into(),
            plain(&one.service).into(),
            verdicts(one),
            HumanCount(one.connections).to_string().into(),
            HumanCount(one.packets).to_string().into(),
            HumanCount(one.calls).to_string().into(),
            output::ago(one.first_seen, now).into(),
            output::ago(one.last_seen, now).into(),
            why(one).into(),
        ]);
    }
    table
}

fn verdicts(one: &Difference) -> Cell {
    let style = match (one.is_refused(), one.shadow) {
        (true, "denied") => AnsiColor::Red.on_default().bold(),
        (true, _) => AnsiColor::Yellow.on_default().bold(),
        (false, _) => AnsiColor::Green.on_default().bold(),
    };
    Cell::styled(format!("{} → {}", one.in_force, one.shadow), style)
}

/// The rule that decides, or the reason and the rule that is missing.
fn why(one: &Difference) -> String {
    let named = |Rule { id, file, line }: &Rule| format!("{} ({}:{line})", plain(id), plain(file));
    match (&one.rule, &one.rule_in_force) {
        (Some(rule), _) => named(rule),
        (None, Some(missing)) => format!("{}; in force by {}", one.reason, named(missing)),
        (None, None) => one.reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn difference(line: &str) -> Difference {
        serde_json::from_str(line).unwrap()
    }

    #[test]
    fn what_is_newly_refused_and_what_is_newly_allowed_are_apart() {
        let refused = difference(
            r#"{"change":"newly-refused","in_force":"allowed","shadow":"denied","direction":"egress","protocol":"tcp",
            "service":"tcp/5432","workload":{"name":"web","environment":"prod"},
            "peer":{"address":null,"port":null,"name":"db","environment":"prod","is":["db","env:prod"],"like":null},
            "rule":null,"reason":"no-rule","rule_in_force":{"id":"web-db","file":"shop.toml","line":31},
            "calls":3,"packets":1240,"bytes":99000,"connections":3,
            "first_seen":"2026-11-21T20:00:00Z","last_seen":"2026-11-21T20:15:02Z"}"#,
        );
        let allowed = Difference {
            change: "newly-allowed",
            in_force: "denied",
            shadow: "allowed",
            direction: "ingress",
            rule: refused.rule_in_force.clone().map(|rule| Rule { id: "ci-\u{1b}[2J".into(), ..rule }),
            reason: "rule",
            rule_in_force: None,
            ..refused.clone()
        };
        let marked = Difference { shadow: "would-deny", ..refused.clone() };
        let now = "2026-11-21T20:15:05Z".parse().unwrap();
        let shadow = Shadow {
            policy: vec!["new.toml".into()],
            policy_hash: "badd111dc976".repeat(5) + "f00d",
            generation: 5,
            compared_with: "8975e208e695".repeat(5) + "f00d",
            since: "2026-11-21T18:15:03Z".parse().unwrap(),
        };
        let shown = head(&shadow, false, now) + &render(&[refused, marked, allowed], now, false);
        insta::assert_snapshot!(shown);
    }

    #[test]
    fn no_comparison_is_a_finding_and_no_difference_is_none() {
        let none = Comparison { ended: Some("the agent has ended".into()), ..Comparison::default() };
        let told = tell(&none, false, Output::Human);
        assert!(told.finding && told.text.contains("in force: the agent has ended"), "{}", told.text);
        let shadow = Shadow {
            policy: Vec::new(),
            policy_hash: String::new(),
            generation: 2,
            compared_with: String::new(),
            since: Timestamp::UNIX_EPOCH,
        };
        let same = Comparison { shadow: Some(shadow), ..Comparison::default() };
        let told = tell(&same, false, Output::Human);
        assert!(!told.finding && told.text.contains("nothing otherwise"), "{}", told.text);
        let told = tell(&Comparison { untold: 2, ..same }, true, Output::Human);
        assert!(told.finding && told.text.contains("2 packets and calls found no counter"), "{}", told.text);
    }
}

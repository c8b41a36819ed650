//! `bulkhead rules`.

use std::{io, path::Path};

use anstyle::{AnsiColor, Style};
use anyhow::ensure;
use bulkhead_report::plain;
use indicatif::HumanCount;
use jiff::Timestamp;

use crate::{
    cli::{Output, RulesArguments},
    control::{ListedRule, RULES, RuleHits, Rules, get},
    output,
    table::{Cell, Table},
};

/// Asks the agent on `socket` for its rules.
pub(crate) async fn ask(socket: &Path, arguments: &RulesArguments, output: Output) -> anyhow::Result<String> {
    let Rules { mut rules, unknown } = get(socket, RULES).await?;
    if arguments.unused {
        let why = unknown.as_deref().unwrap_or_default();
        ensure!(unknown.is_none(), "which rules were never hit is not known: {why}");
        rules.retain(ListedRule::is_unused);
    }
    if let Some(why) = unknown {
        eprintln!("hits are not known: {}", plain(&why));
    }
    Ok(match output {
        Output::Json => rules.iter().map(output::json).collect(),
        Output::Human => render(&rules, Timestamp::now(), output::color(&io::stdout())),
    })
}

fn render(rules: &[ListedRule], now: Timestamp, color: bool) -> String {
    let mut table =
        Table::new(&["rule", ">connections", ">packets", "last hit", "expires", "where", "what it says"]);
    for rule in rules {
        let (connections, packets) = match rule.hits {
            Some(hits) => (HumanCount(hits.connections).to_string(), HumanCount(hits.packets).to_string()),
            None => ("-".to_owned(), "-".to_owned()),
        };
        let id = rule.id.as_deref().unwrap_or(&rule.kind);
        table.push(vec![
            Cell::styled(plain(id), Style::new().bold()),
            connections.into(),
            packets.into(),
            last_hit(rule.hits, now),
            expires(rule.expires, now),
            format!("{}:{}", plain(&rule.file), rule.line).into(),
            plain(&rule.words).into(),
        ]);
    }
    table.render(color)
}

fn last_hit(hits: Option<RuleHits>, now: Timestamp) -> Cell {
    match hits {
        None => "-".into(),
        Some(RuleHits { last: Some(last), .. }) => output::ago(last, now).into(),
        Some(RuleHits { since, .. }) => {
            let watched = since.map(|since| format!(", for {}", output::span(since, now)));
            let yellow = AnsiColor::Yellow.on_default().bold();
            Cell::styled(format!("never{}", watched.unwrap_or_default()), yellow)
        }
    }
}

fn expires(end: Option<Timestamp>, now: Timestamp) -> Cell {
    match end {
        None => "-".into(),
        Some(end) if end <= now => {
            Cell::styled(format!("{} ago", output::span(end, now)), AnsiColor::Red.on_default().bold())
        }
        Some(end) => format!("in {}", output::span(now, end)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_a_row_and_one_never_hit_says_so() {
        let time = |text: &str| text.parse::<Timestamp>().ok();
        let now = time("2026-11-21T20:15:03Z").unwrap();
        let rule = |id: &str, line, words: &str, hits| ListedRule {
            kind: "allow".into(),
            id: Some(id.into()),
            file: "/etc/bulkhead/policy/shop.toml".into(),
            line,
            words: words.into(),
            hits,
            ..ListedRule::default()
        };
        let used = RuleHits {
            since: time("2026-08-01T00:00:00Z"),
            connections: 1_234,
            packets: 120_003,
            bytes: 9_000_000,
            last: time("2026-11-21T20:12:01Z"),
        };
        let unused = RuleHits { since: used.since, ..RuleHits::default() };
        let rules = [
            rule("web-db", 31, "web may reach db on tcp/5432", Some(used)),
            ListedRule {
                expires: time("2026-12-31T00:00:00Z"),
                ..rule("ci-\x1b[2J", 40, "ci may reach everybody on every protocol and port", Some(unused))
            },
            ListedRule {
                expires: time("2026-11-21T19:15:03Z"),
                ..rule("new", 44, "web may reach the internet on tcp/443", Some(RuleHits::default()))
            },
            ListedRule {
                kind: "forbid".into(),
                id: None,
                ..rule("", 50, "everything in dev must not reach everything in prod", None)
            },
        ];
        insta::assert_snapshot!(render(&rules, now, false));
        let unused: Vec<_> = rules.iter().filter(|rule| rule.is_unused()).map(|rule| rule.line).collect();
        assert_eq!(unused, [40, 44]);
    }
}

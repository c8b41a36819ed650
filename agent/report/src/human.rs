//! A denial as a person reads it.

use std::fmt::{self, Display, Write};

use anstyle::{AnsiColor, Style};

use crate::Denial;

const DENIED: Style = AnsiColor::Red.on_default().bold();
const WOULD_DENY: Style = AnsiColor::Yellow.on_default().bold();
const NAME: Style = Style::new().bold();
const DETAIL: Style = Style::new().dimmed();

/// Two lines: who wanted what of whom and why not; then the process, and what rule comes closest.
///
/// ```text
/// 20:15:03.123 denied  ci (dev) → db (prod) 10.0.3.7 tcp/5432: no rule allows it
///                      curl[4711] uid 1000 /usr/bin/curl in /ci.slice/job-7.scope; nearest rule web-db (shop.toml:31) differs in from
/// ```
pub fn lines(denial: &Denial, color: bool) -> String {
    let mut out = String::with_capacity(256);
    // Writing to a string cannot fail.
    let _ = write_lines(&mut out, denial, &Palette { color });
    out
}

/// The same on one line, where time and colours are somebody else's.
pub(crate) fn line(denial: &Denial) -> String {
    let mut out = String::with_capacity(256);
    out.push_str(verdict(denial).0);
    out.push(' ');
    // Writing to a string cannot fail.
    let _ = write_refusal(&mut out, denial, &Palette { color: false });
    let detail = detail(denial);
    if !detail.is_empty() {
        let _ = write!(out, "; {detail}");
    }
    out
}

fn verdict(denial: &Denial) -> (&'static str, Style) {
    match denial.verdict {
        "would-deny" => ("would deny", WOULD_DENY),
        verdict => (verdict, DENIED),
    }
}

fn write_lines(out: &mut String, denial: &Denial, palette: &Palette) -> fmt::Result {
    let (verdict, style) = verdict(denial);
    let time = denial.time.strftime("%H:%M:%S%.3f");
    write!(out, "{time} {} ", palette.paint(style, format_args!("{verdict:<10}")))?;
    write_refusal(out, denial, palette)?;
    writeln!(out)?;
    let detail = detail(denial);
    if !detail.is_empty() {
        writeln!(out, "{:23} {}", "", palette.paint(DETAIL, detail))?;
    }
    Ok(())
}

fn write_refusal(out: &mut String, denial: &Denial, palette: &Palette) -> fmt::Result {
    let workload = palette.end(denial.workload.name.as_deref(), denial.workload.environment.as_deref());
    let peer = palette.end(denial.peer.name.as_deref(), denial.peer.environment.as_deref());
    let workload = if denial.workload.name.is_some() { workload } else { "unidentified".to_owned() };
    let service = &denial.service;
    match (denial.peer.address, denial.direction) {
        (None, _) => write!(out, "{workload} socket {service}")?,
        (Some(address), direction) => {
            let named = denial.peer.name.is_some();
            let peer = if named { format!("{peer} {address}") } else { address.to_string() };
            match direction {
                "ingress" => write!(out, "{peer} → {workload} {service}")?,
                _ => write!(out, "{workload} → {peer} {service}")?,
            }
        }
    }
    write!(out, ": {}{}", cause(denial), Times(denial.count))
}

fn cause(denial: &Denial) -> String {
    match denial.reason {
        "no-rule" => "no rule allows it".to_owned(),
        "expired" => match &denial.rule {
            Some(rule) => {
                format!("rule {} ({}:{}) has expired", plain(&rule.id), plain(&rule.file), rule.line)
            }
            None => "the rule that allowed it has expired".to_owned(),
        },
        "unidentified" => "its workload cannot be told".to_owned(),
        "malformed" => "the packet cannot be parsed".to_owned(),
        "forged-source" => "it bears the address of another workload".to_owned(),
        "socket-memory" => "no kernel memory left to note who opened it".to_owned(),
        "raw-socket" => "no rule of the workload allows this protocol".to_owned(),
        "unseen-socket" => "its packets would pass by the policy".to_owned(),
        reason => reason.to_owned(),
    }
}

fn detail(denial: &Denial) -> String {
    let mut parts = Vec::new();
    if let Some(process) = &denial.process {
        let exe = process.exe.as_deref().map(|exe| format!(" {}", plain(exe))).unwrap_or_default();
        parts.push(format!("{}[{}] uid {}{exe}", plain(&process.comm), process.pid, process.uid));
    }
    if let Some(cgroup) = &denial.workload.cgroup {
        let within = if denial.process.is_some() { "in " } else { "cgroup " };
        let last = parts.pop().map(|process| process + " ").unwrap_or_default();
        parts.push(format!("{last}{within}{}", plain(cgroup)));
    }
    if let Some(nearest) = &denial.nearest_rule {
        let rule = &nearest.rule;
        let differs = nearest.differs.join(", ");
        parts.push(format!(
            "nearest rule {} ({}:{}) differs in {differs}",
            plain(&rule.id),
            plain(&rule.file),
            rule.line
        ));
    }
    parts.join("; ")
}

struct Times(u64);

impl Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 > 1 { write!(f, " ({} times)", self.0) } else { Ok(()) }
    }
}

struct Palette {
    color: bool,
}

impl Palette {
    fn paint(&self, style: Style, text: impl Display) -> String {
        if self.color { format!("{style}{text}{style:#}") } else { text.to_string() }
    }

    fn end(&self, name: Option<&str>, environment: Option<&str>) -> String {
        let mut end = String::new();
        if let Some(name) = name {
            end.push_str(&self.paint(NAME, plain(name)));
        }
        if let Some(environment) = environment {
            let _ = write!(end, " ({})", plain(environment));
        }
        end
    }
}

/// Text that somebody else has chosen, fit for a terminal: control and bidirectional formatting characters are
/// spelt out, so that it can neither move the cursor nor pretend to be another line.
pub fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        // A control character is written as in source code: `\n`, `\u{1b}`.
        if is_unseen(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// Is it a control or bidirectional formatting character?
pub(crate) fn is_unseen(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::{NearestRule, Peer, Process, Rule, Workload};

    fn denial() -> Denial {
        Denial {
            time: "2026-11-21T20:15:03.123456Z".parse::<Timestamp>().unwrap(),
            verdict: "denied",
            mode: "enforce",
            direction: "egress",
            protocol: "tcp".into(),
            workload: Workload {
                name: Some("ci".into()),
                environment: Some("dev".into()),
                cgroup: Some("/ci.slice/job-7.scope".into()),
                unit: Some("job-7.scope".into()),
            },
            process: Some(Process {
                pid: 4711,
                comm: "curl".into(),
                exe: Some("/usr/bin/curl".into()),
                uid: 1000,
            }),
            peer: Peer {
                address: Some([10, 0, 3, 7].into()),
                port: Some(5432),
                name: Some("db".into()),
                environment: Some("prod".into()),
            },
            rule: None,
            reason: "no-rule",
            nearest_rule: Some(NearestRule {
                rule: Rule { id: "web-db".into(), file: "shop.toml".into(), line: 31 },
                differs: vec!["from"],
            }),
            count: 3,
            suppressed: 2,
            generation: 12,
            service: "tcp/5432".into(),
        }
    }

    #[test]
    fn a_refused_connection_of_a_known_process() {
        insta::assert_snapshot!(lines(&denial(), false), @"
        20:15:03.123 denied     ci (dev) → db (prod) 10.0.3.7 tcp/5432: no rule allows it (3 times)
                                curl[4711] uid 1000 /usr/bin/curl in /ci.slice/job-7.scope; nearest rule web-db (shop.toml:31) differs in from
        ");
    }

    #[test]
    fn the_same_on_one_line() {
        insta::assert_snapshot!(line(&denial()), @"denied ci (dev) → db (prod) 10.0.3.7 tcp/5432: no rule allows it (3 times); curl[4711] uid 1000 /usr/bin/curl in /ci.slice/job-7.scope; nearest rule web-db (shop.toml:31) differs in from");
    }

    #[test]
    fn a_packet_from_an_unknown_address() {
        let unknown = Denial {
            verdict: "would-deny",
            direction: "ingress",
            process: None,
            peer: Peer {
                address: Some([203, 0, 113, 9].into()),
                port: Some(40112),
                name: None,
                environment: None,
            },
            nearest_rule: None,
            count: 1,
            ..denial()
        };
        insta::assert_snapshot!(lines(&unknown, false), @"
        20:15:03.123 would deny 203.0.113.9 → ci (dev) tcp/5432: no rule allows it
                                cgroup /ci.slice/job-7.scope
        ");
    }

    #[test]
    fn a_refused_socket_has_no_peer() {
        let socket = Denial {
            protocol: "icmp".into(),
            service: "icmp".into(),
            peer: Peer { address: None, port: None, name: None, environment: None },
            reason: "raw-socket",
            nearest_rule: None,
            count: 1,
            ..denial()
        };
        insta::assert_snapshot!(lines(&socket, false), @"
        20:15:03.123 denied     ci (dev) socket icmp: no rule of the workload allows this protocol
                                curl[4711] uid 1000 /usr/bin/curl in /ci.slice/job-7.scope
        ");
    }

    #[test]
    fn the_json_object_has_the_documented_fields_in_their_order() {
        assert_eq!(
            denial().to_json(),
            concat!(
                r#"{"time":"2026-11-21T20:15:03.123456Z","verdict":"denied","mode":"enforce","direction":"egress","protocol":"tcp","#,
                r#""workload":{"name":"ci","environment":"dev","cgroup":"/ci.slice/job-7.scope","unit":"job-7.scope"},"#,
                r#""process":{"pid":4711,"comm":"curl","exe":"/usr/bin/curl","uid":1000},"#,
                r#""peer":{"address":"10.0.3.7","port":5432,"name":"db","environment":"prod"},"#,
                r#""rule":null,"reason":"no-rule","nearest_rule":{"id":"web-db","file":"shop.toml","line":31,"differs":["from"]},"#,
                r#""count":3,"suppressed":2,"generation":12,"service":"tcp/5432"}"#
            )
        );
    }

    #[test]
    fn a_command_cannot_write_on_the_terminal() {
        assert_eq!(plain("a\x1b[2Jb\nc\u{202e}d\u{9b}"), "a\\u{1b}[2Jb\\nc\\u{202e}d\\u{9b}");
    }
}

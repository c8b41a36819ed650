//! `bulkhead explain`.

use bulkhead_common::{Protocol, Verdict};
use bulkhead_policy::{Answer, Changes, Policy, PortSpan, Ports, ask};
use serde::Serialize;

use crate::{
    cli::{ExplainArguments, Output},
    input::{self, InputError},
    output::{self, Outcome},
    policy_files,
};

/// Says what comes of a connection, or of several where an end stands for several; and what of it changes, if another
/// policy is asked, too.
pub(crate) fn explain(arguments: &ExplainArguments, output: Output) -> Result<Outcome, InputError> {
    let ExplainArguments { policy: given, from, to, port, against } = arguments;
    input::standard_input_once(&[&given.paths, against])?;
    let new = input::policy(&given.paths)?;
    let old = if against.is_empty() { None } else { Some(input::policy(against)?) };
    let services = services(port)?;
    let [given, against] = [&given.paths, against]
        .map(|paths| paths.iter().map(|path| policy_files::name(path)).collect::<Vec<_>>());
    let among: Vec<_> = [Some(&new), old.as_ref()].into_iter().flatten().collect();
    let now_ns = input::now_ns();
    let answers = |policy: &Policy| -> Result<_, InputError> {
        Ok(ask(policy, &among, &policy.whom(from)?, &policy.whom(to)?, &services, now_ns)?)
    };
    let after = answers(&new)?;
    if after.is_empty() {
        return Err(InputError::NothingToAsk { from: from.clone(), to: to.clone() });
    }
    let finding = after.iter().any(|answer| answer.explanation.verdict() != Verdict::Allowed);
    let Some(old) = &old else {
        return Ok(Outcome { text: after.iter().map(|answer| one(answer, &new, output)).collect(), finding });
    };
    let before = answers(old);
    let text = match output {
        Output::Human => compared(&after, &new, &before, old, &against),
        Output::Json => {
            let changes = before.as_ref().ok().map(|before| Changes::between(before, &after));
            let of = |answers: &[Answer], policy: &Policy, names: &[String]| -> String {
                let objects = answers.iter().map(|answer| {
                    output::json(&Named {
                        policy: names,
                        changed: changes.as_ref().map(|c| c.touch(answer)),
                        answer: answer.to_report(policy),
                    })
                });
                objects.collect()
            };
            let before = match &before {
                Ok(before) => of(before, old, &against),
                Err(unknown) => {
                    let answer = NotKnown { verdict: None, from, to, fault: unknown.to_string() };
                    output::json(&Named { policy: &against, changed: None, answer })
                }
            };
            of(&after, &new, &given) + &before
        }
    };
    Ok(Outcome { text, finding })
}

fn one(answer: &Answer, policy: &Policy, output: Output) -> String {
    match output {
        Output::Human => output::plain_lines(&answer.in_words(policy)),
        Output::Json => output::json(&answer.to_report(policy)),
    }
}

/// What the new policy says, what the old one says, and what is the difference.
fn compared(
    after: &[Answer],
    new: &Policy,
    before: &Result<Vec<Answer>, InputError>,
    old: &Policy,
    against: &[String],
) -> String {
    let words = |answers: &[Answer], policy| -> String {
        answers.iter().map(|answer| one(answer, policy, Output::Human)).collect()
    };
    let (said, changes) = match before {
        Ok(before) => (words(before, old), Changes::between(before, after).to_string()),
        Err(unknown) => (format!("not known: {unknown}\n"), "cannot be compared".to_owned()),
    };
    let heading = format!("\nagainst {}:\n", against.join(", "));
    words(after, new) + &output::plain_lines(&format!("{heading}{said}\nchange: {changes}"))
}

/// An answer as JSON, with the policy that gave it.
#[derive(Serialize)]
struct Named<'p, A> {
    policy: &'p [String],
    /// Does one of the connections fare otherwise under the other policy? Null if that cannot be told.
    changed: Option<bool>,
    #[serde(flatten)]
    answer: A,
}

/// The answer of a policy that does not know one of the ends.
#[derive(Serialize)]
struct NotKnown<'p> {
    verdict: Option<&'static str>,
    from: &'p str,
    to: &'p str,
    fault: String,
}

/// The one port that `text` names, of each family that it names: of an ICMP type code 0, of a protocol without ports 0.
fn services(text: &str) -> Result<Vec<(Protocol, u16)>, InputError> {
    let ports: Ports = text.parse().map_err(|fault| InputError::Port { text: text.to_owned(), fault })?;
    let one = |span: &PortSpan| {
        let one_type = is_icmp(span.protocol) && span.first >> 8 == span.last >> 8;
        (span.first == span.last || one_type || !has_numbers(span.protocol))
            .then_some((span.protocol, span.first))
    };
    let services: Option<_> = ports.spans().iter().map(one).collect();
    services.ok_or_else(|| InputError::SeveralPorts(text.to_owned()))
}

fn has_numbers(protocol: Protocol) -> bool {
    protocol.has_ports() || is_icmp(protocol)
}

fn is_icmp(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::ICMP | Protocol::ICMPV6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_opened_to_one_port() {
        for (text, expected) in [
            ("tcp/443", Some(vec![(Protocol::TCP, 443)])),
            ("icmp/8", Some(vec![(Protocol::ICMP, 0x800)])),
            ("icmpv6/1.4", Some(vec![(Protocol::ICMPV6, 0x104)])),
            ("icmp/echo-request", Some(vec![(Protocol::ICMP, 0x800), (Protocol::ICMPV6, 0x8000)])),
            ("gre", Some(vec![(Protocol(47), 0)])),
            ("tcp/*", None),
            ("udp/8000-8100", None),
            ("icmp", None),
            ("tcp/70000", None),
        ] {
            assert_eq!(services(text).ok(), expected, "{text}");
        }
    }
}

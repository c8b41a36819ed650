//! `bulkhead explain`.

use bulkhead_common::{Protocol, Verdict};
use bulkhead_policy::{PortSpan, Ports, ask};

use crate::{
    cli::{ExplainArguments, Output},
    input::{self, InputError},
    output::{self, Outcome},
};

/// Says what comes of a connection, or of several where an end stands for several.
pub(crate) fn explain(arguments: &ExplainArguments, output: Output) -> Result<Outcome, InputError> {
    let policy = input::policy(&arguments.policy.paths)?;
    let services = services(&arguments.port)?;
    let (from, to) = (policy.whom(&arguments.from)?, policy.whom(&arguments.to)?);
    let answers = ask(&policy, &from, &to, &services, input::now_ns());
    if answers.is_empty() {
        return Err(InputError::NothingToAsk { from: arguments.from.clone(), to: arguments.to.clone() });
    }
    let text = answers.iter().map(|answer| match output {
        Output::Human => output::plain_lines(&answer.in_words(&policy)),
        Output::Json => output::json(&answer.to_report(&policy)),
    });
    let refused = answers.iter().any(|answer| answer.explanation.verdict() != Verdict::Allowed);
    Ok(Outcome { text: text.collect(), finding: refused })
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

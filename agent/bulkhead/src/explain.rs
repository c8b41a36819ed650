//! `bulkhead explain`.

use bulkhead_common::{Protocol, Verdict};
use bulkhead_policy::{Connection, Inventory, Ports, compile, explain as explained};

use crate::{
    cli::{ExplainArguments, Output},
    input::{self, InputError},
    output::{self, Outcome},
};

/// Says what comes of one connection.
pub(crate) fn explain(arguments: &ExplainArguments, output: Output) -> Result<Outcome, InputError> {
    let policy = input::policy(&arguments.policy.paths)?;
    let (protocol, port) = service(&arguments.port)?;
    let (from, to) = (policy.party(&arguments.from)?, policy.party(&arguments.to)?);
    let connection = Connection { from, to, protocol, port };
    let compiled = compile(&policy, &Inventory::default());
    let explanation = explained(&policy, &compiled, &connection, input::now_ns());
    let text = match output {
        Output::Human => output::plain_lines(&explanation.in_words(&policy)),
        Output::Json => output::json(&explanation.to_report(&policy)),
    };
    Ok(Outcome { text, finding: explanation.verdict() != Verdict::Allowed })
}

/// The one port that `text` names: of an ICMP type code 0, of a protocol without ports 0.
fn service(text: &str) -> Result<(Protocol, u16), InputError> {
    let ports: Ports = text.parse().map_err(|fault| InputError::Port { text: text.to_owned(), fault })?;
    match ports.spans() {
        [span] if span.first == span.last || !has_numbers(span.protocol) => Ok((span.protocol, span.first)),
        [span] if is_icmp(span.protocol) && span.first >> 8 == span.last >> 8 => {
            Ok((span.protocol, span.first))
        }
        _ => Err(InputError::SeveralPorts(text.to_owned())),
    }
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
        for (text, port) in [
            ("tcp/443", Some((Protocol::TCP, 443))),
            ("icmp/8", Some((Protocol::ICMP, 0x800))),
            ("icmpv6/1.4", Some((Protocol::ICMPV6, 0x104))),
            ("gre", Some((Protocol(47), 0))),
            ("tcp/*", None),
            ("udp/8000-8100", None),
            ("icmp", None),
            ("tcp/70000", None),
        ] {
            assert_eq!(service(text).ok(), port, "{text}");
        }
    }
}

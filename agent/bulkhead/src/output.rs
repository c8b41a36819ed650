//! Colours, where they are wanted.

use std::io::{self, IsTerminal};

use anstream::{AutoStream, ColorChoice, stream::RawStream};

/// Does this stream want colours? A terminal does, unless NO_COLOR, CLICOLOR or TERM say otherwise.
pub(crate) fn color(stream: &impl RawStream) -> bool {
    !matches!(AutoStream::choice(stream), ColorChoice::Never)
}

/// Says on standard error what the agent does: for people in few words, else with time and origin.
pub(crate) fn log(for_people: bool) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("BULKHEAD_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal() && color(&io::stderr()));
    if for_people { log.without_time().with_target(false).init() } else { log.init() }
}

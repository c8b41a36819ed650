//! Where denials go: as the settings say, or else to whoever reads what the agent prints.

use std::{env, io, os::fd::AsFd};

use bulkhead_report::{Destination, Format, Kind};
use rustix::fs::fstat;

use crate::{
    cli::Output,
    output,
    settings::{JOURNAL, Sink, SinkKind},
};

/// The sinks that are wanted.
pub(super) fn destinations(sinks: &[Sink], output: Output) -> Vec<Destination> {
    let format = match output {
        Output::Json => Format::Json,
        Output::Human => Format::Human { color: output::color(&io::stdout()) },
    };
    if sinks.is_empty() {
        let kind = usual(format, is_journal(&env::var("JOURNAL_STREAM").unwrap_or_default(), io::stdout()));
        return vec![Destination { name: kind.name().to_owned(), kind }];
    }
    let destination = |sink: &Sink| Destination {
        name: sink.name.clone(),
        kind: match &sink.kind {
            SinkKind::Stdout => Kind::Stdout(format),
            SinkKind::File(path) => Kind::File(path.clone()),
            SinkKind::Journald(socket) => Kind::Journal(socket.clone()),
            SinkKind::Syslog(address) => Kind::Syslog(address.clone()),
            SinkKind::Otlp(endpoint) => Kind::Otlp(endpoint.clone()),
        },
    };
    sinks.iter().map(destination).collect()
}

/// What is printed for people and goes to the journal is more use there in fields: one copy, not two. JSON was asked for.
fn usual(format: Format, stdout_is_journal: bool) -> Kind {
    match format {
        Format::Human { .. } if stdout_is_journal => Kind::Journal(JOURNAL.into()),
        format => Kind::Stdout(format),
    }
}

/// Does systemd read what is printed, for the journal? It tells of the socket by its device and inode (`JOURNAL_STREAM` in
/// systemd.exec(5)): a process that was given the variable and another standard output is not meant.
fn is_journal(stream: &str, stdout: impl AsFd) -> bool {
    fstat(stdout).is_ok_and(|stdout| stream == format!("{}:{}", stdout.st_dev, stdout.st_ino))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn the_journal_is_known_by_its_socket() {
        let (journal, other) = UnixStream::pair().unwrap();
        let stat = fstat(&journal).unwrap();
        let stream = format!("{}:{}", stat.st_dev, stat.st_ino);
        assert!(is_journal(&stream, &journal));
        assert!(!is_journal(&stream, &other));
        assert!(!is_journal("", &journal));
    }

    #[test]
    fn what_the_journal_reads_anyway_it_gets_in_fields() {
        let human = Format::Human { color: false };
        assert_eq!(usual(human, true), Kind::Journal(JOURNAL.into()));
        assert_eq!(usual(human, false), Kind::Stdout(human));
        assert_eq!(usual(Format::Json, true), Kind::Stdout(Format::Json));
    }
}

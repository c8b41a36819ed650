//! A file of recorded flows, read line by line: memory does not grow with it, whatever is in it.

use std::{
    fs::{File, Metadata},
    io::{self, BufRead, BufReader, Read},
    path::Path,
};

use bulkhead_policy::RecordError;
use bulkhead_report::plain;
use indicatif::{ProgressBar, ProgressStyle};

/// Named instead of a file.
const STANDARD_INPUT: &str = "-";
/// The longest line that is taken for a record: the agent's have some hundred bytes.
const LONGEST: usize = 1 << 16;
/// The most bad lines that are told one by one.
const MOST_TOLD: usize = 10;
/// After how many lines the progress is told anew.
const STEP: u64 = 1 << 12;

/// How many lines there were. Empty ones are not counted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Lines {
    pub(crate) records: usize,
    pub(crate) bad: usize,
}

/// The file as messages name it.
pub(crate) fn name(path: &Path) -> String {
    if path.as_os_str() == STANDARD_INPUT { "standard input".to_owned() } else { path.display().to_string() }
}

/// Hands each line of the file (`-`: standard input) to `record`, and says on standard error which are bad. A terminal
/// there is shown the progress.
pub(crate) fn read(path: &Path, record: impl FnMut(&[u8]) -> Result<(), RecordError>) -> io::Result<Lines> {
    let name = name(path);
    if path.as_os_str() == STANDARD_INPUT {
        return each(&name, io::stdin().lock(), &progress(None), record);
    }
    let file = File::open(path)?;
    let size = file.metadata().ok().filter(Metadata::is_file).map(|found| found.len());
    each(&name, BufReader::with_capacity(1 << 16, file), &progress(size), record)
}

/// Of `size` bytes, if that is known. Hidden unless standard error is a terminal.
fn progress(size: Option<u64>) -> ProgressBar {
    let (bar, template) = match size {
        Some(size) => (ProgressBar::new(size), "{bar:40} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left"),
        None => (ProgressBar::new_spinner(), "{spinner} {bytes}, {bytes_per_sec}"),
    };
    let style = ProgressStyle::with_template(template);
    bar.with_style(style.unwrap_or_else(|error| unreachable!("the templates above are right: {error}")))
}

fn each(
    name: &str,
    mut input: impl BufRead,
    progress: &ProgressBar,
    mut record: impl FnMut(&[u8]) -> Result<(), RecordError>,
) -> io::Result<Lines> {
    let mut lines = Lines::default();
    let mut buffer = Vec::new();
    let (mut number, mut unshown) = (0, 0);
    while let Some(Line { bytes, text }) = next(&mut input, &mut buffer)? {
        number += 1;
        unshown += bytes;
        if number % STEP == 0 {
            progress.inc(std::mem::take(&mut unshown));
        }
        let fault = match text {
            Some(b"") => continue,
            Some(text) => record(text).err().map(|error| (error.column(), error.to_string())),
            None => Some((None, format!("longer than {LONGEST} bytes"))),
        };
        let Some((column, what)) = fault else {
            lines.records += 1;
            continue;
        };
        lines.bad += 1;
        if lines.bad <= MOST_TOLD {
            let column = column.map(|column| format!(":{column}")).unwrap_or_default();
            progress.suspend(|| anstream::eprintln!("warning: {name}:{number}{column}: {}", plain(&what)));
        }
    }
    progress.finish_and_clear();
    if lines.bad > MOST_TOLD {
        anstream::eprintln!("warning: {name}: and {} more bad lines", lines.bad - MOST_TOLD);
    }
    if lines.bad > 0 {
        anstream::eprintln!("help: a flow record is a line that `bulkhead run --output json` printed");
    }
    Ok(lines)
}

/// A line of the file.
struct Line<'b> {
    /// How many it takes in the file.
    bytes: u64,
    /// It, without its end and white space before that; none if it is too long for a record.
    text: Option<&'b [u8]>,
}

fn next<'b>(input: &mut impl BufRead, buffer: &'b mut Vec<u8>) -> io::Result<Option<Line<'b>>> {
    buffer.clear();
    let read = input.take(LONGEST as u64).read_until(b'\n', buffer)?;
    Ok(match read {
        0 => None,
        LONGEST if !buffer.ends_with(b"\n") => {
            let rest = input.skip_until(b'\n')?;
            Some(Line { bytes: (read + rest) as u64, text: None })
        }
        _ => Some(Line { bytes: read as u64, text: Some(buffer.trim_ascii_end()) }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines that are handed on, with what is counted.
    fn handed(text: &[u8]) -> (Vec<usize>, Lines) {
        let mut lengths = Vec::new();
        let counted = each("flows", text, &ProgressBar::hidden(), |line| {
            lengths.push(line.len());
            if line == b"bad" { Err(RecordError::NotText { column: 1 }) } else { Ok(()) }
        });
        (lengths, counted.unwrap())
    }

    #[test]
    fn bad_lines_are_counted_and_the_others_are_read() {
        let text = b"one\n\n  \r\nbad\n two \nlast";
        assert_eq!(handed(text), (vec![3, 3, 4, 4], Lines { records: 3, bad: 1 }));
        assert_eq!(handed(b""), (vec![], Lines::default()));
    }

    #[test]
    fn a_line_without_end_is_not_kept() {
        let mut text = vec![b'x'; 3 * LONGEST];
        text.extend_from_slice(b"\none\n");
        assert_eq!(handed(&text), (vec![3], Lines { records: 1, bad: 1 }));
        let longest = [vec![b'x'; LONGEST - 1], vec![b'\n']].concat();
        assert_eq!(handed(&longest), (vec![LONGEST - 1], Lines { records: 1, bad: 0 }));
    }
}

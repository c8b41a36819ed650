//! A file of recorded flows, read line by line: memory does not grow with it, whatever is in it.

use std::{
    fs::{File, Metadata},
    io::{self, Read},
    ops::Range,
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
    each(&name, file, &progress(size), record)
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
    input: impl Read,
    progress: &ProgressBar,
    mut record: impl FnMut(&[u8]) -> Result<(), RecordError>,
) -> io::Result<Lines> {
    let mut lines = Lines::default();
    let mut input = LinesOf::new(input);
    let (mut number, mut unshown) = (0, 0);
    while let Some(Line { bytes, text }) = input.next()? {
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
            progress.suspend(|| {
                anstream::eprintln!("warning: {name}:{number}{column}: not a flow record: {}", plain(&what));
            });
        }
    }
    progress.finish_and_clear();
    if lines.bad > MOST_TOLD {
        anstream::eprintln!("warning: {name}: and {} more bad lines", lines.bad - MOST_TOLD);
    }
    if lines.bad > 0 && lines.records > 0 {
        anstream::eprintln!("help: a flow record is a line that `bulkhead run --output json` printed");
    }
    Ok(lines)
}

/// A line of the file.
struct Line<'b> {
    /// How many bytes it takes in the file.
    bytes: u64,
    /// It, without its end and white space before that; none if it is too long for a record.
    text: Option<&'b [u8]>,
}

/// Lines as they lie in a buffer: none is copied but the part of one that the end of the buffer has cut off.
struct LinesOf<R> {
    input: R,
    buffer: Box<[u8]>,
    /// The part of the buffer that is read and not handed on yet.
    unread: Range<usize>,
}

impl<R: Read> LinesOf<R> {
    /// Some lines of the greatest length, and few enough bytes to share a processor's own cache with the simulation.
    const BUFFER: usize = 2 * LONGEST;

    fn new(input: R) -> Self {
        Self { input, buffer: vec![0; Self::BUFFER].into(), unread: 0..0 }
    }

    fn next(&mut self) -> io::Result<Option<Line<'_>>> {
        // Bytes of a line that is too long and has been thrown away so far.
        let mut thrown = 0;
        let mut searched = 0;
        loop {
            let found = memchr::memchr(b'\n', &self.buffer[self.unread.start + searched..self.unread.end]);
            if let Some(length) = found {
                return Ok(Some(self.hand_on(searched + length, 1, thrown)));
            }
            searched = self.unread.len();
            if searched >= LONGEST {
                thrown += searched as u64;
                self.unread.start = self.unread.end;
                searched = 0;
            }
            if self.fill()? == 0 {
                let is_end = searched == 0 && thrown == 0;
                return Ok(if is_end { None } else { Some(self.hand_on(searched, 0, thrown)) });
            }
        }
    }

    fn hand_on(&mut self, length: usize, end: usize, thrown: u64) -> Line<'_> {
        let start = self.unread.start;
        self.unread.start += length + end;
        let is_short = thrown == 0 && length < LONGEST;
        let text = is_short.then(|| self.buffer[start..start + length].trim_ascii_end());
        Line { bytes: thrown + (length + end) as u64, text }
    }

    /// Reads on, behind what is not handed on yet; that there is nothing more to come is told by 0.
    fn fill(&mut self) -> io::Result<usize> {
        self.buffer.copy_within(self.unread.clone(), 0);
        self.unread = 0..self.unread.len();
        loop {
            match self.input.read(&mut self.buffer[self.unread.end..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => {
                    let read = read?;
                    self.unread.end += read;
                    return Ok(read);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file that is never read as far as was asked for, as a pipe is.
    struct Trickle<'t>(&'t [u8]);

    impl Read for Trickle<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let most = buffer.len().min(7_001);
            self.0.read(&mut buffer[..most])
        }
    }

    /// The lines that are handed on, with what is counted.
    fn handed(text: &[u8]) -> (Vec<usize>, Lines) {
        let mut lengths = Vec::new();
        let counted = each("flows", Trickle(text), &ProgressBar::hidden(), |line| {
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
        assert_eq!(handed(&vec![b'x'; 10_000_000]), (vec![], Lines { records: 0, bad: 1 }));
    }

    #[test]
    fn a_line_is_whole_wherever_the_buffer_ends() {
        let lengths: Vec<usize> = (0..2_000).map(|n| n * 37 % 1_009 + 1).collect();
        let text: Vec<u8> = lengths.iter().flat_map(|n| [vec![b'x'; *n], vec![b'\n']].concat()).collect();
        assert_eq!(handed(&text), (lengths, Lines { records: 2_000, bad: 0 }));
    }
}

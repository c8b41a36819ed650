//! JSON lines in a file that others rotate.
//!
//! Who renames or removes it needs to tell nobody: before each batch the path is looked at, and opened anew where another
//! file is there now, or none. A line is there as a whole or not at all, also when the disk is full; one that an end
//! of the machine has cut off stays alone on its line.

use std::{
    fs::{self, Metadata, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::PathBuf,
    sync::Arc,
};

use super::worker::{Deliver, Undelivered};
use crate::Denial;

/// For its owner and group: it tells who talks to whom.
const MODE: u32 = 0o640;

/// A file that denials are appended to.
pub(super) struct File {
    path: PathBuf,
    open: Option<fs::File>,
}

impl File {
    pub(super) fn at(path: PathBuf) -> Self {
        Self { path, open: None }
    }

    /// The file that is at the path now.
    fn current(&mut self) -> io::Result<&mut fs::File> {
        let there = fs::metadata(&self.path);
        let same = match (&self.open, &there) {
            (Some(open), Ok(there)) => identity(&open.metadata()?) == identity(there),
            _ => false,
        };
        if !same {
            self.open = None;
        }
        match &mut self.open {
            Some(open) => Ok(open),
            none => {
                // To open a pipe or a terminal would wait for its other end, or do worse.
                if there.is_ok_and(|there| !there.is_file()) {
                    return Err(io::Error::other("it is no regular file"));
                }
                Ok(none.insert(open(&self.path)?))
            }
        }
    }
}

fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

/// Opens a file to append to, at the beginning of a line.
fn open(path: &PathBuf) -> io::Result<fs::File> {
    let mut file = OpenOptions::new().read(true).append(true).create(true).mode(MODE).open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_fifo() || kind.is_char_device() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut last = [b'\n'];
    if file.seek(SeekFrom::End(0))? > 0 {
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
    }
    if last != [b'\n'] {
        file.write_all(b"\n")?;
    }
    Ok(file)
}

impl Deliver for File {
    fn deliver(&mut self, batch: &[Arc<Denial>]) -> Result<(), Undelivered> {
        let mut text = Vec::new();
        let mut ends = Vec::with_capacity(batch.len());
        for denial in batch {
            text.extend_from_slice(denial.to_json().as_bytes());
            text.push(b'\n');
            ends.push(text.len());
        }
        let undelivered = |path: &PathBuf, delivered, error: io::Error| {
            Undelivered::for_now(delivered, format!("{}: {error}", path.display()))
        };
        let file = match self.current() {
            Ok(file) => file,
            Err(error) => return Err(undelivered(&self.path, 0, error)),
        };
        let Err((written, error)) = append(file, &text) else { return Ok(()) };
        let delivered = ends.iter().filter(|end| **end <= written).count();
        let whole = delivered.checked_sub(1).map_or(0, |last| ends[last]);
        take_back(file, written - whole);
        // Where that was not to be, the next look at the end of the file sees it.
        self.open = None;
        Err(undelivered(&self.path, delivered, error))
    }
}

/// Appends all of it, or tells how much.
fn append(file: &mut fs::File, text: &[u8]) -> Result<(), (usize, io::Error)> {
    let mut written = 0;
    while written < text.len() {
        match file.write(&text[written..]) {
            Ok(0) => return Err((written, io::ErrorKind::WriteZero.into())),
            Ok(more) => written += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err((written, error)),
        }
    }
    Ok(())
}

/// Removes the part of a line that is the last in the file.
fn take_back(file: &fs::File, part: usize) {
    if part > 0
        && let Ok(there) = file.metadata()
        && let Some(whole) = there.len().checked_sub(part as u64)
    {
        // It stays, and the next line begins on a line of its own.
        let _ = file.set_len(whole);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::testing::denial;

    fn batch(size: usize) -> Vec<Arc<Denial>> {
        (0..size).map(|_| Arc::new(denial())).collect()
    }

    fn denials_in(path: &std::path::Path) -> usize {
        let text = fs::read_to_string(path).unwrap();
        for line in text.lines() {
            let object: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(object["workload"]["name"], "ci");
        }
        text.lines().count()
    }

    #[test]
    fn a_file_that_was_renamed_gets_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("denials.jsonl"), folder.path().join("denials.jsonl.1"));
        let mut file = File::at(path.clone());
        file.deliver(&batch(3)).unwrap();
        fs::rename(&path, &old).unwrap();
        file.deliver(&batch(2)).unwrap();
        fs::remove_file(&path).unwrap();
        file.deliver(&batch(1)).unwrap();
        assert_eq!((denials_in(&old), denials_in(&path)), (3, 1));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777 & !MODE, 0);
    }

    #[test]
    fn half_a_line_of_before_stays_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("denials.jsonl");
        fs::write(&path, "{\"time\":\"2026").unwrap();
        File::at(path.clone()).deliver(&batch(1)).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("{{\"time\":\"2026\n{}\n", denial().to_json()));
    }

    #[test]
    fn what_is_no_file_is_not_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let undelivered = File::at(folder.path().to_owned()).deliver(&batch(1)).unwrap_err();
        assert_eq!(undelivered.delivered + undelivered.refused, 0);
        assert!(undelivered.why.contains("no regular file"), "{}", undelivered.why);
    }

    #[test]
    fn a_folder_that_is_not_there_yet_is_no_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("later/denials.jsonl");
        let mut file = File::at(path.clone());
        assert_eq!(file.deliver(&batch(1)).unwrap_err().refused, 0);
        fs::create_dir(path.parent().unwrap()).unwrap();
        file.deliver(&batch(1)).unwrap();
        assert_eq!(denials_in(&path), 1);
    }

    #[test]
    fn a_part_of_a_line_is_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("denials.jsonl");
        let mut file = open(&path).unwrap();
        append(&mut file, b"whole\npar").unwrap();
        take_back(&file, "par".len());
        assert_eq!(fs::read_to_string(&path).unwrap(), "whole\n");
    }
}

//! Runs the built binary as a user would, in a folder of its own.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

/// The binary with `arguments`, in `folder`, without colours.
pub(crate) fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bulkhead"));
    command.args(arguments).current_dir(folder).env("NO_COLOR", "1").env("COLUMNS", "100");
    command
}

/// What a run of the binary prints and how it ends, where these files are.
pub(crate) fn bulkhead(files: &[(&str, &str)], arguments: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    transcript(&command(folder.path(), arguments).output().unwrap())
}

/// Exit status and both streams.
pub(crate) fn transcript(output: &Output) -> String {
    let mut text = format!("{}\n", output.status);
    for (name, stream) in [("stdout", &output.stdout), ("stderr", &output.stderr)] {
        if !stream.is_empty() {
            text += &["--- ", name, "\n", &String::from_utf8_lossy(stream)].concat();
        }
    }
    text
}

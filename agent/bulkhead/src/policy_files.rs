//! Policy files on disk.

use std::{
    collections::HashSet,
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use bulkhead_policy::Source;
use bulkhead_report::plain;

/// Why a policy cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PolicyFilesError {
    #[error("there is no policy at {}: name a file or a folder of *.toml files", .0.display())]
    Missing(PathBuf),
    #[error("there is no policy in {}: it holds no *.toml file, and folders in it are not read", .0.display())]
    EmptyFolder(PathBuf),
    #[error("there is nothing in {0}: a policy that declares nothing isolates nobody")]
    Blank(String),
    #[error("{name}:{line}: this is not UTF-8 text: a policy is TOML")]
    NotText { name: String, line: usize },
    #[error(
        "{} is no file: of a folder, *.toml files and links to them are read; name it by itself if it is meant",
        .0.display()
    )]
    NoFile(PathBuf),
    #[error("cannot read the policy {}", .path.display())]
    Unreadable { path: PathBuf, source: io::Error },
}

/// Named instead of a file.
const STANDARD_INPUT: &str = "-";
/// What is read there, as messages name it.
pub(crate) const OF_STANDARD_INPUT: &str = "standard input";

/// The policy files at `paths`: each a file, a folder of *.toml files, or `-`: standard input. What is named twice is read
/// once.
pub(crate) fn read(paths: &[PathBuf]) -> Result<Vec<Source>, PolicyFilesError> {
    let mut files = list(paths)?;
    // Whoever names a pipe writes to it; of one that lies in a folder nobody may know, and to open it would not end.
    for file in files.iter().filter(|file| !paths.contains(file)) {
        let found = file.metadata().map_err(unreadable(file))?;
        if !found.is_file() {
            return Err(PolicyFilesError::NoFile(file.clone()));
        }
    }
    let mut seen = HashSet::new();
    // A pipe has no path of its own.
    let itself = |file: &PathBuf| file.canonicalize().ok().filter(|_| !is_standard_input(file));
    files.retain(|file| seen.insert(itself(file).unwrap_or_else(|| file.clone())));
    let sources = files.iter().map(|file| read_file(file)).collect::<Result<Vec<_>, _>>()?;
    not_blank(&sources)?;
    Ok(sources)
}

/// A file that was cut off while it was written must not pass for a policy.
pub(crate) fn not_blank(sources: &[Source]) -> Result<(), PolicyFilesError> {
    if sources.iter().all(|source| source.text.trim().is_empty()) {
        let names: Vec<_> = sources.iter().map(|source| source.name.as_str()).collect();
        return Err(PolicyFilesError::Blank(names.join(", ")));
    }
    Ok(())
}

/// The files at `paths`.
pub(crate) fn list(paths: &[PathBuf]) -> Result<Vec<PathBuf>, PolicyFilesError> {
    let mut files = Vec::new();
    for path in paths {
        if !is_standard_input(path) && path.is_dir() {
            let found = policies_in(path).map_err(unreadable(path))?;
            if found.is_empty() {
                return Err(PolicyFilesError::EmptyFolder(path.clone()));
            }
            files.extend(found);
        } else {
            files.push(path.clone());
        }
    }
    Ok(files)
}

/// A path as messages and reports name it: its letters may be anything.
pub(crate) fn name(path: &Path) -> String {
    if is_standard_input(path) { OF_STANDARD_INPUT.to_owned() } else { plain(&path.display().to_string()) }
}

pub(crate) fn is_standard_input(path: &Path) -> bool {
    path.as_os_str() == STANDARD_INPUT
}

fn read_file(path: &Path) -> Result<Source, PolicyFilesError> {
    let bytes = if is_standard_input(path) {
        let mut bytes = Vec::new();
        io::stdin().lock().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        fs::read(path)
    };
    let bytes = bytes.map_err(unreadable(path))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = good.split(|byte| *byte == b'\n').count();
        PolicyFilesError::NotText { name: name(path), line }
    })?;
    Ok(Source::new(name(path), text))
}

/// The *.toml files in a folder by name; hidden ones are an editor's, not the operator's.
fn policies_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension().is_some_and(|extension| extension == "toml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> PolicyFilesError {
    let path = path.to_owned();
    move |source| match source.kind() {
        io::ErrorKind::NotFound => PolicyFilesError::Missing(path),
        _ => PolicyFilesError::Unreadable { path, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_read_by_name_and_only_its_policies() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.toml", "a.toml", ".a.toml.swp", ".hidden.toml", "README.md"] {
            fs::write(folder.path().join(name), "# nothing yet").unwrap();
        }
        let sources = read(&[folder.path().to_owned()]).unwrap();
        let names: Vec<_> = sources.iter().filter_map(|s| s.name.rsplit('/').next()).collect();
        assert_eq!(names, ["a.toml", "b.toml"]);
    }

    #[test]
    fn a_file_that_is_named_twice_is_read_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.toml");
        fs::write(&file, "# nothing yet").unwrap();
        let dotted = folder.path().join("./a.toml");
        let sources = read(&[folder.path().to_owned(), file.clone(), dotted]).unwrap();
        assert_eq!(sources.len(), 1);
    }

    #[test]
    fn a_policy_that_is_not_there_is_named() {
        let error = read(&["/nonexistent/p.toml".into()]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "there is no policy at /nonexistent/p.toml: name a file or a folder of *.toml files"
        );
    }
}

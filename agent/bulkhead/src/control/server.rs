//! The agent's end of the control socket.

use std::{
    fs, io,
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt, PermissionsExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Gid, Mode, chown},
    process::umask,
};
use tokio::{net::UnixListener, sync::mpsc, task::JoinHandle};

use super::{
    Records,
    routes::{self, Caller, Question},
};

/// The group whose members may ask the agent, besides root.
const GROUP: &str = "bulkhead";

/// Why the control socket cannot be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServerError {
    #[error("another agent answers on {}: give this one another --control-socket", .0.display())]
    Taken(PathBuf),
    #[error("{} is there and no socket: give another --control-socket", .0.display())]
    NoSocket(PathBuf),
    #[error("cannot serve the control socket {}", .path.display())]
    Unusable { path: PathBuf, source: io::Error },
}

/// Serves the control socket until dropped; the socket goes with it.
#[derive(Debug)]
pub(crate) struct Server {
    path: PathBuf,
    task: JoinHandle<io::Result<()>>,
}

impl Server {
    /// Begins to serve; whoever holds the other end of `questions` answers what `kept` does not.
    pub(crate) fn start(
        path: &Path,
        questions: mpsc::Sender<Question>,
        kept: Records,
    ) -> Result<Self, ServerError> {
        let listener = listen(path)?;
        let routes = routes::all(questions, kept).into_make_service_with_connect_info::<Caller>();
        let task = tokio::spawn(async move { axum::serve(listener, routes).await });
        Ok(Self { path: path.to_owned(), task })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
        // Gone already is fine.
        let _ = fs::remove_file(&self.path);
    }
}

fn listen(path: &Path) -> Result<UnixListener, ServerError> {
    let unusable = |source| ServerError::Unusable { path: path.to_owned(), source };
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(folder).map_err(unusable)?;
    }
    if let Ok(there) = fs::symlink_metadata(path) {
        if !there.file_type().is_socket() {
            return Err(ServerError::NoSocket(path.to_owned()));
        }
        if UnixStream::connect(path).is_ok() {
            return Err(ServerError::Taken(path.to_owned()));
        }
        // Left behind by an agent that was killed.
        fs::remove_file(path).map_err(unusable)?;
    }
    // The socket must never be there with more permissions than it is to have.
    let before = umask(Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(path);
    umask(before);
    let listener = listener.map_err(unusable)?;
    if let Some(group) = group() {
        chown(path, None, Some(group)).map_err(|error| unusable(error.into()))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o660)).map_err(unusable)?;
    }
    Ok(listener)
}

/// The number of the group whose members may ask; none: there is none, and root alone may.
fn group() -> Option<Gid> {
    let groups = fs::read_to_string("/etc/group").ok()?;
    let mut fields = groups.lines().map(|line| line.split(':'));
    let number = fields.find_map(|mut line| (line.next() == Some(GROUP)).then(|| line.nth(1)))??;
    number.parse().ok().map(Gid::from_raw)
}

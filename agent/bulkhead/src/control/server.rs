//! The agent's end of the control socket.

use std::{
    fs, io,
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};

use axum::{
    Json, Router,
    extract::{ConnectInfo, Request, State, connect_info::Connected},
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
    serve::IncomingStream,
};
use rustix::{fs::Mode, process::umask};
use serde_json::json;
use tokio::{
    net::UnixListener,
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use super::{STATUS, Status};

/// What somebody wants to know of the agent, with where to send the answer.
#[derive(Debug)]
pub(crate) enum Question {
    /// What does it enforce?
    Status(oneshot::Sender<Status>),
}

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
    /// Begins to serve; whoever holds the other end of `questions` answers.
    pub(crate) fn start(path: &Path, questions: mpsc::Sender<Question>) -> Result<Self, ServerError> {
        let listener = listen(path)?;
        let router = Router::new()
            .route(STATUS, get(tell_status))
            .with_state(questions)
            .layer(middleware::from_fn(only_root))
            .into_make_service_with_connect_info::<Caller>();
        let task = tokio::spawn(async move { axum::serve(listener, router).await });
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
    listener.map_err(unusable)
}

/// Who asks, as the kernel vouches for it (`SO_PEERCRED`).
#[derive(Clone, Copy, Debug)]
struct Caller {
    uid: Option<u32>,
}

impl Connected<IncomingStream<'_, UnixListener>> for Caller {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self { uid: stream.io().peer_cred().ok().map(|credentials| credentials.uid()) }
    }
}

async fn only_root(ConnectInfo(caller): ConnectInfo<Caller>, request: Request, next: Next) -> Response {
    if caller.uid == Some(0) {
        return next.run(request).await;
    }
    let refusal = json!({ "error": "only root may ask the agent" });
    (StatusCode::FORBIDDEN, Json(refusal)).into_response()
}

async fn tell_status(State(questions): State<mpsc::Sender<Question>>) -> Response {
    let (question, answer) = oneshot::channel();
    if questions.send(Question::Status(question)).await.is_ok()
        && let Ok(status) = answer.await
    {
        return Json(status).into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "error": "the agent is stopping" }))).into_response()
}

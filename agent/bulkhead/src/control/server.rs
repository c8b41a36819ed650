//! The agent's end of the control socket.

use std::{
    fs, io,
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt, PermissionsExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};

use axum::{
    Json, Router,
    extract::{ConnectInfo, DefaultBodyLimit, Request, State, connect_info::Connected},
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
    serve::IncomingStream,
};
use rustix::{
    fs::{Gid, Mode, chown},
    process::umask,
};
use serde::Serialize;
use tokio::{
    net::UnixListener,
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use super::{
    APPLY, Applied, CONFIRM, DENIALS, FLOWS, PLAN, Plan, Proposal, ROLLBACK, Records, Refusal, STATUS,
    Status, records,
};

/// The group whose members may ask the agent, besides root.
const GROUP: &str = "bulkhead";
/// The largest request: a policy of a hundred thousand rules is 10 MB.
const LARGEST: usize = 64 << 20;

/// What somebody wants of the agent, with where to send the answer.
#[derive(Debug)]
pub(crate) enum Question {
    /// What does it enforce?
    Status(oneshot::Sender<Status>),
    /// What would this policy change?
    Plan(Proposal, Caller, Reply<Plan>),
    /// Put this policy in force.
    Apply(Proposal, Caller, Reply<Applied>),
    /// What is in force for a while is to stay.
    Confirm(Reply<Applied>),
    /// Go back to the policy before.
    RollBack(Caller, Reply<Applied>),
}

/// Where the answer goes.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

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
        let router = Router::new()
            .route(STATUS, get(tell_status))
            .route(PLAN, post(plan))
            .route(APPLY, post(apply))
            .route(CONFIRM, post(confirm))
            .route(ROLLBACK, post(roll_back))
            .with_state(questions)
            .merge(
                Router::new()
                    .route(DENIALS, get(records::denials))
                    .route(FLOWS, get(records::flows))
                    .with_state(kept),
            )
            .layer(DefaultBodyLimit::max(LARGEST))
            .layer(middleware::from_fn(only_who_may))
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

/// Who asks, as the kernel vouches for it (`SO_PEERCRED`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    /// Number of the process; none: it is of another machine's, or gone.
    pub(crate) pid: Option<u32>,
    known: bool,
}

impl Connected<IncomingStream<'_, UnixListener>> for Caller {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        let credentials = stream.io().peer_cred().ok();
        let pid = credentials.and_then(|credentials| credentials.pid());
        Self { pid: pid.and_then(|pid| u32::try_from(pid).ok()), known: credentials.is_some() }
    }
}

/// Who can open the socket may ask: the file's owner and group. The kernel has checked that as it was opened
/// (`unix_stream_connect` wants the right to write).
async fn only_who_may(ConnectInfo(caller): ConnectInfo<Caller>, request: Request, next: Next) -> Response {
    if caller.known {
        return next.run(request).await;
    }
    let refusal = Refusal { error: "it cannot be told who asks".into(), ..Refusal::default() };
    (StatusCode::FORBIDDEN, Json(refusal)).into_response()
}

type Questions = State<mpsc::Sender<Question>>;

async fn tell_status(State(questions): Questions) -> Response {
    let (question, answer) = oneshot::channel();
    if questions.send(Question::Status(question)).await.is_ok()
        && let Ok(status) = answer.await
    {
        return Json(status).into_response();
    }
    stopping()
}

async fn plan(
    State(questions): Questions,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Json(proposal): Json<Proposal>,
) -> Response {
    put(questions, |reply| Question::Plan(proposal, caller, reply)).await
}

async fn apply(
    State(questions): Questions,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Json(proposal): Json<Proposal>,
) -> Response {
    put(questions, |reply| Question::Apply(proposal, caller, reply)).await
}

async fn confirm(State(questions): Questions) -> Response {
    put(questions, Question::Confirm).await
}

async fn roll_back(State(questions): Questions, ConnectInfo(caller): ConnectInfo<Caller>) -> Response {
    put(questions, |reply| Question::RollBack(caller, reply)).await
}

/// Puts a question and waits for the answer.
async fn put<T: Serialize>(
    questions: mpsc::Sender<Question>,
    question: impl FnOnce(Reply<T>) -> Question,
) -> Response {
    let (reply, answer) = oneshot::channel();
    if questions.send(question(reply)).await.is_err() {
        return stopping();
    }
    match answer.await {
        Ok(Ok(done)) => Json(done).into_response(),
        Ok(Err(refusal)) => (StatusCode::CONFLICT, Json(refusal)).into_response(),
        Err(_) => stopping(),
    }
}

fn stopping() -> Response {
    let refusal = Refusal { error: "the agent is stopping".into(), ..Refusal::default() };
    (StatusCode::SERVICE_UNAVAILABLE, Json(refusal)).into_response()
}

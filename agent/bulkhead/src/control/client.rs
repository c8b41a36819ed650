//! The command line's end of the control socket.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, StatusCode,
    body::Bytes,
    client::conn::http1,
    header::{CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{net::UnixStream, time::timeout};

use super::Refusal;

/// How long an agent may take to answer: a large policy is compiled meanwhile.
const PATIENCE: Duration = Duration::from_mins(1);
/// How much it may answer.
const LIMIT: usize = 64 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error("no agent answers on {}: start one with `bulkhead run`, or name its --control-socket", .0.display())]
    NoAgent(PathBuf),
    #[error(
        "cannot open {}: permission denied. Only root and members of the group bulkhead may ask the agent",
        .0.display()
    )]
    Denied(PathBuf),
    #[error("{}", .0.error)]
    Refused(Box<Refusal>),
    #[error("cannot ask the agent on {}", .path.display())]
    Broken { path: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
}

/// Asks the agent on `socket`.
pub(crate) async fn get<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T, ClientError> {
    ask(socket, Method::GET, path, Bytes::new()).await
}

/// Asks the agent on `socket` to do something.
pub(crate) async fn post<T: DeserializeOwned>(
    socket: &Path,
    path: &str,
    body: &impl Serialize,
) -> Result<T, ClientError> {
    ask(socket, Method::POST, path, json(socket, body)?).await
}

/// Gives the agent on `socket` something, in place of what is at `path`.
pub(crate) async fn put<T: DeserializeOwned>(
    socket: &Path,
    path: &str,
    body: &impl Serialize,
) -> Result<T, ClientError> {
    ask(socket, Method::PUT, path, json(socket, body)?).await
}

/// Asks the agent on `socket` to end what is at `path`.
pub(crate) async fn delete<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T, ClientError> {
    ask(socket, Method::DELETE, path, Bytes::new()).await
}

fn json(socket: &Path, body: &impl Serialize) -> Result<Bytes, ClientError> {
    let broken =
        |error: serde_json::Error| ClientError::Broken { path: socket.to_owned(), source: error.into() };
    serde_json::to_vec(body).map(Bytes::from).map_err(broken)
}

async fn ask<T: DeserializeOwned>(
    socket: &Path,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<T, ClientError> {
    let broken = |source| ClientError::Broken { path: socket.to_owned(), source };
    let stream = connect(socket).await?;
    let (status, body) = match timeout(PATIENCE, exchange(stream, method, path, body)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(broken(error)),
        Err(_) => return Err(broken(format!("no answer within {PATIENCE:?}").into())),
    };
    match status {
        StatusCode::OK => serde_json::from_slice(&body).map_err(|e| broken(e.into())),
        status => Err(refused(socket, status, &body)),
    }
}

pub(super) async fn connect(socket: &Path) -> Result<UnixStream, ClientError> {
    UnixStream::connect(socket).await.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NoAgent(socket.to_owned()),
        io::ErrorKind::PermissionDenied => ClientError::Denied(socket.to_owned()),
        _ => ClientError::Broken { path: socket.to_owned(), source: error.into() },
    })
}

/// What an agent means that does not do as it was asked.
pub(super) fn refused(socket: &Path, status: StatusCode, body: &[u8]) -> ClientError {
    if status == StatusCode::FORBIDDEN {
        return ClientError::Denied(socket.to_owned());
    }
    // In its own words, where it has some.
    serde_json::from_slice(body).map_or_else(
        |_| ClientError::Broken {
            path: socket.to_owned(),
            source: format!("it answers {status}: {}", String::from_utf8_lossy(body)).into(),
        },
        ClientError::Refused,
    )
}

async fn exchange(
    stream: UnixStream,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, "bulkhead")
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(body))?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), LIMIT).collect().await?.to_bytes();
    connection.abort();
    Ok((status, body))
}

//! The command line's end of the control socket.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, StatusCode, body::Bytes, client::conn::http1, header::HOST};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::{net::UnixStream, time::timeout};

/// How long an agent may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How much it may answer.
const LIMIT: usize = 64 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error("no agent answers on {}: start one with `bulkhead run`, or name its --control-socket", .0.display())]
    NoAgent(PathBuf),
    #[error("cannot open {}: permission denied. Only root may ask the agent", .0.display())]
    Denied(PathBuf),
    #[error("cannot ask the agent on {}", .path.display())]
    Broken { path: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
}

/// Asks the agent on `socket`.
pub(crate) async fn get<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T, ClientError> {
    let broken = |source| ClientError::Broken { path: socket.to_owned(), source };
    let stream = UnixStream::connect(socket).await.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NoAgent(socket.to_owned()),
        io::ErrorKind::PermissionDenied => ClientError::Denied(socket.to_owned()),
        _ => broken(error.into()),
    })?;
    match timeout(PATIENCE, exchange(stream, path)).await {
        Ok(Ok((StatusCode::OK, body))) => serde_json::from_slice(&body).map_err(|e| broken(e.into())),
        Ok(Ok((StatusCode::FORBIDDEN, _))) => Err(ClientError::Denied(socket.to_owned())),
        Ok(Ok((status, _))) => Err(broken(format!("it answers {status}").into())),
        Ok(Err(error)) => Err(broken(error)),
        Err(_) => Err(broken(format!("no answer within {PATIENCE:?}").into())),
    }
}

async fn exchange(
    stream: UnixStream,
    path: &str,
) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::get(path).header(HOST, "bulkhead").body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), LIMIT).collect().await?.to_bytes();
    connection.abort();
    Ok((status, body))
}

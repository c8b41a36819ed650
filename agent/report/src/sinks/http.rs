//! One request over HTTP/1.1, answered in time or not at all.

use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, StatusCode, Uri,
    body::Bytes,
    client::conn::http1,
    header::{CONTENT_TYPE, HOST, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, runtime::Runtime, time::timeout};

/// How long connecting, sending and the answer may take together.
const PATIENCE: Duration = Duration::from_secs(10);
/// How much may be answered.
const LIMIT: usize = 64 << 10;

const AGENT: &str = concat!("bulkhead/", env!("CARGO_PKG_VERSION"));

/// Posts JSON to a URI that has a host.
pub(super) fn post(
    runtime: &Runtime,
    to: &Uri,
    port: u16,
    json: Vec<u8>,
) -> Result<(StatusCode, Bytes), String> {
    let answer = runtime.block_on(async { timeout(PATIENCE, exchange(to, port, json)).await });
    match answer {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {PATIENCE:?}")),
    }
}

async fn exchange(
    to: &Uri,
    port: u16,
    json: Vec<u8>,
) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
    let host = to.host().unwrap_or_default();
    let stream = TcpStream::connect((host.trim_matches(['[', ']']), port)).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::builder()
        .method(Method::POST)
        .uri(to.path_and_query().map_or("/", |path| path.as_str()))
        .header(HOST, format!("{host}:{port}"))
        .header(CONTENT_TYPE, "application/json")
        .header(USER_AGENT, AGENT)
        .body(Full::new(Bytes::from(json)))?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), LIMIT).collect().await?.to_bytes();
    connection.abort();
    Ok((status, body))
}

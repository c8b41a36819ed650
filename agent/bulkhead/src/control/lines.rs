//! The command line's end of an answer in lines.

use std::{io, path::Path, time::Duration};

use http_body_util::{BodyExt, Empty};
use hyper::{
    Request, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::HOST,
};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::time::timeout;

use super::client::{ClientError, connect, refused};

/// How long an agent may take for the next lines, unless it has none yet.
const PATIENCE: Duration = Duration::from_mins(1);
/// A longer line is none of an agent's.
const LONGEST: usize = 1 << 20;

/// Lines that an agent tells.
pub(crate) struct Lines {
    body: Incoming,
    /// Read, and not handed out yet.
    rest: Vec<u8>,
    /// Does it tell what comes, too? Then it may take its time, and has no end of its own.
    follows: bool,
    agent: String,
}

/// Asks the agent on `socket` for lines.
pub(crate) async fn lines(
    socket: &Path,
    path: &str,
    wanted: &impl Serialize,
    follows: bool,
) -> Result<Lines, ClientError> {
    let broken = |source| ClientError::Broken { path: socket.to_owned(), source };
    let stream = connect(socket).await?;
    let asked = async {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // It ends with the agent, or with this process.
        tokio::spawn(connection);
        let query = serde_urlencoded::to_string(wanted)?;
        let request =
            Request::get(format!("{path}?{query}")).header(HOST, "bulkhead").body(Empty::<Bytes>::new())?;
        Ok(sender.send_request(request).await?)
    };
    let response = match timeout(PATIENCE, asked).await {
        Ok(answer) => answer.map_err(broken)?,
        Err(_) => return Err(broken(format!("no answer within {PATIENCE:?}").into())),
    };
    let (status, body) = (response.status(), response.into_body());
    if status != StatusCode::OK {
        let body = body.collect().await.map_err(|error| broken(error.into()))?.to_bytes();
        return Err(refused(socket, status, &body));
    }
    Ok(Lines { body, rest: Vec::new(), follows, agent: socket.display().to_string() })
}

impl Lines {
    /// The next lines, each with its end; none: these were all.
    pub(crate) async fn next(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') {
                let rest = self.rest.split_off(end + 1);
                let lines = std::mem::replace(&mut self.rest, rest);
                return String::from_utf8(lines).map(Some).map_err(io::Error::other);
            }
            let frame = if self.follows {
                self.body.frame().await
            } else {
                timeout(PATIENCE, self.body.frame()).await?
            };
            let ended = || io::Error::other(format!("the agent on {} has ended", self.agent));
            match frame {
                Some(Ok(frame)) => self.rest.extend(frame.into_data().unwrap_or_default()),
                None if !self.follows && self.rest.is_empty() => return Ok(None),
                None | Some(Err(_)) => return Err(ended()),
            }
            if self.rest.len() > LONGEST {
                return Err(io::Error::other("a line without end"));
            }
        }
    }
}

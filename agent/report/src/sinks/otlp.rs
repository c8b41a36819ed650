//! Logs of OpenTelemetry: OTLP over HTTP, in its JSON form (opentelemetry.io/docs/specs/otlp, section OTLP/HTTP).

use std::{fmt, io, str::FromStr, sync::Arc, time::Duration};

use hyper::{StatusCode, Uri};
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

use super::{
    fields::flat,
    http,
    worker::{Deliver, Undelivered},
};
use crate::{Denial, clock, human};

/// Denials of so long go in one request.
const LINGER: Duration = Duration::from_millis(200);
/// Where collectors listen.
const PORT: u16 = 4318;
/// Where they take logs.
const PATH: &str = "/v1/logs";

/// Where a collector takes logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    uri: Uri,
    port: u16,
}

/// Why a text is no [`Endpoint`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// It asks for encryption.
    #[error("`{0}`: HTTPS is not supported; send to a collector on this machine that forwards over TLS")]
    Encrypted(String),
    /// It is something else.
    #[error("`{0}` is no address of a collector: give one such as `http://127.0.0.1:4318`")]
    Unknown(String),
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let unknown = || EndpointError::Unknown(text.to_owned());
        let uri: Uri = text.parse().map_err(|_| unknown())?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err(EndpointError::Encrypted(text.to_owned())),
            _ => return Err(unknown()),
        }
        let authority = uri.authority().ok_or_else(unknown)?;
        // Whoever may read `status` would read a password.
        if authority.host().is_empty() || authority.as_str().contains('@') {
            return Err(unknown());
        }
        let port = authority.port_u16().unwrap_or(PORT);
        if uri.path().len() > 1 {
            return Ok(Self { uri, port });
        }
        let mut parts = uri.into_parts();
        parts.path_and_query = Some(PATH.parse().map_err(|_| unknown())?);
        Ok(Self { uri: Uri::from_parts(parts).map_err(|_| unknown())?, port })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.uri)
    }
}

/// A collector.
pub(super) struct Otlp {
    endpoint: Endpoint,
    resource: Value,
    runtime: Runtime,
}

impl Otlp {
    pub(super) fn at(endpoint: Endpoint) -> io::Result<Self> {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let resource = json!({ "attributes": [
            attribute("service.name", &"bulkhead".into()),
            attribute("service.version", &env!("CARGO_PKG_VERSION").into()),
            attribute("host.name", &host.into()),
        ]});
        Ok(Self { endpoint, resource, runtime: Builder::new_current_thread().enable_all().build()? })
    }

    fn request(&self, batch: &[Arc<Denial>]) -> Value {
        let records: Vec<Value> = batch.iter().map(|denial| record(denial)).collect();
        json!({ "resourceLogs": [{
            "resource": self.resource,
            "scopeLogs": [{
                "scope": { "name": "bulkhead", "version": env!("CARGO_PKG_VERSION") },
                "logRecords": records,
            }],
        }]})
    }
}

impl Deliver for Otlp {
    fn deliver(&mut self, batch: &[Arc<Denial>]) -> Result<(), Undelivered> {
        let request = self.request(batch).to_string().into_bytes();
        let answer = http::post(&self.runtime, &self.endpoint.uri, self.endpoint.port, request);
        let (status, body) =
            answer.map_err(|error| Undelivered::for_now(0, format!("{}: {error}", self.endpoint)))?;
        let why = |what: &dyn fmt::Display| format!("{}: it answers {what}", self.endpoint);
        match status {
            status if status.is_success() => match rejected(&body) {
                None => Ok(()),
                Some((rejected, said)) => {
                    let refused = rejected.min(batch.len());
                    Err(Undelivered { delivered: batch.len() - refused, refused, why: why(&said) })
                }
            },
            // What the specification calls retryable.
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => Err(Undelivered::for_now(0, why(&status))),
            status => Err(Undelivered { delivered: 0, refused: batch.len(), why: why(&status) }),
        }
    }

    fn linger(&self) -> Duration {
        LINGER
    }
}

/// How many of a batch were not taken, and why.
fn rejected(answer: &[u8]) -> Option<(usize, String)> {
    let answer: Value = serde_json::from_slice(answer).ok()?;
    let partial = &answer["partialSuccess"];
    // 64-bit numbers are text in this JSON, and some write them as numbers.
    let rejected = &partial["rejectedLogRecords"];
    let rejected = rejected.as_str().and_then(|text| text.parse().ok()).or_else(|| rejected.as_u64())?;
    let said = partial["errorMessage"].as_str().unwrap_or("that it rejects records");
    (rejected > 0).then(|| (usize::try_from(rejected).unwrap_or(usize::MAX), human::plain(said)))
}

fn record(denial: &Denial) -> Value {
    let (severity, text) = if denial.verdict == "denied" { (13, "WARN") } else { (9, "INFO") };
    let attributes: Vec<Value> =
        flat(denial).into_iter().map(|(path, value)| attribute(&name(&path), &value)).collect();
    json!({
        "timeUnixNano": denial.time.as_nanosecond().to_string(),
        "observedTimeUnixNano": clock::now().to_string(),
        "severityNumber": severity,
        "severityText": text,
        "eventName": "bulkhead.denial",
        "body": { "stringValue": human::line(denial) },
        "attributes": attributes,
    })
}

/// `peer.name` is `bulkhead.peer.name`.
pub(super) fn name(path: &str) -> String {
    format!("bulkhead.{path}")
}

fn attribute(key: &str, value: &Value) -> Value {
    json!({ "key": key, "value": any(value) })
}

fn any(value: &Value) -> Value {
    match value {
        Value::Array(values) => {
            json!({ "arrayValue": { "values": values.iter().map(any).collect::<Vec<_>>() } })
        }
        Value::Number(number) => json!({ "intValue": number.to_string() }),
        Value::String(text) => json!({ "stringValue": text }),
        other => json!({ "stringValue": other.to_string() }),
    }
}

#[cfg(test)]
mod tests;

//! What the agent tells of single refusals and of flows: JSON lines, as long as somebody reads them.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{Query, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use bulkhead_report::{Denial, Feed, Flow, Followed, Follower, History, Reached, Record, Wanted};
use hyper::body::Frame;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::spawn_blocking,
    time::timeout,
};

use super::{DENIALS, FLOWS, Refusal};
use crate::output;

/// So many are answered at once. More are turned away: each may stay as long as it likes.
const READERS: usize = 16;
/// So many pieces wait for a reader before it is waited for.
const PIECES: usize = 16;
/// How long the disk may take for what is not written yet.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a piece may become before it is sent.
const PIECE: usize = 16 << 10;

/// Where records come from.
#[derive(Clone, Debug)]
pub(crate) struct Records {
    denials: Feed<Denial>,
    flows: Feed<Flow>,
    /// None: none is kept.
    history: Option<History>,
    places: Arc<Semaphore>,
}

impl Records {
    pub(crate) fn new(denials: Feed<Denial>, flows: Feed<Flow>, history: Option<History>) -> Self {
        Self { denials, flows, history, places: Arc::new(Semaphore::new(READERS)) }
    }
}

/// Which denials somebody wants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WantedDenials {
    /// Those that come, too.
    #[serde(default)]
    pub(crate) follow: bool,
    /// Not what was before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) since: Option<Timestamp>,
    /// Of those that were, the last so many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) limit: Option<u64>,
    /// Of this workload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) workload: Option<String>,
    /// `denied` or `would-deny`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) verdict: Option<String>,
}

/// Which flows somebody wants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WantedFlows {
    /// Those that come, too.
    #[serde(default)]
    pub(crate) follow: bool,
    /// Not what was before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) since: Option<Timestamp>,
    /// Of those that were, the last so many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) limit: Option<u64>,
    /// Opened by whom a rule names so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) from: Option<String>,
    /// To whom a rule names so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) to: Option<String>,
    /// `allowed`, `denied` or `would-deny`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) verdict: Option<String>,
}

/// What a line may be instead of a record: reports that a slow reader has not got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LostLines {
    pub(crate) lost: u64,
}

/// Tells of refusals, a JSON object a line
#[utoipa::path(get, path = DENIALS, params(
    ("follow" = Option<bool>, Query, description = "Those that come, too"),
    ("since" = Option<String>, Query, format = DateTime, description = "Not what was before"),
    ("limit" = Option<u64>, Query, description = "Of those that were, the last so many"),
    ("workload" = Option<String>, Query, description = "Of this workload"),
    ("verdict" = Option<String>, Query, description = "`denied` or `would-deny`"),
), responses(
    (status = 200, description = "As reports have them; `{\"lost\": N}` where the reader was too slow", body = String, content_type = "application/x-ndjson"),
    (status = 400, description = "Not such a question", body = String, content_type = "text/plain"),
    (status = 409, description = "No history is kept", body = Refusal),
    (status = 429, description = "Too many readers", body = Refusal),
    (status = 503, description = "What is kept cannot be read", body = Refusal),
))]
pub(super) async fn denials(State(records): State<Records>, Query(wanted): Query<WantedDenials>) -> Response {
    let WantedDenials { follow, since, limit, workload, verdict } = wanted;
    let holds = move |denial: &Denial| {
        workload.as_ref().is_none_or(|workload| denial.workload.name.as_ref() == Some(workload))
            && verdict.as_ref().is_none_or(|verdict| denial.verdict == verdict)
    };
    let (feed, until) = (records.denials.clone(), |reached: Reached| reached.denial);
    tell(
        &records,
        Wanted { since, limit, until: None },
        follow.then_some((feed, until)),
        holds,
        Denial::to_json,
    )
    .await
}

/// Tells of flows, a JSON object a line
#[utoipa::path(get, path = FLOWS, params(
    ("follow" = Option<bool>, Query, description = "Those that come, too"),
    ("since" = Option<String>, Query, format = DateTime, description = "Not what was before"),
    ("limit" = Option<u64>, Query, description = "Of those that were, the last so many"),
    ("from" = Option<String>, Query, description = "Opened by whom a rule names so"),
    ("to" = Option<String>, Query, description = "To whom a rule names so"),
    ("verdict" = Option<String>, Query, description = "`allowed`, `denied` or `would-deny`"),
), responses(
    (status = 200, description = "As docs/reporting.md tells; `{\"lost\": N}` where the reader was too slow", body = String, content_type = "application/x-ndjson"),
    (status = 400, description = "Not such a question", body = String, content_type = "text/plain"),
    (status = 409, description = "No history is kept", body = Refusal),
    (status = 429, description = "Too many readers", body = Refusal),
    (status = 503, description = "What is kept cannot be read", body = Refusal),
))]
pub(super) async fn flows(State(records): State<Records>, Query(wanted): Query<WantedFlows>) -> Response {
    let WantedFlows { follow, since, limit, from, to, verdict } = wanted;
    let holds = move |flow: &Flow| {
        from.as_ref().is_none_or(|from| flow.is_from(from))
            && to.as_ref().is_none_or(|to| flow.is_to(to))
            && verdict.as_ref().is_none_or(|verdict| flow.kind.verdict == verdict)
    };
    if records.history.is_none() {
        return no_history();
    }
    let (feed, until) = (records.flows.clone(), |reached: Reached| reached.flow);
    tell(
        &records,
        Wanted { since, limit, until: None },
        follow.then_some((feed, until)),
        holds,
        Flow::to_json,
    )
    .await
}

/// Number in a feed of the last that the history holds.
type Number = fn(Reached) -> u64;

/// Answers with what the history holds, and then, if there is a feed to follow, with what comes from it.
async fn tell<T: Record + Clone + Send + Sync + 'static>(
    records: &Records,
    mut wanted: Wanted,
    feed: Option<(Feed<T>, Number)>,
    holds: impl Fn(&T) -> bool + Send + Sync + 'static,
    line: fn(&T) -> String,
) -> Response {
    let Ok(place) = Arc::clone(&records.places).try_acquire_owned() else { return too_many() };
    // From now on, so that nothing is missed while what has been is read.
    let followed = feed.map(|(feed, number)| (feed.follow(), number));
    let mut reached = Reached::default();
    let history = match &records.history {
        Some(history) => match timeout(PATIENCE, history.write()).await {
            Ok(Ok(all)) => {
                reached = all;
                wanted.until = Some(all);
                Some(history.clone())
            }
            // Who follows wants to know what is, first of all.
            Ok(Err(_)) | Err(_) if followed.is_some() => None,
            Ok(Err(error)) => return unreadable(&error.to_string()),
            Err(_) => return unreadable("the disk takes too long"),
        },
        None if followed.is_some() => None,
        None => return no_history(),
    };
    let (lines, body) = Lines::new(place);
    tokio::spawn(async move {
        let holds = Arc::new(holds);
        if let Some(history) = history {
            let (lines, holds) = (lines.clone(), Arc::clone(&holds));
            let told = spawn_blocking(move || read(&history, wanted, &*holds, line, &lines)).await;
            if !matches!(told, Ok(true)) {
                return;
            }
        }
        if let Some((follower, number)) = followed {
            let known = number(reached);
            let line = |number, report: &T| (number > known && holds(report)).then(|| line(report));
            follow(follower, &lines, line).await;
        }
    });
    ([(CONTENT_TYPE, "application/x-ndjson")], Body::new(body)).into_response()
}

/// Sends what the history holds; false: nobody reads any more, or it cannot be read.
fn read<T: Record>(
    history: &History,
    wanted: Wanted,
    holds: impl Fn(&T) -> bool,
    line: fn(&T) -> String,
    lines: &mpsc::Sender<Bytes>,
) -> bool {
    let mut piece = String::new();
    let mut is_read = true;
    let told = history.read(wanted, holds, |record| {
        piece += &line(&record);
        piece.push('\n');
        if piece.len() >= PIECE {
            is_read = lines.blocking_send(std::mem::take(&mut piece).into()).is_ok();
        }
        is_read
    });
    if let Err(error) = &told {
        tracing::warn!(%error, "the history cannot be read");
    }
    is_read && (piece.is_empty() || lines.blocking_send(piece.into()).is_ok()) && told.is_ok()
}

/// Sends what comes, until nobody reads any more.
async fn follow<T: Clone>(
    mut follower: Follower<T>,
    lines: &mpsc::Sender<Bytes>,
    line: impl Fn(u64, &T) -> Option<String>,
) {
    loop {
        let mut next = tokio::select! {
            next = follower.next() => next,
            () = lines.closed() => return,
        };
        if next.is_none() {
            return;
        }
        // All that is there goes together: a reader is not woken for each of many.
        let mut piece = String::new();
        while let Some(followed) = next {
            match followed {
                Followed::Report(number, report) => {
                    piece.extend(line(number, &report).map(|line| line + "\n"));
                }
                Followed::Lost(lost) => piece += &output::json(&LostLines { lost }),
            }
            next = if piece.len() < PIECE { follower.next_now() } else { None };
        }
        if !piece.is_empty() && lines.send(piece.into()).await.is_err() {
            return;
        }
    }
}

fn too_many() -> Response {
    refuse(StatusCode::TOO_MANY_REQUESTS, format!("{READERS} others are reading already: end one of them"))
}

fn unreadable(why: &str) -> Response {
    let error =
        format!("the history cannot be read now: {why}; `bulkhead denials --follow` shows what comes");
    refuse(StatusCode::SERVICE_UNAVAILABLE, error)
}

fn no_history() -> Response {
    let error =
        "this agent keeps no history ([history] of agent.toml); `bulkhead denials --follow` shows what comes";
    refuse(StatusCode::CONFLICT, error.to_owned())
}

fn refuse(status: StatusCode, error: String) -> Response {
    (status, Json(Refusal { error, ..Refusal::default() })).into_response()
}

/// The body of an answer that somebody else writes.
struct Lines {
    pieces: mpsc::Receiver<Bytes>,
    _place: OwnedSemaphorePermit,
}

impl Lines {
    /// With where to write it; its place is free again when nobody reads any more.
    fn new(place: OwnedSemaphorePermit) -> (mpsc::Sender<Bytes>, Self) {
        let (sender, pieces) = mpsc::channel(PIECES);
        (sender, Self { pieces, _place: place })
    }
}

impl hyper::body::Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.get_mut().pieces.poll_recv(context).map(|piece| Some(Ok(Frame::data(piece?))))
    }
}

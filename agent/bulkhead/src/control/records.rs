//! What the agent tells of single refusals: JSON lines, as long as somebody reads them.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{Query, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use bulkhead_report::{Denial, Feed, Followed, Follower};
use hyper::body::Frame;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::Refusal;

/// So many are answered at once. More are turned away: each may stay as long as it likes.
const READERS: usize = 16;
/// So many pieces wait for a reader before it is waited for.
const PIECES: usize = 16;

/// Where records come from.
#[derive(Clone, Debug)]
pub(crate) struct Records {
    denials: Feed<Denial>,
    places: Arc<Semaphore>,
}

impl Records {
    pub(crate) fn new(denials: Feed<Denial>) -> Self {
        Self { denials, places: Arc::new(Semaphore::new(READERS)) }
    }
}

/// Which denials somebody wants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WantedDenials {
    /// Those that come, too.
    #[serde(default)]
    pub(crate) follow: bool,
    /// Of this workload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) workload: Option<String>,
    /// `denied` or `would-deny`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) verdict: Option<String>,
}

impl WantedDenials {
    fn holds(&self, denial: &Denial) -> bool {
        let is = |wanted: &Option<String>, found: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| found == Some(wanted))
        };
        is(&self.workload, denial.workload.name.as_deref()) && is(&self.verdict, Some(denial.verdict))
    }
}

/// What a line may be instead of a record: reports that a slow reader has not got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LostLines {
    pub(crate) lost: u64,
}

pub(super) async fn denials(State(records): State<Records>, Query(wanted): Query<WantedDenials>) -> Response {
    let Ok(place) = Arc::clone(&records.places).try_acquire_owned() else { return too_many() };
    // From now on, so that nothing is missed while what has been is read.
    let follower = wanted.follow.then(|| records.denials.follow());
    let (lines, body) = Lines::new(place);
    tokio::spawn(async move {
        if let Some(follower) = follower {
            follow(follower, &lines, |denial: &Denial| wanted.holds(denial).then(|| denial.to_json())).await;
        }
    });
    ([(CONTENT_TYPE, "application/x-ndjson")], Body::new(body)).into_response()
}

/// Sends what comes, until nobody reads any more.
async fn follow<T: Clone>(
    mut follower: Follower<T>,
    lines: &mpsc::Sender<Bytes>,
    line: impl Fn(&T) -> Option<String>,
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
                Followed::Report(_, report) => piece.extend(line(&report).map(|line| line + "\n")),
                Followed::Lost(lost) => piece += &crate::output::json(&LostLines { lost }),
            }
            next = if piece.len() < PIECE { follower.next_now() } else { None };
        }
        if !piece.is_empty() && lines.send(piece.into()).await.is_err() {
            return;
        }
    }
}

/// How long a piece may become before it is sent.
const PIECE: usize = 16 << 10;

fn too_many() -> Response {
    let error = format!("{READERS} others are reading already: end one of them");
    (StatusCode::TOO_MANY_REQUESTS, Json(Refusal { error, ..Refusal::default() })).into_response()
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

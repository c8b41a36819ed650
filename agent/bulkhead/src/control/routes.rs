//! What can be asked of an agent, and how: docs/openapi.json is made of this.

use std::time::Duration;

use axum::{
    Json, Router,
    extract::{
        ConnectInfo, DefaultBodyLimit, FromRequest, Query, Request, State, connect_info::Connected,
        rejection::JsonRejection,
    },
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post, put as put_to},
    serve::IncomingStream,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    net::UnixListener,
    sync::{mpsc, oneshot},
    time::timeout,
};
use utoipa::OpenApi;

use super::{
    APPLY, Applied, CONFIRM, Candidate, Comparison, Confirmation, CurrentTraffic, DENIALS, DRAFT,
    DetailedWorkload, Drafted, FLOWS, OPENAPI, PLAN, Plan, Proposal, ROLLBACK, RULES, Records, Refusal,
    Refused, Rules, SHADOW, STATUS, Shadow, Status, TRAFFIC, WORKLOADS, WantedTraffic, records,
};

/// The largest request: a policy of a hundred thousand rules is 10 MB.
const LARGEST: usize = 64 << 20;
/// How long a request may take, from its first byte to the answer.
const LONGEST: Duration = Duration::from_secs(50);

/// What somebody wants of the agent, with where to send the answer.
#[derive(Debug)]
pub(crate) enum Question {
    /// What does it enforce?
    Status(oneshot::Sender<Status>),
    /// Who is in its workloads, and what has their traffic come to?
    Workloads(oneshot::Sender<Vec<DetailedWorkload>>),
    /// What does it allow, and what was that good for?
    Rules(oneshot::Sender<Rules>),
    /// What is counted now?
    Traffic(WantedTraffic, Reply<CurrentTraffic>),
    /// Which rule would allow this?
    Draft(Refused, Reply<Drafted>),
    /// What would this policy change?
    Plan(Proposal, Caller, Reply<Plan>),
    /// Put this policy in force.
    Apply(Proposal, Caller, Reply<Applied>),
    /// Compare this policy with what is in force.
    Compare(Candidate, Reply<Shadow>),
    /// What has come of that?
    Comparison(Reply<Comparison>),
    /// No longer compare it.
    EndComparison(Reply<Comparison>),
    /// What is in force for a while is to stay.
    Confirm(Confirmation, Reply<Applied>),
    /// Go back to the policy before.
    RollBack(Caller, Reply<Applied>),
}

/// Where the answer goes.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

/// Everything that can be asked.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Bulkhead agent",
        description = "The control API of the agent on this host, over its Unix socket: for root and the group `bulkhead`."
    ),
    paths(
        tell_status,
        tell_workloads,
        tell_rules,
        tell_traffic,
        draft,
        plan,
        apply,
        compare,
        tell_comparison,
        end_comparison,
        confirm,
        roll_back,
        records::denials,
        records::flows
    )
)]
struct Api;

/// Everything that can be asked, as an OpenAPI document.
fn openapi() -> String {
    // Strings and numbers only.
    Api::openapi().to_pretty_json().unwrap_or_default() + "\n"
}

/// Whoever holds the other end of `questions` answers what `kept` does not.
pub(super) fn all(questions: mpsc::Sender<Question>, kept: Records) -> Router {
    Router::new()
        .route(STATUS, get(tell_status))
        .route(WORKLOADS, get(tell_workloads))
        .route(RULES, get(tell_rules))
        .route(TRAFFIC, get(tell_traffic))
        .route(DRAFT, post(draft))
        .route(PLAN, post(plan))
        .route(APPLY, post(apply))
        .route(SHADOW, put_to(compare).get(tell_comparison).delete(end_comparison))
        .route(CONFIRM, post(confirm))
        .route(ROLLBACK, post(roll_back))
        .route(OPENAPI, get(tell_openapi))
        .fallback(tell_unknown)
        .with_state(questions)
        .merge(
            Router::new()
                .route(DENIALS, get(records::denials))
                .route(FLOWS, get(records::flows))
                .with_state(kept),
        )
        .layer(DefaultBodyLimit::max(LARGEST))
        .layer(middleware::from_fn(in_time))
        .layer(middleware::from_fn(only_who_may))
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
    refuse(StatusCode::FORBIDDEN, "it cannot be told who asks")
}

type Questions = State<mpsc::Sender<Question>>;

/// What the agent enforces
#[utoipa::path(get, path = STATUS, responses(
    (status = 200, description = "What is in force, and what the operator should look after", body = Status),
    (status = 503, description = "The agent is stopping", body = Refusal),
))]
async fn tell_status(State(questions): Questions) -> Response {
    tell(questions, Question::Status).await
}

/// Each workload of the policy in force, who is in it, and what its traffic has come to
#[utoipa::path(get, path = WORKLOADS, responses(
    (status = 200, description = "In the policy's order", body = Vec<DetailedWorkload>),
    (status = 503, description = "The agent is stopping", body = Refusal),
))]
async fn tell_workloads(State(questions): Questions) -> Response {
    tell(questions, Question::Workloads).await
}

/// Each rule of the policy in force, what it says, and what it has let pass
#[utoipa::path(get, path = RULES, responses(
    (status = 200, description = "Hits are exact, of all the time that the rule is watched, over agents and boots", body = Rules),
    (status = 503, description = "The agent is stopping", body = Refusal),
))]
async fn tell_rules(State(questions): Questions) -> Response {
    tell(questions, Question::Rules).await
}

/// What is counted now: who asks twice knows what has passed in between
#[utoipa::path(get, path = TRAFFIC, params(
    ("limit" = Option<usize>, Query, description = "At most so many kinds, those of late first; 4096 if it is left out"),
), responses(
    (status = 200, description = "Exact, without what found no counter of its own", body = CurrentTraffic),
    (status = 400, description = "Not such a question", body = String, content_type = "text/plain"),
    (status = 409, description = "What was counted cannot be read", body = Refusal),
    (status = 503, description = "The agent is stopping", body = Refusal),
))]
async fn tell_traffic(State(questions): Questions, Query(wanted): Query<WantedTraffic>) -> Response {
    put(questions, |reply| Question::Traffic(wanted, reply)).await
}

/// The rule that would allow what was refused
#[utoipa::path(post, path = DRAFT, request_body = Refused, responses(
    (status = 200, description = "Added to the policy in force, it compiles, and allows this at both ends and nothing else", body = Drafted),
    (status = 400, description = "No JSON", body = Refusal),
    (status = 409, description = "There is no such rule, or the policy in force knows nothing of this", body = Refusal),
    (status = 413, description = "More than 64 MiB", body = Refusal),
    (status = 415, description = "Not application/json", body = Refusal),
    (status = 422, description = "Not what was refused", body = Refusal),
    (status = 503, description = "The agent is stopping", body = Refusal),
))]
async fn draft(State(questions): Questions, Asked(refused): Asked<Refused>) -> Response {
    put(questions, |reply| Question::Draft(refused, reply)).await
}

/// What a policy would change, and which open connections it would cut
#[utoipa::path(post, path = PLAN, request_body = Proposal, responses(
    (status = 200, description = "Compared with the policy in force. Nothing has changed", body = Plan),
    (status = 400, description = "No JSON", body = Refusal),
    (status = 409, description = "The policy does not compile, or another one is being looked at", body = Refusal),
    (status = 413, description = "More than 64 MiB", body = Refusal),
    (status = 415, description = "Not application/json", body = Refusal),
    (status = 422, description = "Not a proposal", body = Refusal),
    (status = 503, description = "The agent is stopping, or hangs", body = Refusal),
))]
async fn plan(
    State(questions): Questions,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Asked(proposal): Asked<Proposal>,
) -> Response {
    put(questions, |reply| Question::Plan(proposal, caller, reply)).await
}

/// Puts a policy in force, for good or for a while
#[utoipa::path(post, path = APPLY, request_body = Proposal, responses(
    (status = 200, description = "It is in force", body = Applied),
    (status = 400, description = "No JSON", body = Refusal),
    (status = 409, description = "Nothing has changed: the policy does not compile, would cut the way back in, or cannot be kept", body = Refusal),
    (status = 413, description = "More than 64 MiB", body = Refusal),
    (status = 415, description = "Not application/json", body = Refusal),
    (status = 422, description = "Not a proposal", body = Refusal),
    (status = 503, description = "The agent is stopping, or hangs", body = Refusal),
))]
async fn apply(
    State(questions): Questions,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Asked(proposal): Asked<Proposal>,
) -> Response {
    put(questions, |reply| Question::Apply(proposal, caller, reply)).await
}

/// Compares a policy with the one in force, on the same packets and calls
#[utoipa::path(put, path = SHADOW, request_body = Candidate, responses(
    (status = 200, description = "It refuses nothing, and what it decides otherwise is counted from now on", body = Shadow),
    (status = 400, description = "No JSON", body = Refusal),
    (status = 409, description = "The policy does not compile, another one is being looked at, or one waits to be confirmed", body = Refusal),
    (status = 413, description = "More than 64 MiB", body = Refusal),
    (status = 415, description = "Not application/json", body = Refusal),
    (status = 422, description = "Not a policy", body = Refusal),
    (status = 503, description = "The agent is stopping, or hangs", body = Refusal),
))]
async fn compare(State(questions): Questions, Asked(candidate): Asked<Candidate>) -> Response {
    put(questions, |reply| Question::Compare(candidate, reply)).await
}

/// What the policy that is compared has decided otherwise so far
#[utoipa::path(get, path = SHADOW, responses(
    (status = 200, description = "Exact counts, since the comparison began; or why there is none", body = Comparison),
    (status = 409, description = "What was counted cannot be read", body = Refusal),
    (status = 503, description = "The agent is stopping, or hangs", body = Refusal),
))]
async fn tell_comparison(State(questions): Questions) -> Response {
    put(questions, Question::Comparison).await
}

/// Ends a comparison
#[utoipa::path(delete, path = SHADOW, responses(
    (status = 200, description = "What has come of it in the end", body = Comparison),
    (status = 409, description = "No policy is compared", body = Refusal),
    (status = 503, description = "The agent is stopping, or hangs", body = Refusal),
))]
async fn end_comparison(State(questions): Questions) -> Response {
    put(questions, Question::EndComparison).await
}

/// Lets stay what is in force for a while
#[utoipa::path(post, path = CONFIRM, params(
    ("policy_hash" = Option<String>, Query, description = "As `apply` answered, or its beginning: if another policy waits, nothing is confirmed; left out: whatever waits"),
), responses(
    (status = 200, description = "It stays", body = Applied),
    (status = 400, description = "Not such a question", body = String, content_type = "text/plain"),
    (status = 409, description = "There is nothing to confirm, or something else, or it is too late", body = Refusal),
    (status = 503, description = "The agent is stopping, or hangs", body = Refusal),
))]
async fn confirm(State(questions): Questions, Query(what): Query<Confirmation>) -> Response {
    put(questions, |reply| Question::Confirm(what, reply)).await
}

/// Goes back to the policy before
#[utoipa::path(post, path = ROLLBACK, responses(
    (status = 200, description = "The policy before is in force again", body = Applied),
    (status = 409, description = "There is nothing to go back to, or it would cut the way back in", body = Refusal),
    (status = 503, description = "The agent is stopping, or hangs", body = Refusal),
))]
async fn roll_back(State(questions): Questions, ConnectInfo(caller): ConnectInfo<Caller>) -> Response {
    put(questions, |reply| Question::RollBack(caller, reply)).await
}

/// Asks for what there always is to tell.
async fn tell<T: Serialize>(
    questions: mpsc::Sender<Question>,
    question: impl FnOnce(oneshot::Sender<T>) -> Question,
) -> Response {
    let (reply, answer) = oneshot::channel();
    if questions.send(question(reply)).await.is_err() {
        return stopping();
    }
    answer.await.map_or_else(|_| stopping(), |told| Json(told).into_response())
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
    refuse(StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping")
}

async fn tell_openapi() -> Response {
    ([("content-type", "application/json")], openapi()).into_response()
}

async fn tell_unknown() -> Response {
    refuse(StatusCode::NOT_FOUND, format!("nothing is here: {OPENAPI} tells what can be asked"))
}

/// A body that makes sense.
struct Asked<T>(T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Asked<T> {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Self::Rejection> {
        let asked = Json::from_request(request, state).await;
        asked
            .map(|Json(asked)| Self(asked))
            .map_err(|why: JsonRejection| refuse(why.status(), why.body_text()))
    }
}

fn refuse(status: StatusCode, error: impl Into<String>) -> Response {
    (status, Json(Refusal { error: error.into(), ..Refusal::default() })).into_response()
}

/// Who takes longer, to ask or to answer, is let go.
async fn in_time(request: Request, next: Next) -> Response {
    timeout(LONGEST, next.run(request))
        .await
        .unwrap_or_else(|_| refuse(StatusCode::SERVICE_UNAVAILABLE, format!("no answer within {LONGEST:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_in_docs() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
        if std::env::var_os("INSTA_UPDATE").is_some_and(|update| update == "always") {
            std::fs::write(page, openapi()).unwrap();
        }
        let there = std::fs::read_to_string(page).unwrap_or_default();
        assert!(
            there == openapi(),
            "docs/openapi.json is out of date: run this test with INSTA_UPDATE=always"
        );
    }
}

//! The HTTP server: one path, to be read by anybody who reaches the address, and nothing that anybody could do with it but
//! read.

use std::{
    collections::VecDeque,
    convert::Infallible,
    net::SocketAddr,
    sync::{self, Arc, PoisonError},
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Mutex, Semaphore, mpsc, oneshot},
    task::AbortHandle,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{Scrape, families::render};
use crate::daemon::priority;

/// Where they are.
const PATH: &str = "/metrics";
/// How many are served at once. More wait,
const CONNECTIONS: usize = 8;
/// and so long at most for those who take their time: then the one that has been there longest goes.
const GRACE: Duration = Duration::from_millis(500);
/// At most one in so many parts of the time goes into reading counters, however often somebody asks.
const SHARE: u32 = 10;
/// How long a request's head may take.
const HEAD: Duration = Duration::from_secs(5);
/// How long a connection may take in all.
const LIFE: Duration = Duration::from_secs(15);
/// How long a request's head may be.
const HEAD_BYTES: usize = 16 << 10;
/// How long to wait for an address that cannot be had, for room for another connection, and after counters were read for
/// nothing.
const PAUSE: Duration = Duration::from_secs(1);

const TEXT: &str = "text/plain; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Answer = Response<Full<Bytes>>;
/// When counters may be read again: by one at a time.
type Turn = Mutex<Instant>;

/// Serves for ever. `listener`: none if the address could not be had at once.
pub(super) async fn serve(
    listener: Option<TcpListener>,
    address: SocketAddr,
    scrapes: mpsc::Sender<Scrape>,
    fault: Arc<sync::Mutex<Option<String>>>,
) {
    let listener = match listener {
        Some(listener) => listener,
        None => listen_some_time(address, &fault).await,
    };
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    let turn = Arc::new(Turn::new(Instant::now()));
    let mut served: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "a connection for metrics is lost");
                sleep(PAUSE).await;
                continue;
            }
        };
        let place = loop {
            match timeout(GRACE, Arc::clone(&free).acquire_owned()).await {
                Ok(Ok(place)) => break place,
                Ok(Err(_closed)) => return,
                Err(_elapsed) => drop(served.pop_front().inspect(AbortHandle::abort)),
            }
        };
        let (scrapes, turn) = (scrapes.clone(), Arc::clone(&turn));
        served.retain(|connection| !connection.is_finished());
        let connection = tokio::spawn(async move {
            answer(stream, scrapes, turn).await;
            drop(place);
        });
        served.push_back(connection.abort_handle());
    }
}

async fn listen_some_time(address: SocketAddr, fault: &sync::Mutex<Option<String>>) -> TcpListener {
    loop {
        sleep(PAUSE).await;
        if let Some(listener) = listen(address, fault).await {
            return listener;
        }
    }
}

/// Takes the address, if it is free.
pub(super) async fn listen(address: SocketAddr, fault: &sync::Mutex<Option<String>>) -> Option<TcpListener> {
    let listener = TcpListener::bind(address).await;
    let why = listener.as_ref().err();
    let why = why.map(|error| format!("metrics are not served, since {address} cannot be had: {error}"));
    let mut fault = fault.lock().unwrap_or_else(PoisonError::into_inner);
    if let (None, Some(why)) = (&*fault, &why) {
        tracing::error!("{why}");
    }
    *fault = why;
    listener.ok()
}

async fn answer(stream: TcpStream, scrapes: mpsc::Sender<Scrape>, turn: Arc<Turn>) {
    let service = service_fn(|request| respond(request, scrapes.clone(), Arc::clone(&turn)));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(LIFE, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection for metrics has failed"),
        Err(_) => tracing::debug!("a connection for metrics took too long"),
    }
}

async fn respond(
    request: Request<Incoming>,
    scrapes: mpsc::Sender<Scrape>,
    turn: Arc<Turn>,
) -> Result<Answer, Infallible> {
    Ok(match (request.method(), request.uri().path()) {
        (&Method::GET, PATH) => scrape(scrapes, &turn).await,
        (_, PATH) => {
            let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "metrics are read with GET\n");
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
            answer
        }
        _ => plain(StatusCode::NOT_FOUND, "metrics are at /metrics\n"),
    })
}

async fn scrape(scrapes: mpsc::Sender<Scrape>, turn: &Turn) -> Answer {
    let mut turn = turn.lock().await;
    sleep_until(*turn).await;
    let began = Instant::now();
    // Whoever asks may be gone before there is an answer.
    *turn = began + PAUSE;
    let answer = measured(scrapes).await;
    *turn = Instant::now() + began.elapsed() * (SHARE - 1);
    answer
}

async fn measured(scrapes: mpsc::Sender<Scrape>) -> Answer {
    let (question, measures) = oneshot::channel();
    if scrapes.send(question).await.is_ok()
        && let Ok(measures) = measures.await
    {
        // The counters are read there, and not on the thread that follows the cgroups.
        let rendered = tokio::task::spawn_blocking(move || {
            priority::ordinary();
            render(measures)
        });
        if let Ok(text) = rendered.await {
            return of(StatusCode::OK, OPEN_METRICS, text);
        }
    }
    plain(StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping\n")
}

fn plain(status: StatusCode, text: &str) -> Answer {
    of(status, TEXT, text.to_owned())
}

fn of(status: StatusCode, content: &'static str, text: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(text)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content));
    answer
}

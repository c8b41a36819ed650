//! What the agent tells, as it comes. An agent that is gone is asked again until there is one.

use std::{path::Path, time::Duration};

use bulkhead_report::Denial;
use tokio::{
    sync::mpsc::Sender,
    time::{Instant, interval, sleep, sleep_until},
};

use super::update::Event;
use crate::control::{
    ClientError, CurrentTraffic, DENIALS, DRAFT, Drafted, LostLines, Refused, STATUS, Status, TRAFFIC,
    WantedDenials, get, lines, post,
};

/// Rates are told this often,
const PERIOD: Duration = Duration::from_secs(1);
/// and less often where it takes the agent long to count: at most one in so many parts of the time.
const SHARE: u32 = 5;
/// Whether it is a dry run, and the like, is asked for this often.
const SELDOM: Duration = Duration::from_secs(3);
/// So many refusals of before are shown at first.
const BEFORE: u64 = 200;

/// Begins to ask the agent on `socket`. It ends with whoever listens.
pub(super) fn start(socket: &Path, to: &Sender<Event>) {
    let (socket, to) = (socket.to_owned(), to.clone());
    tokio::spawn({
        let (socket, to) = (socket.clone(), to.clone());
        async move { follow_traffic(&socket, &to).await }
    });
    tokio::spawn({
        let (socket, to) = (socket.clone(), to.clone());
        async move { follow_denials(&socket, &to).await }
    });
    tokio::spawn({
        let to = to.clone();
        async move { follow_status(&socket, &to).await }
    });
    tokio::spawn(async move {
        let mut seconds = interval(PERIOD);
        loop {
            seconds.tick().await;
            if to.send(Event::Tick).await.is_err() {
                return;
            }
        }
    });
}

async fn follow_traffic(socket: &Path, to: &Sender<Event>) {
    loop {
        let began = Instant::now();
        let told: Result<CurrentTraffic, _> = get(socket, TRAFFIC).await;
        if to.send(told.map_or_else(|why| lost(&why), Event::Traffic)).await.is_err() {
            return;
        }
        sleep_until(began + PERIOD.max(began.elapsed() * SHARE)).await;
    }
}

async fn follow_status(socket: &Path, to: &Sender<Event>) {
    loop {
        // That there is none, those who follow traffic say.
        let told: Result<Status, _> = get(socket, STATUS).await;
        if let Ok(status) = told
            && to.send(Event::Status(Box::new(status))).await.is_err()
        {
            return;
        }
        sleep(SELDOM).await;
    }
}

async fn follow_denials(socket: &Path, to: &Sender<Event>) {
    let mut before = BEFORE;
    loop {
        let wanted = WantedDenials { follow: true, limit: Some(before), ..WantedDenials::default() };
        match lines(socket, DENIALS, &wanted, true).await {
            Ok(mut told) => {
                // Told once.
                before = 0;
                while let Ok(Some(text)) = told.next().await {
                    for event in text.lines().filter_map(read) {
                        if to.send(event).await.is_err() {
                            return;
                        }
                    }
                }
            }
            // There is no agent: who asks for traffic says so.
            Err(ClientError::NoAgent(_)) => {}
            Err(why) => {
                if to.send(lost(&why)).await.is_err() {
                    return;
                }
            }
        }
        sleep(PERIOD).await;
    }
}

/// None for what a version before wrote in other words.
fn read(line: &str) -> Option<Event> {
    if let Ok(LostLines { lost }) = serde_json::from_str(line) {
        return Some(Event::Missed(lost));
    }
    Denial::from_json(line).ok().map(|denial| Event::Denial(Box::new(denial)))
}

/// Asks for a rule that would allow it.
pub(super) async fn draft(socket: &Path, refused: &Refused) -> Result<Drafted, String> {
    post(socket, DRAFT, refused).await.map_err(|why| why.to_string())
}

fn lost(why: &ClientError) -> Event {
    Event::Lost(why.to_string())
}

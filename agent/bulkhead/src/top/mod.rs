//! `bulkhead top`: who talks with whom now, and who is refused.
//!
//! [`model`] and [`update`] are what is shown and how it changes, [`view`] how it looks; the terminal and the agent are at
//! the rim ([`terminal`], [`feed`]).

mod feed;
mod model;
mod rows;
mod terminal;
#[cfg(test)]
mod tests;
mod update;
mod view;

use std::{
    fs::OpenOptions,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{self, Path},
};

use jiff::Timestamp;
use rustix::fs::OFlags;
use tokio::{
    select,
    signal::unix::{SignalKind, signal},
    sync::mpsc::{self, Sender},
};

use self::{
    model::Model,
    terminal::Screen,
    update::{Effect, Event},
    view::View,
};
use crate::{
    control::{STATUS, Status, get},
    output,
};

/// So much waits for the screen. Who tells more waits, too.
const WAITING: usize = 1024;

/// Shows it until the user has seen enough. Tells what is to be printed then.
pub(crate) async fn run(socket: &Path) -> anyhow::Result<String> {
    terminal::check()?;
    // Later an agent may go and another come; who begins without one has started none, or may not ask it.
    let status: Status = get(socket, STATUS).await?;
    let (to, mut events) = mpsc::channel(WAITING);
    let mut screen = Screen::take(to.clone())?;
    let [mut terminate, mut hang_up, mut interrupt] =
        [signal(SignalKind::terminate())?, signal(SignalKind::hangup())?, signal(SignalKind::interrupt())?];
    feed::start(socket, &to);
    let mut model = Model { status: Some(Box::new(status)), ..Model::default() };
    let mut view = View::new(output::color(&io::stdout()));
    loop {
        screen.terminal.draw(|frame| view.draw(frame, &model))?;
        let mut event = select! {
            event = events.recv() => event,
            _ = terminate.recv() => Some(Event::Stop),
            _ = hang_up.recv() => Some(Event::Stop),
            _ = interrupt.recv() => Some(Event::Stop),
        };
        // All that has come is one picture.
        while let Some(next) = event.take() {
            match model.update(next, Timestamp::now()) {
                Some(Effect::Quit) => return Ok(model.kept.concat()),
                Some(effect) => start(effect, socket, &to),
                None => {}
            }
            event = events.try_recv().ok();
        }
    }
}

/// Does what takes a while; what comes of it is an event.
fn start(effect: Effect, socket: &Path, to: &Sender<Event>) {
    let (socket, to) = (socket.to_owned(), to.clone());
    match effect {
        Effect::Quit => {}
        Effect::Draft(refused) => {
            tokio::spawn(async move { to.send(Event::Drafted(feed::draft(&socket, &refused).await)).await });
        }
        Effect::Write { file, text } => {
            tokio::task::spawn_blocking(move || {
                let written = append(Path::new(&file), &text).map_err(|error| error.to_string());
                to.blocking_send(Event::Written(written))
            });
        }
    }
}

/// Adds a rule to a file, which is made if it is not there; tells where it is. Never through a link that somebody else may
/// have laid.
fn append(file: &Path, text: &str) -> io::Result<String> {
    let flags = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or(0);
    let mut opened =
        OpenOptions::new().append(true).create(true).mode(0o640).custom_flags(flags).open(file)?;
    let blank = if opened.metadata()?.len() > 0 { "\n" } else { "" };
    opened.write_all(format!("{blank}{text}").as_bytes())?;
    Ok(path::absolute(file)?.display().to_string())
}

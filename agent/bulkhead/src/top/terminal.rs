//! The terminal: taken over, and given back whatever happens.

use std::{
    io::{self, IsTerminal as _},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event as Input, KeyEventKind},
};
use tokio::sync::mpsc::Sender;

use super::update::Event;

/// The terminal is asked this often whether it is still wanted.
const PATIENCE: Duration = Duration::from_millis(100);

/// A terminal that is drawn on. Dropping it gives it back as it was; so does a panic, before it is told.
pub(super) struct Screen {
    pub(super) terminal: DefaultTerminal,
    ends: Arc<AtomicBool>,
}

/// Is there a terminal at all?
pub(super) fn check() -> anyhow::Result<()> {
    ensure!(
        io::stdin().is_terminal() && io::stdout().is_terminal(),
        "top draws on a terminal, and this is none: use `bulkhead flows --follow` and `bulkhead denials --follow`"
    );
    Ok(())
}

impl Screen {
    /// Takes it over; `to` gets what is typed.
    pub(super) fn take(to: Sender<Event>) -> anyhow::Result<Self> {
        let terminal = ratatui::try_init().context("the terminal cannot be drawn on")?;
        let ends = Arc::new(AtomicBool::new(false));
        let screen = Self { terminal, ends: Arc::clone(&ends) };
        thread::Builder::new().name("bulkhead-keys".into()).spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                if !listen(&to) {
                    return;
                }
            }
        })?;
        Ok(screen)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        ratatui::restore();
    }
}

/// Waits a moment for what is typed; false: nobody listens any more, or the terminal is gone.
fn listen(to: &Sender<Event>) -> bool {
    let event = match event::poll(PATIENCE) {
        Ok(false) => return true,
        Ok(true) => event::read(),
        Err(error) => Err(error),
    };
    let event = match event {
        Ok(Input::Key(key)) if key.kind == KeyEventKind::Press => Event::Key(key),
        Ok(Input::Resize(..)) => Event::Resized,
        Ok(_) => return true,
        Err(_) => {
            let _ = to.blocking_send(Event::Stop);
            return false;
        }
    };
    to.blocking_send(event).is_ok()
}

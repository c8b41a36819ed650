//! What happens, and what comes of it.

use bulkhead_report::Denial;
use jiff::Timestamp;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::{
    model::{Column, DraftScreen, DraftState, Model, Screen},
    rows::Key,
};
use crate::control::{CurrentTraffic, Drafted, Refused, Status};

/// What happens.
#[derive(Debug)]
pub(super) enum Event {
    Key(KeyEvent),
    /// The terminal is another size.
    Resized,
    /// A second is over.
    Tick,
    Traffic(CurrentTraffic),
    Denial(Box<Denial>),
    /// Refusals that came faster than they were read.
    Missed(u64),
    Status(Box<Status>),
    /// Nothing can be asked of the agent, and why.
    Lost(String),
    Drafted(Result<Drafted, String>),
    /// A draft is in this file, or why it is not.
    Written(Result<String, String>),
    /// It is to end.
    Stop,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Quit,
    Draft(Refused),
    Write { file: String, text: String },
}

/// The file that is proposed for drafts.
const FILE: &str = "bulkhead-allow.toml";
/// Rows that a page up or down is.
const PAGE: usize = 20;
/// A refusal is of now if it was in so many last seconds.
const NEW: i64 = 5;

impl Model {
    /// Takes note of an event; tells what is to be done.
    pub(super) fn update(&mut self, event: Event, now: Timestamp) -> Option<Effect> {
        match event {
            Event::Key(key) => return self.press(key),
            Event::Stop => return Some(Effect::Quit),
            Event::Tick => self.rows.tick(),
            Event::Traffic(traffic) => {
                self.trouble = None;
                self.rows.take_traffic(traffic);
            }
            Event::Denial(denial) => {
                let is_new = now.duration_since(denial.time).as_secs() <= NEW;
                if self.held.is_none()
                    && let Screen::Detail { key, chosen } = &mut self.screen
                    && *chosen > 0
                    && *key == Key::of_denial(&denial)
                {
                    // The chosen one stays it, unless it is the newest.
                    *chosen += 1;
                }
                self.rows.take_denial(*denial, is_new);
            }
            // It is drawn after every event.
            Event::Resized => {}
            Event::Missed(count) => self.missed += count,
            Event::Status(status) => self.status = Some(status),
            Event::Lost(why) => {
                self.trouble = Some(why);
                self.rows.lose_sight();
            }
            Event::Drafted(drafted) => {
                if let Screen::Draft(screen) = &mut self.screen {
                    screen.draft = drafted.map_or_else(DraftState::None, DraftState::Ready);
                }
            }
            Event::Written(written) => {
                if let Screen::Draft(screen) = &mut self.screen {
                    screen.note = Some(match written {
                        Ok(file) => format!("added to {file}"),
                        Err(why) => format!("not written: {why}"),
                    });
                }
            }
        }
        None
    }

    fn press(&mut self, key: KeyEvent) -> Option<Effect> {
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            return Some(Effect::Quit);
        }
        match std::mem::take(&mut self.screen) {
            Screen::List => self.press_in_list(key.code),
            Screen::Filter => {
                self.press_in_filter(key.code);
                None
            }
            // Any key but those that quit.
            Screen::Help => (key.code == KeyCode::Char('q')).then_some(Effect::Quit),
            Screen::Detail { key: row, chosen } => self.press_in_detail(key.code, row, chosen),
            Screen::Draft(screen) => self.press_in_draft(key.code, screen),
        }
    }

    fn press_in_list(&mut self, code: KeyCode) -> Option<Effect> {
        match code {
            KeyCode::Char('q') => return Some(Effect::Quit),
            KeyCode::Up | KeyCode::Char('k') => self.select(|at, _| at.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => self.select(|at, last| (at + 1).min(last)),
            KeyCode::PageUp => self.select(|at, _| at.saturating_sub(PAGE)),
            KeyCode::PageDown => self.select(|at, last| (at + PAGE).min(last)),
            KeyCode::Home | KeyCode::Char('g') => self.select(|_, _| 0),
            KeyCode::End | KeyCode::Char('G') => self.select(|_, last| last),
            KeyCode::Left | KeyCode::Char('<') => self.sort = self.sort.beside(Column::ALL.len() - 1),
            KeyCode::Right | KeyCode::Char('>') => self.sort = self.sort.beside(1),
            KeyCode::Char('i') => self.ascending = !self.ascending,
            KeyCode::Char('d') => self.only_refused = !self.only_refused,
            KeyCode::Char(' ') => self.hold_or_go_on(),
            KeyCode::Char('/') => self.screen = Screen::Filter,
            KeyCode::Char('?' | 'h') | KeyCode::F(1) => self.screen = Screen::Help,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Enter => {
                if let Some(key) = self.chosen() {
                    self.selected = Some(key.clone());
                    self.screen = Screen::Detail { key, chosen: 0 };
                }
            }
            KeyCode::Char('a') => {
                let key = self.chosen()?;
                self.selected = Some(key.clone());
                return self.ask(&key, 0, None);
            }
            _ => {}
        }
        None
    }

    fn press_in_filter(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => return,
            KeyCode::Esc => return self.filter.clear(),
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(c) => self.filter.push(c),
            _ => {}
        }
        self.screen = Screen::Filter;
    }

    fn press_in_detail(&mut self, code: KeyCode, row: Key, chosen: usize) -> Option<Effect> {
        let last = self.shown().denials_of(&row).count().saturating_sub(1);
        let chosen = match code {
            KeyCode::Char('q') => return Some(Effect::Quit),
            KeyCode::Esc | KeyCode::Enter | KeyCode::Backspace => return None,
            KeyCode::Up | KeyCode::Char('k') => chosen.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => (chosen + 1).min(last),
            KeyCode::Char('a') => {
                let from = Some((row.clone(), chosen));
                let asked = self.ask(&row, chosen, from);
                if asked.is_none() && matches!(self.screen, Screen::List) {
                    self.screen = Screen::Detail { key: row, chosen };
                }
                return asked;
            }
            _ => chosen,
        };
        self.screen = Screen::Detail { key: row, chosen };
        None
    }

    /// Asks for a rule that would allow one of a row's refusals. A row without any stays as it is.
    fn ask(&mut self, row: &Key, chosen: usize, from: Option<(Key, usize)>) -> Option<Effect> {
        let denial = self.shown().denials_of(row).nth(chosen)?;
        let (draft, effect) = match refused(denial) {
            Ok(refused) => (DraftState::Asked, Some(Effect::Draft(refused))),
            Err(why) => (DraftState::None(why), None),
        };
        let denial = Box::new(Denial::clone(denial));
        self.screen = Screen::Draft(DraftScreen { denial, draft, file: None, note: None, from });
        effect
    }

    fn press_in_draft(&mut self, code: KeyCode, mut screen: DraftScreen) -> Option<Effect> {
        let text = match &screen.draft {
            DraftState::Ready(drafted) => Some(drafted.text.clone()),
            DraftState::Asked | DraftState::None(_) => None,
        };
        let mut effect = None;
        match (&mut screen.file, code) {
            (Some(_), KeyCode::Esc) => screen.file = None,
            (Some(file), KeyCode::Backspace) => drop(file.pop()),
            (Some(file), KeyCode::Char(c)) => file.push(c),
            (file @ Some(_), KeyCode::Enter) => {
                let file = file.take().filter(|file| !file.is_empty());
                effect = file.zip(text).map(|(file, text)| Effect::Write { file, text });
            }
            (None, KeyCode::Char('q')) => return Some(Effect::Quit),
            (None, KeyCode::Esc | KeyCode::Enter | KeyCode::Backspace) => {
                if let Some((key, chosen)) = screen.from {
                    self.screen = Screen::Detail { key, chosen };
                }
                return None;
            }
            (None, KeyCode::Char('w')) if text.is_some() => screen.file = Some(FILE.to_owned()),
            (None, KeyCode::Char('p')) => {
                if let Some(text) = text.filter(|text| !self.kept.contains(text)) {
                    self.kept.push(text);
                    screen.note = Some("printed when top ends".to_owned());
                }
            }
            _ => {}
        }
        self.screen = Screen::Draft(screen);
        effect
    }

    /// The chosen row, or the first.
    fn chosen(&self) -> Option<Key> {
        let visible = self.visible();
        self.position(&visible).map(|at| visible[at].0.clone())
    }

    fn select(&mut self, to: impl Fn(usize, usize) -> usize) {
        let visible = self.visible();
        if let Some(at) = self.position(&visible) {
            let key = visible[to(at, visible.len() - 1)].0.clone();
            self.selected = Some(key);
        }
    }
}

/// What to ask the agent to allow; or why no rule would help.
fn refused(denial: &Denial) -> Result<Refused, String> {
    let nobody = || "its workload cannot be told, so that no rule can name it".to_owned();
    let workload = denial.workload.name.clone().ok_or_else(nobody)?;
    match (denial.reason, denial.peer.address) {
        ("no-rule" | "expired", Some(address)) => Ok(Refused {
            workload,
            direction: denial.direction.to_owned(),
            service: denial.service.clone(),
            peer_address: address.to_string(),
            peer_name: denial.peer.name.clone(),
        }),
        ("raw-socket", _) => Err(format!(
            "a raw socket has no peer yet: it takes a rule of {workload} with ports = [{:?}], to whom it is to reach",
            denial.protocol
        )),
        (reason, _) => Err(format!("no rule allows what is refused as {reason}")),
    }
}

//! How it looks.

use bulkhead_report::{Denial, lines, plain};
use indicatif::HumanBytes;
use ratatui::{
    Frame,
    layout::{Constraint, Layout, Margin, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span, Text},
    widgets::{Block, Cell, Clear, Paragraph, Row as TableRow, Table, TableState, Wrap},
};

use super::{
    model::{Column, DraftScreen, DraftState, Model, Screen},
    rows::{Key, Row},
};

/// Draws a [`Model`].
#[derive(Debug, Default)]
pub(super) struct View {
    color: bool,
    list: TableState,
}

const HELP: &str = "\
 ↑ ↓ PgUp PgDn Home End   choose a row            (also j k g G)
 < >                      sort by another column  (also ← →)
 i                        invert the order
 /                        filter: words that workload, peer, service or environment hold; Esc clears it
 d                        only rows where something was refused
 Enter                    the row's last refusals: process, why, the nearest rule
 a                        the rule that would allow the last refusal of the row, or the chosen one
 Space                    hold the picture
 q, Ctrl-C                end

 → the workload opens connections, ← they are opened to it. Between two workloads of this
 host each end is a row. Rates are exact; refusals are those reported. In yellow: nothing
 was stopped (audit, or a dry run).";

impl View {
    pub(super) fn new(color: bool) -> Self {
        Self { color, ..Self::default() }
    }

    pub(super) fn draw(&mut self, frame: &mut Frame<'_>, model: &Model) {
        let [head, body, foot] =
            Layout::vertical([Constraint::Length(2), Constraint::Min(1), Constraint::Length(1)])
                .areas(frame.area());
        frame.render_widget(Text::from(self.head(model)), head);
        match &model.screen {
            Screen::Detail { key, chosen } => draw_detail(frame, body, model, key, *chosen),
            Screen::Draft(DraftScreen { from: Some((key, chosen)), .. }) => {
                draw_detail(frame, body, model, key, *chosen);
            }
            Screen::List | Screen::Filter | Screen::Help | Screen::Draft(_) => {
                self.draw_list(frame, body, model);
            }
        }
        match &model.screen {
            Screen::Help => self.draw_over(frame, body, " keys ", Text::from(HELP)),
            Screen::Draft(screen) => {
                self.draw_over(frame, body, " a rule that allows it ", self.draft(screen));
            }
            Screen::List | Screen::Filter | Screen::Detail { .. } => {}
        }
        frame.render_widget(self.foot(model), foot);
    }

    fn paint(&self, color: Color) -> Style {
        if self.color { Style::new().fg(color) } else { Style::new() }
    }

    fn bold() -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    fn head(&self, model: &Model) -> Vec<Line<'static>> {
        let mut first = vec![Span::styled("bulkhead top", Self::bold())];
        if let Some(status) = &model.status {
            let doing = if status.dry_run { "dry run: nothing is refused" } else { "enforcing" };
            first.push(Span::raw(format!("  {doing}, generation {}", status.generation)));
            if status.trial.is_some() {
                first.push(Span::styled("  on trial", self.paint(Color::Yellow)));
            }
            if status.events.dropped > 0 {
                first.push(Span::raw(format!("  {} refusals in no report", status.events.dropped)));
            }
        }
        if model.held.is_some() {
            first.push(Span::styled("  PAUSED", self.paint(Color::Yellow).add_modifier(Modifier::BOLD)));
        }
        if model.missed > 0 {
            first.push(Span::raw(format!("  {} reports missed", model.missed)));
        }
        let rates = model.shown().total;
        let second = match &model.trouble {
            Some(why) => Line::styled(
                format!("{} (asking again)", plain(why)),
                self.paint(Color::Red).add_modifier(Modifier::BOLD),
            ),
            None => Line::raw(format!(
                "{} connections/s, {} packets/s, {}/s, {} refusals/s",
                rate(rates.connections),
                rate(rates.packets),
                bytes(rates.bytes),
                rate(model.shown().refusals)
            )),
        };
        vec![Line::from(first), second]
    }

    fn foot(&self, model: &Model) -> Line<'static> {
        let keys: &[(&str, &str)] = match &model.screen {
            Screen::Filter => {
                return Line::from(vec![
                    Span::styled(format!("/{}", plain(&model.filter)), Self::bold()),
                    Span::raw("▏ Enter keeps it, Esc clears it"),
                ]);
            }
            Screen::List => &[
                ("q", "quit"),
                ("↑↓", "choose"),
                ("Enter", "detail"),
                ("a", "allow"),
                ("/", "filter"),
                ("<>", "sort"),
                ("i", "invert"),
                ("d", "refused only"),
                ("Space", "hold"),
                ("?", "help"),
            ],
            Screen::Help => &[("any key", "back")],
            Screen::Detail { .. } => &[("q", "quit"), ("Esc", "back"), ("↑↓", "choose"), ("a", "allow")],
            Screen::Draft(DraftScreen { file: Some(_), .. }) => {
                &[("Enter", "add to this file"), ("Esc", "cancel")]
            }
            Screen::Draft(DraftScreen { draft: DraftState::Ready(_), .. }) => {
                &[("w", "add to a file"), ("p", "print at the end"), ("Esc", "back"), ("q", "quit")]
            }
            Screen::Draft(_) => &[("Esc", "back"), ("q", "quit")],
        };
        let keys = keys.iter().flat_map(|(key, what)| {
            [Span::styled((*key).to_owned(), Self::bold()), Span::raw(format!(" {what}  "))]
        });
        let filter = (!model.filter.is_empty() && matches!(model.screen, Screen::List))
            .then(|| Span::styled(format!("/{}  ", plain(&model.filter)), self.paint(Color::Yellow)));
        filter.into_iter().chain(keys).collect()
    }

    fn draw_list(&mut self, frame: &mut Frame<'_>, area: Rect, model: &Model) {
        let visible = model.visible();
        let columns: Vec<(Column, Constraint)> = columns(area.width);
        let heads = columns.iter().map(|(column, _)| {
            let mark = match (*column == model.sort, model.ascending) {
                (false, _) => "",
                // Amounts begin with the largest, names with the first.
                (true, false) => "▾",
                (true, true) => "▴",
            };
            aligned(*column, format!("{}{mark}", column.head())).style(Self::bold())
        });
        let rows = visible.iter().map(|(key, row)| {
            let style = match (row.refused > 0, row.refusals() > 0.0, row.only_would_be) {
                (false, ..) => Style::new(),
                (true, _, true) => self.paint(Color::Yellow),
                (true, true, false) => self.paint(Color::Red).add_modifier(Modifier::BOLD),
                (true, false, false) => self.paint(Color::Red),
            };
            TableRow::new(columns.iter().map(|(column, _)| aligned(*column, field(*column, key, row))))
                .style(style)
        });
        let widths = columns.iter().map(|(_, width)| *width);
        let table = Table::new(rows, widths)
            .header(TableRow::new(heads))
            .column_spacing(1)
            .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
        self.list.select(model.position(&visible));
        frame.render_stateful_widget(table, area, &mut self.list);
        if visible.is_empty() {
            let nothing = if model.filter.is_empty() && !model.only_refused {
                "nothing has been seen yet"
            } else {
                "no row is like that"
            };
            let below = area.inner(Margin::new(1, 1));
            frame.render_widget(Line::raw(nothing), below);
        }
    }

    fn draft(&self, screen: &DraftScreen) -> Text<'static> {
        let mut text: Vec<Line<'static>> = told(&screen.denial).into_iter().map(Line::raw).collect();
        text.push(Line::raw(""));
        match &screen.draft {
            DraftState::Asked => text.push(Line::raw("asking the agent …")),
            DraftState::None(why) => text.push(Line::styled(plain(why), self.paint(Color::Yellow))),
            DraftState::Ready(drafted) => {
                text.extend(
                    drafted.text.lines().map(|line| Line::styled(plain(line), self.paint(Color::Green))),
                );
                text.push(Line::raw(""));
                text.push(Line::raw(format!("{}, and nothing else.", plain(&drafted.words))));
                text.push(Line::raw("Nothing has changed: `bulkhead plan` and `apply` a policy with it."));
            }
        }
        if let Some(file) = &screen.file {
            text.push(Line::raw(""));
            text.push(Line::styled(format!("add to file: {}▏", plain(file)), Self::bold()));
        }
        if let Some(note) = &screen.note {
            text.push(Line::raw(""));
            text.push(Line::styled(plain(note), Self::bold()));
        }
        Text::from(text)
    }

    fn draw_over(&self, frame: &mut Frame<'_>, area: Rect, title: &'static str, text: Text<'static>) {
        let width = area.width.saturating_sub(4).min(100);
        let inner = usize::from(width.saturating_sub(2)).max(1);
        let height = text.lines.iter().map(|line| line.width().div_ceil(inner).max(1)).sum::<usize>() + 2;
        let height = u16::try_from(height).unwrap_or(u16::MAX).min(area.height);
        let over = Rect {
            x: area.x + (area.width - width) / 2,
            y: area.y + (area.height - height) / 2,
            width,
            height,
        };
        frame.render_widget(Clear, over);
        let block = Block::bordered().title(title).border_style(self.paint(Color::Cyan));
        frame.render_widget(Paragraph::new(text).block(block).wrap(Wrap { trim: false }), over);
    }
}

fn draw_detail(frame: &mut Frame<'_>, area: Rect, model: &Model, key: &Key, chosen: usize) {
    let mut text = vec![Line::styled(in_words(key, model.shown().get(key)), View::bold())];
    if let Some(row) = model.shown().get(key) {
        text.push(Line::raw(format!(
            "{} connections/s, {} packets/s, {}/s; {} refused",
            rate(row.rates.connections),
            rate(row.rates.packets),
            bytes(row.rates.bytes),
            row.refused
        )));
        if let Some(rule) = &row.rule {
            text.push(Line::raw(format!("allowed by {}", plain(rule))));
        }
    }
    text.push(Line::raw(""));
    let before = text.len();
    let mut at = 0;
    for (n, denial) in model.shown().denials_of(key).enumerate() {
        let style = if n == chosen { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() };
        if n == chosen {
            at = text.len();
        }
        text.extend(told(denial).into_iter().map(|line| Line::styled(line, style)));
    }
    if text.len() == before {
        text.push(Line::raw("nothing of it was refused of late"));
    }
    let height = usize::from(area.height);
    let hidden = (at + 3).saturating_sub(height);
    frame.render_widget(Text::from(text.split_off(hidden)), area);
}

/// A refusal in lines: what, who, and the rule that comes closest.
fn told(denial: &Denial) -> Vec<String> {
    const NEAREST: &str = "; nearest rule";
    let told = lines(denial, false);
    let mut told = told.lines().map(str::trim);
    let mut out: Vec<String> = told.next().map(str::to_owned).into_iter().collect();
    for line in told {
        let (who, nearest) = line.split_once(NEAREST).unwrap_or((line, ""));
        out.push(format!("  {who}"));
        if !nearest.is_empty() {
            out.push(format!("  nearest rule{nearest}"));
        }
    }
    out
}

fn in_words(key: &Key, row: Option<&Row>) -> String {
    let with = |name: &str, environment: Option<&String>| {
        let environment = environment.map(|environment| format!(" ({})", plain(environment)));
        format!("{}{}", plain(name), environment.unwrap_or_default())
    };
    let workload = with(&key.workload, row.and_then(|row| row.environment.as_ref()));
    let peer = with(&key.peer, row.and_then(|row| row.peer_environment.as_ref()));
    let arrow = if key.outgoing { '→' } else { '←' };
    format!("{workload} {arrow} {peer} {}", plain(&key.service))
}

/// Those that have room.
fn columns(width: u16) -> Vec<(Column, Constraint)> {
    let wide = width >= 100;
    let column = |column: Column| {
        let width = match column {
            Column::Workload => Constraint::Fill(3),
            Column::Peer => Constraint::Fill(4),
            Column::Service => Constraint::Length(13),
            Column::Connections | Column::Refused => Constraint::Length(8),
            Column::Packets | Column::Refusals => Constraint::Length(10),
            Column::Bytes => Constraint::Length(11),
        };
        (column, width)
    };
    let shown = |shown: &Column| wide || !matches!(shown, Column::Connections | Column::Refused);
    Column::ALL.into_iter().filter(shown).map(column).collect()
}

fn field(column: Column, key: &Key, row: &Row) -> String {
    match column {
        Column::Workload => plain(&key.workload),
        Column::Peer => format!("{} {}", if key.outgoing { '→' } else { '←' }, plain(&key.peer)),
        Column::Service => plain(&key.service),
        Column::Connections => rate(row.rates.connections),
        Column::Packets => rate(row.rates.packets),
        Column::Bytes => bytes(row.rates.bytes),
        Column::Refusals => rate(row.refusals()),
        Column::Refused => row.refused.to_string(),
    }
}

fn aligned(column: Column, text: String) -> Cell<'static> {
    let text = Text::from(text);
    Cell::new(match column {
        Column::Workload | Column::Peer | Column::Service => text,
        _ => text.right_aligned(),
    })
}

/// So many in a second; small numbers to a tenth.
fn rate(rate: f64) -> String {
    if rate < 0.05 {
        "0".to_owned()
    } else if rate < 10.0 {
        format!("{rate:.1}")
    } else {
        format!("{rate:.0}")
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "never below zero, nor that large"
)]
fn bytes(rate: f64) -> String {
    HumanBytes(rate.round() as u64).to_string()
}

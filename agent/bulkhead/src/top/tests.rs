use bulkhead_report::{Denial, Flow};
use jiff::{SignedDuration, Timestamp};
use ratatui::{
    Terminal,
    backend::TestBackend,
    crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
    style::Color,
};

use super::{
    model::{Column, DraftState, Model, Screen},
    rows::{MOST_DENIALS, MOST_ROWS},
    update::{Effect, Event},
    view::View,
};
use crate::control::{CurrentTraffic, Drafted, Refused};

fn start() -> Timestamp {
    "2026-11-21T20:15:00Z".parse().unwrap()
}

fn after(seconds: i64) -> Timestamp {
    start() + SignedDuration::from_secs(seconds)
}

/// web's connections to db: all of them so far.
fn flow(connections: u64) -> Flow {
    let (packets, bytes) = (10 * connections, 1024 * connections);
    let line = format!(
        r#"{{"time":"2026-11-21T20:15:03Z","since":"2026-11-21T20:00:00Z","verdict":"allowed","direction":"egress",
        "protocol":"tcp","service":"tcp/5432","workload":{{"name":"web","environment":"prod"}},
        "peer":{{"address":null,"port":null,"name":"db","environment":"prod","is":["db"],"like":null}},
        "rule":{{"id":"web-db","file":"shop.toml","line":31}},"reason":"rule","generation":4,"count":1,"calls":0,
        "packets":{packets},"bytes":{bytes},"connections":{connections},"first_seen":"2026-11-21T20:00:00Z",
        "last_seen":"2026-11-21T20:15:00Z"}}"#
    );
    Flow::from_json(&line).unwrap()
}

/// ci's attempt to reach somebody.
fn denial(address: &str, name: Option<&str>, time: Timestamp) -> Denial {
    let name = name.map_or("null".to_owned(), |name| format!("{name:?}"));
    let line = format!(
        r#"{{"time":"{time}","verdict":"denied","mode":"enforce","direction":"egress","protocol":"tcp",
        "workload":{{"name":"ci","environment":"dev","cgroup":"/ci.slice/job","unit":null}},
        "process":{{"pid":4711,"comm":"cu\u001brl","exe":"/usr/bin/curl","uid":1000}},
        "peer":{{"address":"{address}","port":5432,"name":{name},"environment":null}},"rule":null,"reason":"no-rule",
        "nearest_rule":{{"id":"web-db","file":"shop.toml","line":31,"differs":["from"]}},"count":3,"suppressed":2,
        "generation":4,"service":"tcp/5432"}}"#
    );
    Denial::from_json(&line).unwrap()
}

/// Who uses it, and what he sees.
struct Desk {
    model: Model,
    now: Timestamp,
    view: View,
}

impl Desk {
    fn new() -> Self {
        Self { model: Model::default(), now: start(), view: View::new(true) }
    }

    fn see(&mut self, event: Event) -> Option<Effect> {
        self.model.update(event, self.now)
    }

    fn traffic(&mut self, second: i64, flows: Vec<Flow>) {
        self.now = after(second);
        self.see(Event::Traffic(CurrentTraffic { time: self.now, flows, left_out: 0 }));
    }

    fn refusal(&mut self, address: &str, name: Option<&str>) {
        self.see(Event::Denial(Box::new(denial(address, name, self.now))));
    }

    fn press(&mut self, code: KeyCode) -> Option<Effect> {
        self.see(Event::Key(KeyEvent::new(code, KeyModifiers::NONE)))
    }

    fn type_in(&mut self, text: &str) {
        for c in text.chars() {
            self.press(KeyCode::Char(c));
        }
    }

    fn peers(&self) -> Vec<&str> {
        self.model.visible().into_iter().map(|(key, _)| key.peer.as_str()).collect()
    }

    fn screen(&mut self, width: u16, height: u16) -> String {
        self.terminal(width, height).backend().to_string()
    }

    fn terminal(&mut self, width: u16, height: u16) -> Terminal<TestBackend> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| self.view.draw(frame, &self.model)).unwrap();
        terminal
    }
}

/// A second of traffic, and two kinds of refusals.
fn busy() -> Desk {
    let mut desk = Desk::new();
    desk.traffic(0, vec![flow(100)]);
    desk.traffic(2, vec![flow(110)]);
    desk.refusal("192.0.2.9", None);
    desk.refusal("10.0.3.7", Some("db"));
    desk.refusal("10.0.3.7", Some("db"));
    desk.see(Event::Tick);
    desk
}

#[test]
fn rows_have_exact_rates_and_what_was_refused() {
    insta::assert_snapshot!(busy().screen(110, 8));
}

#[test]
fn a_narrow_terminal_shows_what_has_room() {
    let mut desk = busy();
    insta::assert_snapshot!(desk.screen(78, 7));
    for (width, height) in [(1, 1), (3, 2), (10, 4), (500, 3)] {
        for code in [KeyCode::Char('?'), KeyCode::Esc, KeyCode::Enter, KeyCode::Char('a')] {
            desk.press(code);
            desk.screen(width, height);
        }
    }
}

#[test]
fn refusals_are_told_as_a_rate_for_as_long_as_they_come() {
    let mut desk = busy();
    let most = |desk: &Desk| {
        let visible = desk.model.visible();
        let refused = visible.iter().map(|(_, row)| (row.refused, row.refusals()));
        refused.max_by_key(|(refused, _)| *refused).unwrap()
    };
    assert_eq!(most(&desk), (6, 2.0), "six in three seconds");
    for _ in 0..3 {
        desk.see(Event::Tick);
    }
    assert_eq!(most(&desk), (6, 0.0));
    // What was told of the past is no rate.
    let long_ago = denial("192.0.2.1", None, after(-100));
    desk.see(Event::Denial(Box::new(long_ago)));
    desk.see(Event::Tick);
    assert!(desk.model.visible().iter().all(|(_, row)| row.refusals() == 0.0));
}

#[test]
fn keys_sort_filter_and_leave_out() {
    let mut desk = busy();
    assert_eq!(desk.peers(), ["db", "192.0.2.9", "db"]);
    desk.press(KeyCode::Char('<'));
    assert_eq!((desk.model.sort, desk.peers()[0]), (Column::Bytes, "db"));
    assert_eq!(desk.model.visible()[0].0.workload, "web");
    desk.press(KeyCode::Char('i'));
    assert_eq!(desk.model.visible()[2].0.workload, "web");
    desk.press(KeyCode::Char('d'));
    assert_eq!(desk.peers().len(), 2);
    desk.press(KeyCode::Char('/'));
    desk.type_in("192 CI");
    assert_eq!(desk.peers(), ["192.0.2.9"]);
    desk.press(KeyCode::Enter);
    assert!(desk.screen(110, 6).contains("/192 CI"));
    desk.press(KeyCode::Esc);
    assert_eq!(desk.peers().len(), 2);
    assert_eq!(desk.press(KeyCode::Char('q')), Some(Effect::Quit));
}

#[test]
fn the_chosen_row_stays_chosen_wherever_it_goes() {
    let mut desk = busy();
    desk.press(KeyCode::Down);
    let chosen = desk.model.selected.clone().unwrap();
    assert_eq!(chosen.peer, "192.0.2.9");
    for _ in 0..5 {
        desk.refusal("192.0.2.9", None);
    }
    desk.see(Event::Tick);
    assert_eq!(desk.peers()[0], "192.0.2.9");
    assert_eq!(desk.model.position(&desk.model.visible()), Some(0));
}

#[test]
fn a_refusal_is_looked_at_and_a_rule_drafted_for_it() {
    let mut desk = busy();
    desk.press(KeyCode::Enter);
    insta::assert_snapshot!("detail", desk.screen(110, 12));
    desk.press(KeyCode::Down);
    let asked = Refused {
        workload: "ci".into(),
        direction: "egress".into(),
        service: "tcp/5432".into(),
        peer_address: "10.0.3.7".into(),
        peer_name: Some("db".into()),
    };
    assert_eq!(desk.press(KeyCode::Char('a')), Some(Effect::Draft(asked)));
    let text = "[[allow]]\nid = \"ci-db\"\nfrom = \"ci\"\nto = \"db\"\nports = [\"tcp/5432\"]\n";
    let drafted = Drafted { text: text.into(), words: "ci may reach db on tcp/5432".into() };
    desk.see(Event::Drafted(Ok(drafted)));
    insta::assert_snapshot!("draft", desk.screen(110, 20));

    assert_eq!(desk.press(KeyCode::Char('w')), None);
    for _ in 0.."bulkhead-allow.toml".len() {
        desk.press(KeyCode::Backspace);
    }
    desk.type_in("q.toml");
    let write = Effect::Write { file: "q.toml".into(), text: text.into() };
    assert_eq!(desk.press(KeyCode::Enter), Some(write));
    desk.see(Event::Written(Ok("/etc/bulkhead/q.toml".into())));
    assert!(desk.screen(110, 20).contains("added to /etc/bulkhead/q.toml"));
    // Printed once, however often it is asked for.
    desk.press(KeyCode::Char('p'));
    desk.press(KeyCode::Char('p'));
    assert_eq!(desk.model.kept, [text]);
    desk.press(KeyCode::Esc);
    assert!(matches!(desk.model.screen, Screen::Detail { chosen: 1, .. }));
    desk.press(KeyCode::Esc);
    assert!(matches!(desk.model.screen, Screen::List));
}

#[test]
fn the_chosen_refusal_stays_chosen_as_others_come() {
    let mut desk = busy();
    desk.press(KeyCode::Enter);
    let chosen = |desk: &Desk| match desk.model.screen {
        Screen::Detail { chosen, .. } => chosen,
        _ => panic!("no detail"),
    };
    desk.refusal("10.0.3.7", Some("db"));
    assert_eq!(chosen(&desk), 0, "the newest");
    desk.press(KeyCode::Down);
    desk.refusal("10.0.3.7", Some("db"));
    desk.refusal("192.0.2.9", None);
    assert_eq!(chosen(&desk), 2, "another one came before it, and one of another row");
}

#[test]
fn what_no_rule_would_allow_is_not_drafted() {
    let mut desk = Desk::new();
    let mut raw = denial("192.0.2.9", None, after(0));
    (raw.reason, raw.protocol, raw.peer.address) = ("raw-socket", "icmp".into(), None);
    desk.see(Event::Denial(Box::new(raw)));
    assert_eq!(desk.press(KeyCode::Char('a')), None);
    assert!(desk.screen(110, 12).contains("takes a rule of ci with ports = [\"icmp\"]"));
    desk.press(KeyCode::Esc);
    desk.refusal("192.0.2.8", None);
    desk.press(KeyCode::Home);
    desk.press(KeyCode::Char('a'));
    desk.see(Event::Drafted(Err("a rule that allows it would be refused: forbidden".into())));
    let Screen::Draft(screen) = &desk.model.screen else { panic!("no draft") };
    assert!(matches!(&screen.draft, DraftState::None(why) if why.contains("forbidden")));
}

#[test]
fn an_agent_that_is_gone_is_told_of_until_there_is_one() {
    let mut desk = busy();
    desk.see(Event::Lost("no agent answers on /run/x".into()));
    let screen = desk.screen(110, 6);
    assert!(screen.contains("no agent answers on /run/x (asking again)"), "{screen}");
    assert!(desk.model.visible().iter().all(|(_, row)| row.rates.packets == 0.0));
    // Another agent has counted on: what came meanwhile is no rate.
    desk.traffic(60, vec![flow(100_000)]);
    assert!(desk.model.trouble.is_none() && desk.model.rows.total.packets == 0.0);
    desk.traffic(61, vec![flow(100_001)]);
    assert!((desk.model.rows.total.packets - 10.0).abs() < 1e-9);
}

#[test]
fn a_kind_that_comes_back_into_sight_is_not_taken_for_new() {
    let mut desk = Desk::new();
    let mut new = flow(7);
    (new.kind.service, new.first_seen) = ("tcp/80".into(), after(1));
    desk.traffic(0, vec![]);
    desk.traffic(2, vec![flow(100), new]);
    let rate = |desk: &Desk, service: &str| {
        let visible = desk.model.visible();
        visible.iter().find(|(key, _)| key.service == service).unwrap().1.rates.connections
    };
    assert!(rate(&desk, "tcp/5432") == 0.0 && (rate(&desk, "tcp/80") - 3.5).abs() < 1e-9);
}

#[test]
fn any_number_of_addresses_takes_bounded_memory() {
    let mut desk = busy();
    for n in 0..10_000_u32 {
        desk.now = after(10 + i64::from(n));
        let [_, _, high, low] = n.to_be_bytes();
        desk.refusal(&format!("10.9.{high}.{low}"), None);
    }
    assert_eq!(desk.model.visible().len(), MOST_ROWS);
    assert!(desk.peers().contains(&"10.9.39.15"), "the last one is there");
    assert_eq!(desk.model.rows.denials.len(), MOST_DENIALS);
}

#[test]
fn a_picture_that_is_held_does_not_change_and_misses_nothing() {
    let mut desk = busy();
    let mut watched_all_the_time = busy();
    desk.press(KeyCode::Char(' '));
    let held = desk.screen(110, 8);
    assert!(held.contains("PAUSED"));
    for desk in [&mut desk, &mut watched_all_the_time] {
        desk.traffic(3, vec![flow(1_000)]);
        desk.refusal("192.0.2.77", None);
        desk.see(Event::Tick);
    }
    assert_eq!(desk.screen(110, 8), held);
    desk.press(KeyCode::Char(' '));
    assert_eq!(desk.screen(110, 8), watched_all_the_time.screen(110, 8));
}

#[test]
fn nothing_is_coloured_where_no_colours_are_wanted() {
    let mut desk = busy();
    let colors = |desk: &mut Desk| {
        let terminal = desk.terminal(110, 12);
        let cells = terminal.backend().buffer().content().to_vec();
        cells.iter().filter(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset).count()
    };
    assert!(colors(&mut desk) > 0);
    desk.view = View::new(false);
    assert_eq!(colors(&mut desk), 0);
    desk.press(KeyCode::Char('?'));
    assert_eq!(colors(&mut desk), 0);
}

use std::sync::Arc;
use std::time::Duration;

use crossterm::event::{KeyCode, KeyEvent};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;

use super::*;
use crate::sample;
use crate::top::feed::{Lost, Update};

fn app(now: Instant) -> App {
    let mut app = App::new();
    app.receive(&Update {
        snapshot: Arc::new(sample::snapshot()),
        received: now,
        lost: None,
    });
    app
}

fn press(app: &mut App, keys: &str) {
    for key in keys.chars() {
        app.key(KeyEvent::from(if key == '\t' {
            KeyCode::Tab
        } else {
            KeyCode::Char(key)
        }));
    }
}

fn render(app: &App, now: Instant, columns: u16, lines: u16, paint: Paint) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(columns, lines)).expect("a terminal");
    terminal
        .draw(|frame| draw(frame, app, now, paint))
        .expect("a frame");
    terminal.backend().buffer().clone()
}

fn text(buffer: &Buffer) -> String {
    let lines = buffer.content.chunks(buffer.area.width as usize).map(|line| {
        let line: String = line.iter().map(ratatui::buffer::Cell::symbol).collect();
        format!("{}\n", line.trim_end())
    });
    lines.collect()
}

fn screen(app: &App, now: Instant, columns: u16, lines: u16) -> String {
    text(&render(app, now, columns, lines, Paint::Never))
}

#[test]
fn each_view_looks_as_agreed() {
    let now = Instant::now();
    for (key, name) in [
        ("1", "tenants"),
        ("2", "pods"),
        ("3", "ledger"),
        ("4", "breaches"),
        ("5", "flows"),
    ] {
        let mut app = app(now);
        press(&mut app, key);
        sample::golden(&format!("top-{name}.txt"), &screen(&app, now, 110, 24));
    }
}

#[test]
fn two_clusters_are_told_apart() {
    let now = Instant::now();
    let mut app = app(now);
    app.snapshot = Arc::new(sample::two_clusters());
    press(&mut app, "3");
    sample::golden("top-two-clusters.txt", &screen(&app, now, 110, 24));
    press(&mut app, "4");
    let breaches = screen(&app, now, 110, 30);
    assert!(
        breaches.contains("node-a, zone us-east-1a, cluster default"),
        "{breaches}"
    );
    for (view, wanted) in [("1", "eu-1"), ("2", "eu-1"), ("5", "eu-1")] {
        press(&mut app, view);
        let narrow = screen(&app, now, 40, 24);
        assert!(narrow.contains("CLUSTER") && narrow.contains(wanted), "{narrow}");
    }
    press(&mut app, "1/eu-1");
    let filtered = screen(&app, now, 110, 24);
    assert!(
        filtered.contains("eu-1") && !filtered.contains("green"),
        "{filtered}"
    );
}

#[test]
fn what_finds_no_room_below_the_flows_is_counted() {
    let now = Instant::now();
    let mut app = app(now);
    let mut many = sample::snapshot();
    for number in 0..40 {
        many.folded.push(crate::model::Folded {
            tenant: format!("tenant-{number}"),
            ..crate::model::Folded::default()
        });
    }
    app.snapshot = Arc::new(many);
    press(&mut app, "5");
    let screen = screen(&app, now, 110, 24);
    let below = screen.lines().skip_while(|line| !line.starts_with("NOT BY PAIR"));
    let listed = below
        .filter(|line| line.starts_with("folded") || line.starts_with("unattributed"))
        .count();
    assert!(
        screen.contains(&format!("and {} more: top --once", 42 - listed)),
        "{listed}: {screen}"
    );
    assert!(screen.contains("leaked"), "{screen}");
}

#[test]
fn help_and_filter_are_shown() {
    let now = Instant::now();
    let mut app = app(now);
    press(&mut app, "?");
    sample::golden("top-help.txt", &screen(&app, now, 80, 24));
    press(&mut app, "x/gre");
    let typed = screen(&app, now, 80, 24);
    assert!(typed.contains("filter: gre_"), "{typed}");
    assert!(typed.contains("green") && !typed.contains("blue"), "{typed}");
}

#[test]
fn a_lost_aggregator_is_said_with_since_when_and_why() {
    let now = Instant::now();
    let mut app = app(now);
    app.lost = Some(Lost {
        since: now,
        since_unix_seconds: 1_785_412_271.0,
        why: "connection refused".into(),
        next_try: now + Duration::from_secs(18),
    });
    let screen = screen(&app, now + Duration::from_secs(14), 140, 24);
    assert!(
        screen.contains("LOST since 2026-07-30T11:51:11Z (14 s), next try in 4 s: connection refused"),
        "{screen}"
    );
    assert!(screen.contains("blue"), "the last answer stays: {screen}");
}

#[test]
fn paused_keeps_the_picture_and_says_how_old_it_is() {
    let now = Instant::now();
    let mut app = app(now);
    press(&mut app, "p");
    let empty = Arc::new(crate::model::Snapshot::default());
    app.receive(&Update {
        snapshot: empty,
        received: now + Duration::from_secs(9),
        lost: None,
    });
    let screen = screen(&app, now + Duration::from_secs(9), 100, 24);
    assert!(
        screen.contains("PAUSED for 9 s") && screen.contains("blue"),
        "{screen}"
    );
}

#[test]
fn tenants_of_one_owner_are_told_apart() {
    let now = Instant::now();
    let mut app = app(now);
    let mut snapshot = sample::snapshot();
    for runner in ["team-payments-prod", "team-payments-test"] {
        snapshot.ledger.push(crate::model::LedgerCell {
            cluster: "default".into(),
            waiter: "blue".into(),
            runner: runner.into(),
            cores: 0.1,
        });
    }
    app.snapshot = Arc::new(snapshot);
    press(&mut app, "3");
    let screen = screen(&app, now, 110, 24);
    assert!(
        screen.contains("team-p…ts-prod") && screen.contains("team-p…ts-test"),
        "{screen}"
    );
}

#[test]
fn heat_needs_no_colour_and_uses_it_where_there_is_some() {
    let now = Instant::now();
    let mut app = app(now);
    press(&mut app, "3");
    let plain = render(&app, now, 110, 24, Paint::Never);
    let painted = render(&app, now, 110, 24, Paint::Ansi);
    assert_eq!(text(&plain), text(&painted), "colour changes no figure");
    assert!(
        plain
            .content
            .iter()
            .all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset)
    );
    let hot: String = painted
        .content
        .iter()
        .filter(|cell| cell.bg == Color::Red)
        .map(ratatui::buffer::Cell::symbol)
        .collect();
    assert_eq!(
        hot.trim(),
        "0.31",
        "blue waiting for red is the hottest, red waiting for itself is not"
    );
}

#[test]
fn any_size_of_terminal_is_survived_in_every_state() {
    let now = Instant::now();
    for keys in ["1", "2", "3", "4", "5", "?", "/x", "p"] {
        let mut app = app(now);
        press(&mut app, keys);
        for (columns, lines) in [
            (1, 1),
            (3, 2),
            (10, 3),
            (24, 6),
            (25, 7),
            (40, 10),
            (500, 3),
            (30, 100),
            (300, 80),
        ] {
            let _ = screen(&app, now, columns, lines);
        }
    }
    assert!(screen(&app(now), now, 20, 4).contains("24x6"));
    let mut narrow = app(now);
    press(&mut narrow, "4");
    assert!(
        screen(&narrow, now, 40, 10).contains("4 breaches"),
        "the tab that is shown"
    );
    let small = screen(&app(now), now, 24, 6);
    assert!(
        small.contains("blue") && small.contains("STOLEN"),
        "what matters most stays: {small}"
    );
}

#[test]
fn an_empty_answer_draws() {
    let now = Instant::now();
    for key in ["1", "2", "3", "4", "5"] {
        let mut app = App::new();
        press(&mut app, key);
        let screen = screen(&app, now, 80, 20);
        assert!(screen.contains("no agent has reported"), "{screen}");
    }
}

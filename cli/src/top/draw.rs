//! State → frame. Nothing here reads a clock, a terminal or the network.

use std::time::Instant;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph, Wrap};

use super::app::{App, View};
use crate::output::{Paint, Tone};
use crate::show::header;
use crate::show::ledger::is_stolen;
use crate::table::{Cell, Table};
use crate::text::{cores_or_dot, cut, duration, utc, width};

/// Below this nothing useful can be laid out.
const MIN_COLUMNS: u16 = 24;
const MIN_LINES: u16 = 6;

/// A heat map's column holds a figure and as much of a name as it takes to tell tenants apart.
const HEAT_COLUMNS: std::ops::RangeInclusive<usize> = 7..=14;
/// Between two of them.
const GAP: usize = 2;

pub(crate) fn draw(frame: &mut Frame<'_>, app: &App, now: Instant, paint: Paint) {
    let area = frame.area();
    if area.width < MIN_COLUMNS || area.height < MIN_LINES {
        let plea = format!("{MIN_COLUMNS}x{MIN_LINES} at least; q quits");
        frame.render_widget(Paragraph::new(plea).wrap(Wrap { trim: true }), area);
        return;
    }
    let head = head(app, now, paint, area);
    let keys = keys(app, area.width as usize);
    let [top, body, foot] = Layout::vertical([
        Constraint::Length(head.len() as u16),
        Constraint::Min(1),
        Constraint::Length(keys.len() as u16),
    ])
    .areas(area);
    frame.render_widget(Paragraph::new(head), top);
    match app.view {
        View::Tenants | View::Pods => draw_table(frame, body, &app.table(), app.selected(), paint),
        View::Ledger => draw_ledger(frame, body, app, paint),
        View::Breaches => draw_breaches(frame, body, app, paint),
    }
    frame.render_widget(Paragraph::new(keys), foot);
    if app.help {
        draw_help(frame, area);
    }
}

/// Tabs, the cluster's state, and what is wrong with our sight of it. At most a third of the screen.
fn head(app: &App, now: Instant, paint: Paint, area: Rect) -> Vec<Line<'static>> {
    let columns = area.width as usize;
    let mut lines = vec![tabs(app, paint)];
    if let Some(lost) = &app.lost {
        let text = format!(
            "LOST {} since {} ({}): {}; next try in {}",
            app.address,
            utc(lost.since_unix_seconds),
            duration(now.saturating_duration_since(lost.since)),
            lost.why,
            duration(lost.next_try.saturating_duration_since(now)),
        );
        lines.push(Line::styled(text, style(Tone::Bad, paint)));
    }
    if app.paused {
        let age = app
            .received
            .map_or_else(String::new, |at| duration(now.saturating_duration_since(at)));
        lines.push(Line::styled(
            format!("PAUSED for {age}; p goes on"),
            style(Tone::Warn, paint),
        ));
    }
    for phrases in header::lines(&app.snapshot) {
        lines.extend(wrap(&phrases, columns, paint));
    }
    lines.truncate((area.height as usize / 3).max(1));
    lines
}

fn tabs(app: &App, paint: Paint) -> Line<'static> {
    let mut spans = vec![Span::styled("Partywall ", style(Tone::Strong, paint))];
    for (index, view) in View::ALL.into_iter().enumerate() {
        let label = format!(" {} {} ", index + 1, view.name());
        let chosen = if view == app.view {
            Modifier::REVERSED
        } else {
            Modifier::empty()
        };
        spans.push(Span::styled(label, Style::new().add_modifier(chosen)));
    }
    spans.push(Span::styled(
        format!("  by {}", app.sort_name()),
        style(Tone::Dim, paint),
    ));
    if !app.filter.is_empty() && !app.typing {
        spans.push(Span::styled(
            format!("  /{}", app.filter),
            style(Tone::Warn, paint),
        ));
    }
    Line::from(spans)
}

/// Phrases on as few lines as they fit on, never broken inside.
fn wrap(phrases: &[Cell], columns: usize, paint: Paint) -> Vec<Line<'static>> {
    const DOT: &str = " · ";
    let mut lines: Vec<Vec<Span<'static>>> = vec![Vec::new()];
    let mut used = 0;
    for phrase in phrases {
        let wide = width(&phrase.text);
        if used > 0 && used + width(DOT) + wide > columns {
            lines.push(Vec::new());
            used = 0;
        }
        if let Some(line) = lines.last_mut() {
            if used > 0 {
                line.push(Span::raw(DOT));
                used += width(DOT);
            }
            line.push(Span::styled(
                cut(&phrase.text, columns),
                style(phrase.tone, paint),
            ));
            used += wide;
        }
    }
    lines.into_iter().map(Line::from).collect()
}

fn keys(app: &App, columns: usize) -> Vec<Line<'static>> {
    if app.typing {
        return vec![Line::raw(format!(
            "filter: {}_   enter keep · esc clear",
            app.filter
        ))];
    }
    let mut words = vec![
        "q quit",
        "? help",
        "tab/1-4 view",
        "↑↓ move",
        "s sort",
        "/ filter",
        "p pause",
    ];
    if app.view == View::Ledger {
        words.insert(4, "←→ columns");
    }
    let mut text = String::new();
    for word in words {
        let next = if text.is_empty() {
            word.to_owned()
        } else {
            format!("{text} · {word}")
        };
        if width(&next) > columns {
            break;
        }
        text = next;
    }
    vec![Line::styled(text, Style::new().add_modifier(Modifier::DIM))]
}

fn draw_table(frame: &mut Frame<'_>, area: Rect, table: &Table, selected: Option<usize>, paint: Paint) {
    if table.rows.is_empty() {
        frame.render_widget(Paragraph::new("nothing to show; esc clears a filter"), area);
        return;
    }
    let fitted = table.fit(area.width as usize);
    let line = |text_of: &dyn Fn(usize) -> (String, Style)| {
        let mut spans = Vec::new();
        for (position, (column, wide)) in fitted.iter().enumerate() {
            let (text, style) = text_of(*column);
            spans.push(Span::styled(table.aligned(*column, &text, *wide), style));
            if position + 1 < fitted.len() {
                spans.push(Span::raw("  "));
            }
        }
        Line::from(spans)
    };
    let heading = line(&|column| (table.columns[column].title.clone(), style(Tone::Strong, paint)));
    let room = area.height.saturating_sub(1) as usize;
    let mut lines = vec![heading];
    for index in visible(table.rows.len(), selected, room) {
        let cells = &table.rows[index].cells;
        let row = line(&|column| {
            cells.get(column).map_or_else(Default::default, |cell| {
                (cell.text.clone(), style(cell.tone, paint))
            })
        });
        lines.push(if selected == Some(index) {
            row.patch_style(Modifier::REVERSED)
        } else {
            row
        });
    }
    frame.render_widget(Paragraph::new(lines), area);
}

/// The rows on screen: from the top until the cursor needs more.
fn visible(rows: usize, selected: Option<usize>, room: usize) -> std::ops::Range<usize> {
    let cursor = selected.unwrap_or(0);
    let first = (cursor + 1).saturating_sub(room.max(1));
    first..rows.min(first + room)
}

fn draw_ledger(frame: &mut Frame<'_>, area: Rect, app: &App, paint: Paint) {
    let matrix = app.matrix();
    if matrix.waiters.is_empty() {
        frame.render_widget(Paragraph::new("nobody waited; esc clears a filter"), area);
        return;
    }
    let names = matrix
        .waiters
        .iter()
        .map(|name| width(name))
        .max()
        .unwrap_or(0)
        .clamp(12, 24);
    let names = names.min((area.width as usize / 2).max(8));
    let widths: Vec<usize> = matrix
        .runners
        .iter()
        .map(|name| width(name).clamp(*HEAT_COLUMNS.start(), *HEAT_COLUMNS.end()))
        .collect();
    let first = app
        .column
        .min(last_first(&widths, (area.width as usize).saturating_sub(names)));
    let shown = first..first + how_many(&widths[first..], (area.width as usize).saturating_sub(names));
    let columns: Vec<(&String, usize)> = matrix.runners[shown.clone()]
        .iter()
        .zip(widths[shown.clone()].iter().copied())
        .collect();
    let hottest = matrix.hottest();

    let more = |hidden: bool, mark: &'static str| if hidden { mark } else { "" };
    let caption = format!(
        "cores that the row waited while the column ran {}{}",
        more(first > 0, "◂"),
        more(shown.end < matrix.runners.len(), "▸")
    );
    let mut heading = vec![Span::raw(" ".repeat(names))];
    heading.extend(
        columns
            .iter()
            .map(|(runner, wide)| right(&cut(runner, *wide), *wide, style(Tone::Strong, paint))),
    );
    let mut lines = vec![
        Line::styled(caption, style(Tone::Dim, paint)),
        Line::from(heading),
    ];
    let selected = app.selected();
    for index in visible(
        matrix.waiters.len(),
        selected,
        area.height.saturating_sub(2) as usize,
    ) {
        let waiter = &matrix.waiters[index];
        let cursor = if selected == Some(index) {
            Modifier::REVERSED
        } else {
            Modifier::empty()
        };
        let name = cut(waiter, names);
        let blanks = " ".repeat(names - width(&name));
        let mut spans = vec![Span::styled(name + &blanks, Style::new().add_modifier(cursor))];
        for (runner, wide) in &columns {
            let value = matrix.cores(waiter, runner);
            spans.push(right(
                &cores_or_dot(value),
                *wide,
                heat(waiter, runner, value, hottest, paint),
            ));
        }
        lines.push(Line::from(spans));
    }
    frame.render_widget(Paragraph::new(lines), area);
}

/// How many columns from the first on fit into `room`.
fn how_many(widths: &[usize], room: usize) -> usize {
    let mut used = 0;
    widths
        .iter()
        .take_while(|wide| {
            used += *wide + GAP;
            used <= room
        })
        .count()
}

/// The first column of the last page: moving on would only make room.
fn last_first(widths: &[usize], room: usize) -> usize {
    let reversed: Vec<usize> = widths.iter().rev().copied().collect();
    widths.len() - how_many(&reversed, room)
}

/// The gap, then `text` to the right.
fn right(text: &str, wide: usize, style: Style) -> Span<'static> {
    Span::styled(
        format!("{}{text}", " ".repeat(GAP + wide.saturating_sub(width(text)))),
        style,
    )
}

/// Stolen cores glow by their share of the hottest; what is nobody's fault stays dim. The figure itself is always there.
fn heat(waiter: &str, runner: &str, cores: f64, hottest: f64, paint: Paint) -> Style {
    if !is_stolen(waiter, runner) {
        return style(Tone::Dim, paint);
    }
    // Below the least that counts as stolen by default, no colour: noise would glow on a quiet cluster.
    let share = if cores >= 0.01 && hottest > 0.0 {
        cores / hottest
    } else {
        0.0
    };
    match (paint, share) {
        (_, 0.0) => Style::new(),
        (Paint::Never, _) => Style::new().add_modifier(Modifier::BOLD),
        (Paint::Ansi, share) if share > 0.66 => Style::new()
            .fg(Color::White)
            .bg(Color::Red)
            .add_modifier(Modifier::BOLD),
        (Paint::Ansi, share) if share > 0.33 => Style::new().fg(Color::Black).bg(Color::Yellow),
        (Paint::Ansi, _) => Style::new().fg(Color::Yellow),
    }
}

fn draw_breaches(frame: &mut Frame<'_>, area: Rect, app: &App, paint: Paint) {
    let Some(breach) = app.selected_breach() else {
        let silence = "no breach, as far as was seen; esc clears a filter";
        frame.render_widget(Paragraph::new(silence).wrap(Wrap { trim: true }), area);
        return;
    };
    let table = app.table();
    // The list takes what it needs up to half; the evidence gets the rest.
    let wanted = table.rows.len() as u16 + 1;
    let list = wanted.min((area.height / 2).max(2));
    let [above, below] = Layout::vertical([Constraint::Length(list), Constraint::Min(0)]).areas(area);
    draw_table(frame, above, &table, app.selected(), paint);
    let details: Vec<Line<'_>> = crate::show::breaches::details(breach, app.snapshot.judged_unix_seconds)
        .into_iter()
        .map(|(name, value)| {
            Line::from(vec![
                Span::styled(format!("{name:<24} "), style(Tone::Dim, paint)),
                Span::raw(value),
            ])
        })
        .collect();
    let block = Block::bordered().title(format!(" {} ", breach.kind));
    frame.render_widget(
        Paragraph::new(details).wrap(Wrap { trim: true }).block(block),
        below,
    );
}

const HELP: &str = "\
cores      CPU time per time: 0.50 is half a CPU
entitled   what was promised: the sum of CPU requests
wait       runnable, queued on a CPU, not running
stolen     waited while other tenants ran
taken      ran while other tenants waited
slowdown   (used + stolen) / used
own        waited for its own pod or tenant
throttled  held back by its own limit
unresolved who ran meanwhile is not known
covered    share of the window that was seen

1 2 3 4, tab  view      arrows, j k  move
s  next sort            /  filter by name
p  pause                esc  clear filter
q  quit                 any key closes this page";

fn draw_help(frame: &mut Frame<'_>, area: Rect) {
    let columns = 56.min(area.width);
    let lines = (HELP.lines().count() as u16 + 2).min(area.height);
    let page = area.centered(Constraint::Length(columns), Constraint::Length(lines));
    frame.render_widget(Clear, page);
    frame.render_widget(
        Paragraph::new(HELP).block(Block::bordered().title(" words and keys ")),
        page,
    );
}

fn style(tone: Tone, paint: Paint) -> Style {
    let plain = Style::new();
    match (tone, paint) {
        (Tone::Plain, _) => plain,
        (Tone::Strong, _) => plain.add_modifier(Modifier::BOLD),
        (Tone::Dim, _) => plain.add_modifier(Modifier::DIM),
        (Tone::Good, Paint::Ansi) => plain.fg(Color::Green),
        (Tone::Warn, Paint::Ansi) => plain.fg(Color::Yellow),
        (Tone::Bad, Paint::Ansi) => plain.fg(Color::Red).add_modifier(Modifier::BOLD),
        (Tone::Good | Tone::Warn, Paint::Never) => plain,
        (Tone::Bad, Paint::Never) => plain.add_modifier(Modifier::BOLD),
    }
}

#[cfg(test)]
mod tests {
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
        let mut app = App::new("http://aggregator:7441");
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
            let line: String = line.iter().map(|cell| cell.symbol()).collect();
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
        ] {
            let mut app = app(now);
            press(&mut app, key);
            sample::golden(&format!("top-{name}.txt"), &screen(&app, now, 110, 24));
        }
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
            screen.contains(
                "LOST http://aggregator:7441 since 2026-07-30T11:51:11Z (14 s): connection refused; next try in 4 s"
            ),
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
            .map(|cell| cell.symbol())
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
        for keys in ["1", "2", "3", "4", "?", "/x", "p"] {
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
        let small = screen(&app(now), now, 24, 6);
        assert!(
            small.contains("blue") && small.contains("STOLEN"),
            "what matters most stays: {small}"
        );
    }

    #[test]
    fn an_empty_answer_draws() {
        let now = Instant::now();
        for key in ["1", "2", "3", "4"] {
            let mut app = App::new("http://aggregator:7441");
            press(&mut app, key);
            let screen = screen(&app, now, 80, 20);
            assert!(screen.contains("no agent has reported"), "{screen}");
        }
    }
}

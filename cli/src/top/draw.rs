//! State → frame. Nothing here reads a clock, a terminal or the network.

mod head;
mod ledger;
mod table;

use std::time::Instant;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph, Wrap};

use super::app::{App, View};
use crate::output::{Paint, Tone};
use crate::table::{Cell, Row};
use crate::text::width;

/// Below this nothing useful can be laid out.
const MIN_COLUMNS: u16 = 24;
const MIN_LINES: u16 = 6;

pub(crate) fn draw(frame: &mut Frame<'_>, app: &App, now: Instant, paint: Paint) {
    let area = frame.area();
    if area.width < MIN_COLUMNS || area.height < MIN_LINES {
        let plea = format!("{MIN_COLUMNS}x{MIN_LINES} at least; q quits");
        frame.render_widget(Paragraph::new(plea).wrap(Wrap { trim: true }), area);
        return;
    }
    let head = head::head(app, now, paint, area);
    let keys = keys(app, area.width as usize);
    let [top, body, foot] = Layout::vertical([
        Constraint::Length(head.len() as u16),
        Constraint::Min(1),
        Constraint::Length(keys.len() as u16),
    ])
    .areas(area);
    frame.render_widget(Paragraph::new(head), top);
    match app.view {
        View::Tenants | View::Pods => table::draw(frame, body, &app.table(), app.selected(), paint),
        View::Ledger => ledger::draw(frame, body, app, paint),
        View::Breaches => draw_breaches(frame, body, app, paint),
        View::Flows => draw_flows(frame, body, app, paint),
    }
    frame.render_widget(Paragraph::new(keys), foot);
    if app.help {
        draw_help(frame, area);
    }
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
        "tab/1-5 view",
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
    table::draw(frame, above, &table, app.selected(), paint);
    let details: Vec<Line<'_>> = crate::show::breaches::details(breach, &app.snapshot)
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

/// The pairs, and what has no place among them below.
fn draw_flows(frame: &mut Frame<'_>, area: Rect, app: &App, paint: Paint) {
    let pairs = app.table();
    let mut rest = crate::show::traffic::rest(&app.snapshot, &app.filter);
    if rest.rows.is_empty() {
        table::draw(frame, area, &pairs, app.selected(), paint);
        return;
    }
    // The pairs matter more, and get two thirds where they need that much. Below: an empty line, headings, rows.
    let above = (pairs.rows.len() as u16 + 1).min(area.height / 3 * 2).max(2);
    let below = (rest.rows.len() as u16 + 2).min(area.height.saturating_sub(above));
    let hidden = rest.rows.len().saturating_sub(below.saturating_sub(2) as usize);
    if hidden > 0 {
        rest.rows.truncate(rest.rows.len().saturating_sub(hidden + 1));
        let more = Cell::toned(format!("and {} more: top --once", hidden + 1), Tone::Dim);
        rest.rows.push(Row {
            cells: if app.snapshot.has_several_clusters() {
                vec![Cell::default(), Cell::default(), more]
            } else {
                vec![Cell::default(), more]
            },
            note: None,
        });
    }
    let [above, _, below] = Layout::vertical([
        Constraint::Min(2),
        Constraint::Length(1),
        Constraint::Length(below.saturating_sub(1)),
    ])
    .areas(area);
    table::draw(frame, above, &pairs, app.selected(), paint);
    table::draw(frame, below, &rest, None, paint);
}

const HELP: &str = "\
cores      CPU time per time: 0.50 is half a CPU
entitled   what was promised: the sum of CPU requests
wait       runnable, queued on a CPU, not running
stolen     waited while other tenants ran
taken      ran while other tenants waited
slowdown   (used + self + stolen) / (used + self)
own        waited for its own pod or tenant
throttled  held back by its own limit
memory     the working set: what the kubelet goes by
stall      s per s reclaiming because the node ran low
rate       bytes per second, both ways
unresolved beyond what the kernel side keeps
unknown    ran meanwhile, and cannot be named
covered    share of the window that was seen

1 to 5, tab   view      arrows, j k  move
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
mod tests;

//! The ledger as a heat map: figures first, colour on top of them.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::style;
use super::table::visible;
use crate::output::{Paint, Tone};
use crate::show::ledger::is_stolen;
use crate::text::{cores_or_dot, cut_middle, width};
use crate::top::app::App;

/// A heat map's column holds a figure and as much of a name as it takes to tell tenants apart.
const HEAT_COLUMNS: std::ops::RangeInclusive<usize> = 7..=14;
/// Between two of them.
const GAP: usize = 2;

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, app: &App, paint: Paint) {
    let matrix = app.matrix();
    if matrix.waiters.is_empty() {
        frame.render_widget(Paragraph::new("nobody waited; esc clears a filter"), area);
        return;
    }
    let names = matrix
        .waiters
        .iter()
        .map(|waiter| width(&waiter.label()))
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
            .map(|(runner, wide)| right(&cut_middle(runner, *wide), *wide, style(Tone::Strong, paint))),
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
        let name = cut_middle(&waiter.label(), names);
        let blanks = " ".repeat(names - width(&name));
        let mut spans = vec![Span::styled(name + &blanks, Style::new().add_modifier(cursor))];
        for (runner, wide) in &columns {
            let value = matrix.cores(waiter, runner);
            spans.push(right(
                &cores_or_dot(value),
                *wide,
                heat(&waiter.name, runner, value, hottest, paint),
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

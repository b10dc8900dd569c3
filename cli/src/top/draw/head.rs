//! The lines on top: tabs, the cluster's state, and what is wrong with our sight of it.

use std::time::Instant;

use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};

use super::style;
use crate::output::{Paint, Tone};
use crate::show::header;
use crate::table::Cell;
use crate::text::{cut, duration, utc, width};
use crate::top::app::{App, View};

/// The name, five tabs, and by what the rows are sorted.
const ALL_TABS_COLUMNS: usize = 73;

/// Tabs, the cluster's state, and what is wrong with our sight of it. At most a third of the screen.
pub(super) fn head(app: &App, now: Instant, paint: Paint, area: Rect) -> Vec<Line<'static>> {
    let columns = area.width as usize;
    let mut lines = vec![tabs(app, columns, paint)];
    if let Some(lost) = &app.lost {
        let text = format!(
            "LOST since {} ({}), next try in {}: {}",
            utc(lost.since_unix_seconds),
            duration(now.saturating_duration_since(lost.since)),
            duration(lost.next_try.saturating_duration_since(now)),
            lost.why,
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

fn tabs(app: &App, columns: usize, paint: Paint) -> Line<'static> {
    let mut spans = vec![Span::styled("Partywall ", style(Tone::Strong, paint))];
    // Where not all of them fit, the one that is shown.
    let all = columns >= ALL_TABS_COLUMNS;
    for (index, view) in View::ALL
        .into_iter()
        .enumerate()
        .filter(|(_, view)| all || *view == app.view)
    {
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

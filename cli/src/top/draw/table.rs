//! A table on the screen: as many columns as fit, and the rows around the cursor.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::style;
use crate::output::{Paint, Tone};
use crate::table::Table;

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, table: &Table, selected: Option<usize>, paint: Paint) {
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
pub(super) fn visible(rows: usize, selected: Option<usize>, room: usize) -> std::ops::Range<usize> {
    let cursor = selected.unwrap_or(0);
    let first = (cursor + 1).saturating_sub(room.max(1));
    first..rows.min(first + room)
}

//! A table as data: printed as text by the commands, drawn by `top`.

use crate::output::{Paint, Tone};
use crate::text::{cut, width};

#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    pub columns: Vec<Column>,
    pub rows: Vec<Row>,
}

#[derive(Clone, Debug)]
pub(crate) struct Column {
    pub title: String,
    /// Written behind the title, as `kubectl top` does: `USED(cores)`. Empty where there is none.
    pub unit: &'static str,
    /// Figures to the right, names to the left.
    pub figures: bool,
    /// Where room is short, the highest rank goes first; rank 0 stays.
    pub rank: u8,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Row {
    pub cells: Vec<Cell>,
    /// A sentence below the row.
    pub note: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cell {
    pub text: String,
    pub tone: Tone,
}

impl Column {
    pub(crate) fn name(title: impl Into<String>, rank: u8) -> Self {
        Self {
            title: title.into(),
            unit: "",
            figures: false,
            rank,
        }
    }

    pub(crate) fn figure(title: impl Into<String>, unit: &'static str, rank: u8) -> Self {
        Self {
            title: title.into(),
            unit,
            figures: true,
            rank,
        }
    }

    fn heading(&self) -> String {
        if self.unit.is_empty() {
            self.title.clone()
        } else {
            format!("{}({})", self.title, self.unit)
        }
    }
}

impl Cell {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            tone: Tone::Plain,
        }
    }

    pub(crate) fn toned(text: impl Into<String>, tone: Tone) -> Self {
        Self {
            text: text.into(),
            tone,
        }
    }
}

/// Between two columns.
const GAP: usize = 2;

impl Table {
    /// With a column before the others; `cells`: one for each row.
    pub(crate) fn led_by(mut self, column: Column, cells: impl IntoIterator<Item = Cell>) -> Self {
        self.columns.insert(0, column);
        for (row, cell) in self.rows.iter_mut().zip(cells) {
            row.cells.insert(0, cell);
        }
        self
    }

    /// As wide as it needs to be, one line per row and one per note, no trailing blanks.
    pub(crate) fn to_text(&self, paint: Paint) -> String {
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|column| self.width_of(column, Column::heading))
            .collect();
        let mut text = String::new();
        let headings: Vec<Cell> = self
            .columns
            .iter()
            .map(|column| Cell::toned(column.heading(), Tone::Strong))
            .collect();
        self.line(&mut text, &headings, &widths, paint);
        for row in &self.rows {
            self.line(&mut text, &row.cells, &widths, paint);
            if let Some(note) = &row.note {
                text.push_str("  ");
                text.push_str(note);
                text.push('\n');
            }
        }
        text
    }

    fn line(&self, text: &mut String, cells: &[Cell], widths: &[usize], paint: Paint) {
        let last = cells.len().saturating_sub(1);
        for (index, ((cell, column), wide)) in cells.iter().zip(&self.columns).zip(widths).enumerate() {
            let blanks = " ".repeat(wide.saturating_sub(width(&cell.text)));
            let tinted = paint.tint(cell.tone, &cell.text);
            match (column.figures, index == last) {
                (true, _) => text.push_str(&format!("{blanks}{tinted}")),
                (false, true) => text.push_str(&tinted),
                (false, false) => text.push_str(&format!("{tinted}{blanks}")),
            }
            if index < last {
                text.push_str(&" ".repeat(GAP));
            }
        }
        text.push('\n');
    }

    /// The columns that fit into `room`, with their widths. Those of the highest rank are left out first; what is left
    /// and still too wide is cut, the widest name first.
    pub(crate) fn fit(&self, room: usize) -> Vec<(usize, usize)> {
        let mut kept: Vec<(usize, usize)> = (0..self.columns.len())
            .map(|column| (column, self.width_of(column, |it| it.title.clone())))
            .collect();
        let total = |kept: &[(usize, usize)]| -> usize {
            kept.iter().map(|(_, wide)| wide).sum::<usize>() + GAP * kept.len().saturating_sub(1)
        };
        while total(&kept) > room {
            let rank = |(column, _): &(usize, usize)| self.columns[*column].rank;
            let Some(worst) = kept.iter().map(rank).max().filter(|worst| *worst > 0) else {
                break;
            };
            let Some(position) = kept.iter().rposition(|column| rank(column) == worst) else {
                break;
            };
            kept.remove(position);
        }
        while total(&kept) > room {
            let Some((_, wide)) = kept
                .iter_mut()
                .max_by_key(|(_, wide)| *wide)
                .filter(|(_, wide)| *wide > 3)
            else {
                break;
            };
            *wide -= 1;
        }
        kept
    }

    fn width_of(&self, column: usize, heading: impl Fn(&Column) -> String) -> usize {
        let cells = self
            .rows
            .iter()
            .filter_map(|row| row.cells.get(column))
            .map(|cell| width(&cell.text));
        cells
            .max()
            .unwrap_or(0)
            .max(width(&heading(&self.columns[column])))
    }

    /// The text of one cell, cut and aligned to `wide`.
    pub(crate) fn aligned(&self, column: usize, text: &str, wide: usize) -> String {
        let text = cut(text, wide);
        let blanks = " ".repeat(wide.saturating_sub(width(&text)));
        if self.columns[column].figures {
            format!("{blanks}{text}")
        } else {
            format!("{text}{blanks}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        Table {
            columns: vec![
                Column::name("TENANT", 0),
                Column::figure("USED", "cores", 1),
                Column::name("NAMESPACES", 2),
            ],
            rows: vec![
                Row {
                    cells: vec![
                        Cell::new("blue"),
                        Cell::toned("0.21", Tone::Bad),
                        Cell::new("blue"),
                    ],
                    note: None,
                },
                Row {
                    cells: vec![Cell::new("größe-π"), Cell::new("12.00"), Cell::new("a,b")],
                    note: Some("why".to_owned()),
                },
            ],
        }
    }

    #[test]
    fn text_is_aligned_and_ends_without_blanks() {
        assert_eq!(
            table().to_text(Paint::Never),
            "TENANT   USED(cores)  NAMESPACES\n\
             blue            0.21  blue\n\
             größe-π        12.00  a,b\n  why\n"
        );
    }

    #[test]
    fn colour_does_not_move_columns() {
        let plain = table().to_text(Paint::Never);
        let mut painted = table().to_text(Paint::Ansi);
        for code in ["\x1b[1;31m", "\x1b[1m", "\x1b[0m"] {
            painted = painted.replace(code, "");
        }
        assert_eq!(painted, plain);
    }

    #[test]
    fn narrow_room_drops_by_rank_then_cuts() {
        let columns = |room| {
            table()
                .fit(room)
                .into_iter()
                .map(|(column, _)| column)
                .collect::<Vec<_>>()
        };
        assert_eq!(columns(80), [0, 1, 2]);
        assert_eq!(columns(20), [0, 1]);
        assert_eq!(columns(8), [0]);
        assert_eq!(table().fit(5), [(0, 5)]);
        assert_eq!(table().fit(0), [(0, 3)], "never below what an ellipsis needs");
    }
}

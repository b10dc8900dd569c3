//! All five views as text, for a pipe, a ticket or a terminal without an alternate screen.

use crate::model::Snapshot;
use crate::output::{Paint, Tone};
use crate::show::{breaches, header, ledger, pods, tenants, traffic};

/// Runners with a column of their own: what a line of text holds.
const LEDGER_COLUMNS: usize = 8;

pub(crate) fn text(snapshot: &Snapshot, paint: Paint) -> String {
    let listed = breaches::listed(snapshot, 0, "");
    let sections = [
        ("Tenants", tenants::table(snapshot, 0, ""), "no tenant is known"),
        ("Pods", pods::table(snapshot, 0, ""), "no pod is known"),
        (
            "Ledger: cores that the row waited while the column ran",
            ledger::Matrix::new(snapshot, 0, "").table(LEDGER_COLUMNS),
            "nobody waited",
        ),
        ("Breaches", breaches::table(snapshot, &listed, true), "no breach"),
        (
            "Flows: who reaches whom, and what the fence says of it",
            traffic::pairs(snapshot, 0, ""),
            "no traffic was seen",
        ),
        (
            "Flows that are not told by pair: an end cannot be named, or the agent folded them",
            traffic::rest(snapshot, ""),
            "none",
        ),
    ];
    let mut text = header::to_text(&header::lines(snapshot), paint);
    for (title, table, silence) in sections {
        text.push_str(&format!("\n{}\n", paint.tint(Tone::Strong, title)));
        if table.rows.is_empty() {
            text.push_str(silence);
            text.push('\n');
        } else {
            text.push_str(&table.to_text(paint));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    #[test]
    fn shows_all_five_views() {
        sample::golden("once.txt", &text(&sample::snapshot(), Paint::Never));
    }

    #[test]
    fn two_clusters_are_told_apart() {
        sample::golden(
            "once-two-clusters.txt",
            &text(&sample::two_clusters(), Paint::Never),
        );
    }

    #[test]
    fn an_empty_cluster_is_said_to_be_empty() {
        sample::golden("once-empty.txt", &text(&Snapshot::default(), Paint::Never));
    }

    #[test]
    fn colour_adds_nothing_but_colour() {
        let painted = text(&sample::snapshot(), Paint::Ansi);
        let mut plain = String::new();
        let mut rest = painted.as_str();
        while let Some((before, after)) = rest.split_once('\x1b') {
            plain.push_str(before);
            rest = after.split_once('m').expect("a whole sequence").1;
        }
        plain.push_str(rest);
        assert_eq!(plain, text(&sample::snapshot(), Paint::Never));
    }
}

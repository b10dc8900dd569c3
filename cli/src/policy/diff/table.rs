//! A comparison as a person reads it.

use super::compare::{Change, Comparison, Kind};
use crate::output::{Paint, Tone};
use crate::table::{Cell, Column, Row, Table};
use crate::text::{bytes, clean, count, utc};

/// Reasons and notes named.
const LISTED: usize = 5;

pub(super) fn text(comparison: &Comparison) -> String {
    let mut text = String::new();
    if !comparison.changes.is_empty() {
        let table = Table {
            columns: vec![
                Column::name("CHANGE", 0),
                Column::name("FROM", 0),
                Column::name("TENANT", 2),
                Column::name("TO", 0),
                Column::name("TENANT", 2),
                Column::name("PORT", 0),
                Column::name("BEFORE", 0),
                Column::name("AFTER", 0),
                Column::name("DELIVERED", 3),
                Column::figure("CONNECTIONS", "", 3),
                Column::figure("TRAFFIC", "", 3),
                Column::name("BY", 1),
            ],
            rows: comparison.changes.iter().map(row).collect(),
        };
        text = table.to_text(Paint::for_stdout());
        text.push('\n');
    }
    text.push_str(&sums(comparison));
    for (why, flows) in comparison.not_looked_at.iter().take(LISTED) {
        let why = clean(why);
        text.push_str(&format!(
            "not looked at: {}: {why}\n",
            count(*flows, "flow", "flows")
        ));
    }
    if let Some(more @ 1..) = comparison.not_looked_at.len().checked_sub(LISTED) {
        text.push_str(&format!(
            "not looked at, for {more} more reasons: --json lists them\n"
        ));
    }
    if comparison.undecided > 0 {
        text.push_str(&format!(
            "not looked at, but delivered, and with other policies after: {}; what they use may be cut\n",
            count(comparison.undecided, "flow", "flows")
        ));
    }
    for note in comparison.notes.iter().take(LISTED) {
        text.push_str(&format!("note: {}\n", clean(note)));
    }
    if let Some(more @ 1..) = comparison.notes.len().checked_sub(LISTED) {
        text.push_str(&format!("note: {more} more of these; --json lists them\n"));
    }
    if comparison.left_out > 0 {
        text.push_str(&format!(
            "the aggregator knew {} more flows, with fewer bytes: what they use may be cut\n",
            comparison.left_out
        ));
    }
    text
}

fn sums(comparison: &Comparison) -> String {
    if comparison.seen_until_unix_seconds <= 0.0 {
        return "no flow was seen: nothing can be said\n".to_owned();
    }
    let of = |kind| comparison.changes.iter().filter(|c| c.change == kind).count();
    let mut parts = vec![
        format!("{} newly denied", of(Kind::Denied)),
        format!("{} newly allowed", of(Kind::Allowed)),
    ];
    for (number, what) in [
        (of(Kind::Unknown) + comparison.unsure, "unknown"),
        (of(Kind::Known), "newly known"),
        (comparison.not_looked_at.values().sum(), "not looked at"),
    ] {
        if number > 0 {
            parts.push(format!("{number} {what}"));
        }
    }
    let unchanged = comparison.unchanged - comparison.unsure;
    format!(
        "flows until {}: {}, {unchanged} as before\n",
        utc(comparison.seen_until_unix_seconds),
        parts.join(", ")
    )
}

fn row(change: &Change) -> Row {
    let (word, tone) = match change.change {
        Kind::Denied => ("denied", Tone::Bad),
        Kind::Unknown => ("unknown", Tone::Warn),
        Kind::Allowed => ("allowed", Tone::Good),
        Kind::Known => ("known", Tone::Dim),
    };
    let port = match change.port {
        0 => change.protocol.clone(),
        port => format!("{port}/{}", change.protocol),
    };
    Row {
        cells: vec![
            Cell::toned(word, tone),
            Cell::new(change.from.as_str()),
            Cell::toned(change.from_tenant.as_str(), Tone::Dim),
            Cell::new(change.to.as_str()),
            Cell::toned(change.to_tenant.as_str(), Tone::Dim),
            Cell::new(port),
            Cell::new(change.before),
            Cell::new(change.after),
            Cell::new(if change.delivered { "yes" } else { "no" }),
            Cell::new(change.connections.to_string()),
            Cell::new(bytes(change.bytes)),
            Cell::toned(clean(&change.by), Tone::Dim),
        ],
        note: None,
    }
}

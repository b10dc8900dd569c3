//! Grafana's dashboards as code: made here, kept as JSON in deploy/grafana, judged by Grafana's own published types.

mod boards;
mod build;
mod schema;

use std::fs;

use anyhow::{Result, ensure};

use crate::{deploy::keep, paths};

/// Below the repository's top. The chart has a link to it.
const DIR: &str = "deploy/grafana/dashboards";

/// Installs and fetches all that [`run()`] needs.
pub(crate) fn prepare() -> Result<()> {
    schema::prepare().map(drop)
}

/// Writes the dashboards, or (`check`) fails unless they are what lies there; holds them against Grafana's types in both cases.
pub(crate) fn run(check: bool) -> Result<()> {
    let dir = paths::root().join(DIR);
    let mut made = Vec::new();
    for (name, board) in boards::all() {
        let text = format!("{:#}\n", board.json());
        keep(&dir.join(name), &text, check)?;
        made.push((name, text));
    }
    for entry in fs::read_dir(&dir)?.flatten() {
        let found = entry.file_name();
        ensure!(
            made.iter().any(|(name, _)| found == *name),
            "{} is none of the dashboards that are made",
            paths::shown(&entry.path())
        );
    }
    let judged = schema::judge(&made)?;
    println!(
        "dashboards: {} with {judged} panels, as Grafana's types have them",
        made.len()
    );
    Ok(())
}

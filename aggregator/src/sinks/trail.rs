//! What the aggregator says of its trail; only where it keeps one.

use super::out::Out;
use crate::trail::{Figures, hex};

/// What can be lost. From 0 on: what a series begins with is in no increase().
const LOST: [&str; 4] = ["breaches", "hours", "file", "rows"];

pub(super) fn write(out: &mut Out<'_>, figures: &Figures) {
    out.gauge(
        "aggregator_trail_durable",
        "1: what is judged is written. 0: the disk failed, what is judged waits for it; or the file was removed or replaced",
        u64::from(figures.durable),
    );
    out.gauge(
        "aggregator_trail_file_bytes",
        "Length of the file",
        figures.file_bytes,
    );
    out.gauge(
        "aggregator_trail_records",
        "Records of the chain that are kept",
        figures.records,
    );
    if let Some((sequence, hash)) = &figures.head {
        out.gauges(
            "aggregator_trail_head",
            "Position of the chain's last record; with its hash it shows later what was cut off or written anew",
            std::iter::once(([("hash", hex(hash).as_str())], *sequence)),
        );
    }
    out.counter("aggregator_trail_commits", "Commits", figures.commits);
    let failures = figures
        .failures
        .iter()
        .map(|(reason, n)| ([("reason", *reason)], *n));
    out.counters(
        "aggregator_trail_failures",
        "Commits that failed, by reason: full, io",
        failures,
    );
    out.gauge(
        "aggregator_trail_waiting",
        "Breaches that fired or were resolved and are not on the disk yet",
        figures.waiting,
    );
    out.counter(
        "aggregator_trail_pruned",
        "Records taken out by age or size, as the policy's `trail` says",
        figures.pruned,
    );
    let lost = LOST.map(|what| ([("what", what)], figures.lost.get(what).copied().unwrap_or(0)));
    out.counters(
        "aggregator_trail_lost",
        "What there was no room for while the disk failed (breaches, hours), and what could not be read at the start (file, rows)",
        lost.into_iter(),
    );
}

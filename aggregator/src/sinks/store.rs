//! What the aggregator says of the file in which totals survive it; only where there is one.

use super::out::Out;
use crate::store::Figures;

/// Buckets, sum and count of the commits' histogram.
pub(super) const COMMIT_SERIES: usize = 12;

pub(super) fn write(out: &mut Out<'_>, figures: &Figures) {
    out.gauge(
        "aggregator_store_durable",
        "1: what is acknowledged survives the process. 0: the disk failed, receipts are sent without it; or the file was removed or replaced",
        u64::from(figures.durable),
    );
    out.gauge(
        "aggregator_store_file_bytes",
        "Length of the file",
        figures.file_bytes,
    );
    out.counter(
        "aggregator_store_written_bytes",
        "Written into the file, before its own overhead",
        figures.written_bytes,
    );
    out.counter("aggregator_store_commits", "Commits", figures.commits);
    let failures = figures
        .failures
        .iter()
        .map(|(reason, n)| ([("reason", *reason)], *n));
    out.counters(
        "aggregator_store_failures",
        "Commits that failed, by reason: full, io",
        failures,
    );
    out.counter(
        "aggregator_store_saved",
        "Times that a node, or what is kept of the nodes that are gone, was saved whole",
        figures.saved,
    );
    out.gauge(
        "aggregator_store_journal_records",
        "Reports and what happened between them that a start would count again",
        figures.journal_records,
    );
    out.gauge(
        "aggregator_store_journal_bytes",
        "Their size",
        figures.journal_bytes,
    );
    out.gauge(
        "aggregator_store_oldest_seconds",
        "How long ago the first of them came that is not in what was saved",
        figures.oldest_seconds,
    );
    out.gauge(
        "aggregator_store_restored_nodes",
        "Nodes whose totals were there at the start",
        figures.restored_nodes,
    );
    out.gauge(
        "aggregator_store_replayed_records",
        "Reports and what happened between them that were counted again at the start",
        figures.replayed_records,
    );
    let unreadable = figures.unreadable.iter().map(|(part, n)| ([("part", *part)], *n));
    out.gauges(
        "aggregator_store_left_out",
        "Parts of what was there at the start, or when a disk that failed was tried again, that could not be taken over: the whole file, a node, a batch, a record, a report; or another cluster's",
        unreadable,
    );
}

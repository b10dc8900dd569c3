//! What became of what was pushed, for each target.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::outbox::Lost;
use crate::sinks::out::Out;

/// Of one target.
#[derive(Debug)]
pub struct Figures {
    /// "alertmanager" or "webhook".
    pub sink: &'static str,
    /// Host and port.
    pub target: String,
    counts: Mutex<Counts>,
}

#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Alerts taken, repeated ones too.
    pub taken: u64,
    /// By what became of them.
    pub requests: BTreeMap<&'static str, u64>,
    pub(super) lost: Lost,
    pub waiting: usize,
    pub firing: usize,
    /// Whether the last request went well; `None`: there was none yet, or none that still says something.
    pub up: Option<bool>,
}

impl Figures {
    pub fn new(sink: &'static str, target: String) -> Self {
        Self {
            sink,
            target,
            counts: Mutex::default(),
        }
    }

    pub fn update(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub fn counts(&self) -> Counts {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// One row for each target.
pub(in crate::sinks) fn write(out: &mut Out<'_>, targets: &[std::sync::Arc<Figures>]) {
    let all: Vec<_> = targets.iter().map(|target| (target, target.counts())).collect();
    let of = |figures: &'_ Figures| (figures.sink, figures.target.clone());
    let of: Vec<_> = all
        .iter()
        .map(|(figures, counts)| (of(figures), counts))
        .collect();
    let gauge = |value: fn(&Counts) -> Option<u64>| {
        of.iter().filter_map(move |((sink, target), c)| {
            Some(([("sink", *sink), ("target", target.as_str())], value(c)?))
        })
    };
    out.gauges(
        "aggregator_push_up",
        "1: the last request to the target went well. 0: it did not. Absent before the first, and when a webhook has failed and nothing waits for it any more",
        gauge(|c| c.up.map(u64::from)),
    );
    out.gauges(
        "aggregator_push_waiting",
        "Changes of breaches that the target was not told of yet",
        gauge(|c| Some(c.waiting as u64)),
    );
    out.gauges(
        "aggregator_push_firing",
        "Firing breaches that the target is told of",
        gauge(|c| Some(c.firing as u64)),
    );
    out.counters(
        "aggregator_push_alerts",
        "Alerts that the target took, repeated ones too",
        gauge(|c| Some(c.taken)),
    );
    out.counters(
        "aggregator_push_requests",
        "Requests to the target, by what became of them: `accepted`, `failed` (tried again), `refused` (not)",
        of.iter().flat_map(|((sink, target), c)| {
            ["accepted", "failed", "refused"].map(|outcome| {
                let n = c.requests.get(outcome).copied().unwrap_or(0);
                (
                    [("sink", *sink), ("target", target.as_str()), ("outcome", outcome)],
                    n,
                )
            })
        }),
    );
    out.counters(
        "aggregator_push_lost",
        "Changes of breaches that the target was never told of, by reason: `full` (too many waited), `expired` (too long), `refused`, `missed` (too many at once; what fires of them is told all the same)",
        of.iter().flat_map(|((sink, target), c)| {
            [
                ("full", c.lost.full),
                ("expired", c.lost.expired),
                ("refused", c.lost.refused),
                ("missed", c.lost.missed),
            ]
            .map(|(reason, n)| ([("sink", *sink), ("target", target.as_str()), ("reason", reason)], n))
        }),
    );
}

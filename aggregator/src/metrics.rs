//! What the aggregator counts about itself. Written out by [`crate::sinks::prometheus`] on each scrape.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use partywall_aggregator_core::breach::{Breach, BreachKind, BreachState};
use partywall_aggregator_core::report::Outcome;
use prometheus_client::metrics::histogram::Histogram;

/// Since the aggregator's start.
#[derive(Debug)]
pub struct Metrics {
    counts: Mutex<Counts>,
    /// From the agent's reading to the end of its counting, by the two machines' wall clocks.
    pub lag_seconds: Histogram,
    pub judge_seconds: Histogram,
}

#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Streams open when the last one was opened.
    pub streams_opened: u64,
    pub streams_most: usize,
    pub accepted: u64,
    pub duplicates: u64,
    /// By reason; the reasons are the core's and [`crate::wire`]'s own, so their number is bounded.
    pub refused: BTreeMap<&'static str, u64>,
    /// CPU samples of accepted reports.
    pub samples: u64,
    pub judgements: u64,
    pub fired: BTreeMap<BreachKind, u64>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            counts: Mutex::default(),
            // Up to a minute: what comes later waited in an agent's queue.
            lag_seconds: Histogram::new([0.005, 0.02, 0.1, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0]),
            // A step is a second.
            judge_seconds: Histogram::new([0.000_1, 0.000_5, 0.002, 0.01, 0.05, 0.2, 1.0]),
        }
    }
}

impl Metrics {
    pub fn counts(&self) -> Counts {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn streams(&self, open: usize) {
        self.update(|c| {
            c.streams_opened += 1;
            c.streams_most = c.streams_most.max(open);
        });
    }

    pub fn report(&self, outcome: &Outcome, samples: usize, lag_ns: u64) {
        self.lag_seconds
            .observe(Duration::from_nanos(lag_ns).as_secs_f64());
        self.update(|c| match outcome {
            Outcome::Accepted => {
                c.accepted += 1;
                c.samples += samples as u64;
            }
            Outcome::Duplicate => c.duplicates += 1,
            Outcome::Refused(refusal) => *c.refused.entry(refusal.reason).or_default() += 1,
        });
    }

    pub fn judged(&self, took: Duration, changes: &[Breach]) {
        self.judge_seconds.observe(took.as_secs_f64());
        self.update(|c| {
            c.judgements += 1;
            for breach in changes.iter().filter(|b| b.state == BreachState::Firing) {
                *c.fired.entry(breach.key.kind).or_default() += 1;
            }
        });
    }

    fn update(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

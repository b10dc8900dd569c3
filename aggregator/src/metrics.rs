//! What the aggregator counts about itself. Written out by [`crate::sinks::prometheus`] on each scrape.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use partywall_aggregator_core::breach::BreachKind;
use partywall_aggregator_core::report::Outcome;
use prometheus_client::metrics::histogram::Histogram;
use tonic::Status;

use crate::link::Refusal;

/// Since the aggregator's start.
#[derive(Debug)]
pub struct Metrics {
    counts: Mutex<Counts>,
    /// From the agent's reading to its counting, of whatever came of the report: [`crate::clock::Lag`].
    pub lag_seconds: Histogram,
    pub judge_seconds: Histogram,
}

/// Reasons for which a report is refused as a whole: the core's and [`crate::wire`]'s own.
pub const REPORT_REFUSALS: [&str; 13] = [
    "bad_name",
    "counter_backwards",
    "ended_run",
    "entity_reused",
    "flow_reused",
    "implausible",
    "listed_twice",
    "malformed",
    "node_cap",
    "time_backwards",
    "window_full",
    "wrong_cluster",
    "wrong_node",
];

#[derive(Clone, Debug, Default)]
pub struct Counts {
    pub streams_opened: u64,
    pub accepted: u64,
    pub duplicates: u64,
    /// By reason: [`REPORT_REFUSALS`].
    pub refused: BTreeMap<&'static str, u64>,
    /// CPU samples of accepted reports.
    pub samples: u64,
    pub judgements: u64,
    pub fired: BTreeMap<BreachKind, u64>,
    /// Connections open now.
    pub connections: usize,
    pub connections_refused: BTreeMap<Refusal, u64>,
    pub accept_failures: u64,
    pub streams_refused: BTreeMap<StreamRefusal, u64>,
    /// By what came of them; the words are `auth`'s own.
    pub token_reviews: BTreeMap<&'static str, u64>,
    /// Reports after which the next one of the same node was held up, and for how long in all.
    pub delays: u64,
    pub delayed: Duration,
}

/// Why a stream of reports or a question was not taken, or was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StreamRefusal {
    TooMany,
    TooManyOfNode,
    Compressed,
    /// A message that is larger than may be.
    Oversized,
    /// A message that is none.
    Malformed,
    WrongCluster,
    NoToken,
    /// The API does not know it, or it expired.
    BadToken,
    WrongAudience,
    WrongAccount,
    /// The token says of no pod and no node that it is theirs.
    Unbound,
    /// The token's pod is not known yet.
    PodUnknown,
    TooManyBadTokens,
    ReviewsBusy,
    ApiAway,
    /// Whose pods these are is not known yet.
    NotSynced,
    NoApi,
    QueriesBusy,
    TooManyWatches,
}

impl StreamRefusal {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooMany => "too_many",
            Self::TooManyOfNode => "too_many_of_node",
            Self::Compressed => "compressed",
            Self::Oversized => "oversized",
            Self::Malformed => "malformed",
            Self::WrongCluster => "wrong_cluster",
            Self::NoToken => "no_token",
            Self::BadToken => "bad_token",
            Self::WrongAudience => "wrong_audience",
            Self::WrongAccount => "wrong_account",
            Self::Unbound => "unbound_token",
            Self::PodUnknown => "pod_unknown",
            Self::TooManyBadTokens => "too_many_bad_tokens",
            Self::ReviewsBusy => "reviews_busy",
            Self::ApiAway => "api_away",
            Self::NotSynced => "not_synced",
            Self::NoApi => "no_api",
            Self::QueriesBusy => "queries_busy",
            Self::TooManyWatches => "too_many_watches",
        }
    }

    /// What the peer of a refused token is told.
    pub fn status(self, problem: &str) -> Status {
        match self {
            Self::BadToken => Status::unauthenticated(problem),
            _ => Status::permission_denied(problem),
        }
    }

    /// Of a stream of messages that ended with `status`; `None`: its connection did.
    pub fn of_message(status: &Status) -> Option<Self> {
        // What the transport says has a source, what the decoder says has none.
        match (status.code(), std::error::Error::source(status)) {
            (tonic::Code::OutOfRange, None) => Some(Self::Oversized),
            (tonic::Code::Internal, None) => Some(Self::Malformed),
            _ => None,
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            // From 0 on: what a series begins with is in no increase().
            counts: Mutex::new(Counts {
                refused: REPORT_REFUSALS.map(|reason| (reason, 0)).into(),
                ..Counts::default()
            }),
            // Up to a minute: what comes later waited in an agent's queue.
            lag_seconds: Histogram::new([0.005, 0.02, 0.1, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0]),
            // A step is half a second where the policy says nothing else.
            judge_seconds: Histogram::new([0.000_1, 0.000_5, 0.002, 0.01, 0.05, 0.2, 1.0]),
        }
    }
}

impl Metrics {
    pub fn counts(&self) -> Counts {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn stream(&self) {
        self.update(|c| c.streams_opened += 1);
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

    pub fn connections(&self, open: usize) {
        self.update(|c| c.connections = open);
    }

    /// Returns how many were refused so.
    pub fn refuse_connection(&self, refusal: Refusal) -> u64 {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = counts.connections_refused.entry(refusal).or_default();
        *refused += 1;
        *refused
    }

    pub fn accept_failed(&self) {
        self.update(|c| c.accept_failures += 1);
    }

    /// Returns how many were refused so.
    pub fn refuse_stream(&self, refusal: StreamRefusal) -> u64 {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = counts.streams_refused.entry(refusal).or_default();
        *refused += 1;
        *refused
    }

    pub fn reviewed(&self, outcome: &'static str) {
        self.update(|c| *c.token_reviews.entry(outcome).or_default() += 1);
    }

    pub fn delay(&self, by: Duration) {
        self.update(|c| {
            c.delays += 1;
            c.delayed += by;
        });
    }

    pub fn judged(&self, took: Duration, fired: &[BreachKind]) {
        self.judge_seconds.observe(took.as_secs_f64());
        self.update(|c| {
            c.judgements += 1;
            for kind in fired {
                *c.fired.entry(*kind).or_default() += 1;
            }
        });
    }

    fn update(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

//! Reports on their way to the aggregator: kept until their receipt, sent again after a reconnect.
//!
//! One stream at a time. What is in flight is bounded by `WINDOW` and what is sent of the past by `pace`, so that an aggregator that comes back
//! is not met by everything at once from every node; what waits is bounded by bytes, in memory and in the spool.

mod merge;
mod outbox;
mod pace;
mod queue;
mod spool;
#[cfg(test)]
mod spool_tests;
mod spooler;

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use partywall_proto::v1::ingest_service_client::IngestServiceClient;
use partywall_proto::v1::{Loss, Outcome, Receipt, Report};
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Request, Streaming};

use crate::clock::boot_ns;
use crate::link::{Link, LinkConfig, LinkError, Validity, innermost};
use outbox::Outbox;
use pace::Pace;
pub use spooler::{SpoolConfig, SpoolStats};

/// Most reports sent and not yet answered.
const WINDOW: usize = 8;
/// A receipt takes milliseconds. After this long something between here and there is stuck, and a new stream is better.
const RECEIPT_TIMEOUT: Duration = Duration::from_secs(15);
/// First and longest wait before another try. Doubled each time, and half of it random, so that nodes spread out.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));
/// A receipt is some twenty bytes and a reason.
const RECEIPT_MAX_BYTES: usize = 64 * 1024;
/// What is left in memory at the end must be on disk in so long.
const SPOOL_DEADLINE: Duration = Duration::from_secs(10);
/// The same complaint is logged at most so often.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
pub struct UplinkConfig {
    pub link: LinkConfig,
    /// Bound of the unacknowledged reports, encoded.
    pub queue_bytes: usize,
    /// Where they go when memory is not enough.
    pub spool: Option<SpoolConfig>,
}

/// What became of the reports, since the start where it counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UplinkStats {
    /// A stream is open.
    pub connected: bool,
    /// In memory and not yet acknowledged, in flight or waiting.
    pub queued_reports: usize,
    pub queued_bytes: usize,
    pub in_flight_reports: usize,
    /// Every sending, the repeated ones too.
    pub sent: u64,
    /// Of their encoded messages.
    pub sent_bytes: u64,
    pub acknowledged: u64,
    /// Acknowledged as already counted: the first receipt was lost.
    pub duplicate: u64,
    /// By the field that the aggregator found wrong; at most 17 of them.
    pub refused_by_reason: BTreeMap<String, u64>,
    /// Given up or merged into the next one, for want of room.
    pub dropped_full: u64,
    /// Bigger than a message may be.
    pub dropped_oversized: u64,
    /// Streams opened after the first.
    pub reconnects: u64,
    /// Since the last receipt; `None` before the first.
    pub last_receipt_age: Option<Duration>,
    /// Until when the agent's own certificate is good, in seconds since 1970; `None`: not known, or without TLS.
    pub certificate_to_unix_s: Option<i64>,
    /// Connections and streams that came to nothing or to an end, by reason; some ten.
    pub failures: BTreeMap<&'static str, u64>,
    /// `None`: without a spool.
    pub spool: Option<SpoolStats>,
}

impl UplinkStats {
    pub fn refused(&self) -> u64 {
        self.refused_by_reason.values().sum()
    }

    /// Reports lost on the way, as a report's coverage tells them.
    pub fn losses(&self) -> Vec<Loss> {
        let loss = |stage: &str, reason: &str, unit: &str, count| Loss {
            stage: stage.to_owned(),
            reason: reason.to_owned(),
            unit: unit.to_owned(),
            count,
        };
        let mut losses = vec![
            loss("queue", "full", "reports", self.dropped_full),
            loss("queue", "oversized", "reports", self.dropped_oversized),
            loss("uplink", "refused", "reports", self.refused()),
        ];
        if let Some(spool) = &self.spool {
            losses.extend([
                loss("queue", "spool_full", "reports", spool.dropped_full),
                loss("queue", "spool_failed", "reports", spool.dropped_failed),
                loss("queue", "spool_unreadable", "reports", spool.unreadable),
                loss("queue", "spool_foreign", "reports", spool.foreign),
                loss("queue", "spool_set_aside", "files", spool.set_aside),
            ]);
        }
        losses
    }
}

/// The way to the aggregator, and the task that sends.
pub struct Uplink {
    shared: Arc<Shared>,
    spooled: bool,
    /// Nobody can push any more when this is dropped, so that the task has no reason to go on.
    _stop: DropGuard,
}

struct Shared {
    state: Mutex<State>,
    pushed: Notify,
    /// Told to all waiters whenever a receipt came.
    answered: Notify,
    /// Drain has begun: don't sit out a long back-off.
    hurry: CancellationToken,
    stop: CancellationToken,
    stopped: CancellationToken,
    /// The spool has something to do before its time.
    spool_wanted: Notify,
    spool_closed: CancellationToken,
}

struct State {
    outbox: Outbox,
    spool: SpoolStats,
    connected: bool,
    streams: u64,
    last_receipt: Option<Instant>,
    /// Of the newest report: by its clock, older ones have waited.
    boot_id: String,
    certificate: Option<Validity>,
    failures: BTreeMap<&'static str, u64>,
}

impl State {
    /// The next report to send, told how long it has waited.
    fn next(&mut self) -> Option<Report> {
        let mut report = self.outbox.next(WINDOW)?;
        if report.boot_id == self.boot_id {
            report.waited_ns = Some(boot_ns().saturating_sub(report.captured_boot_ns));
        }
        Some(report)
    }
}

impl Uplink {
    /// Starts the task that sends; it ends with [`Uplink::drain`], or when this is dropped. Must be called within a tokio
    /// runtime.
    ///
    /// # Errors
    ///
    /// The endpoint is no URL.
    pub fn new(config: UplinkConfig) -> Result<Self, LinkError> {
        let link = Link::new(config.link)?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                outbox: Outbox::new(config.queue_bytes, config.spool.is_some()),
                spool: SpoolStats::default(),
                connected: false,
                streams: 0,
                last_receipt: None,
                boot_id: String::new(),
                certificate: None,
                failures: BTreeMap::new(),
            }),
            pushed: Notify::new(),
            answered: Notify::new(),
            hurry: CancellationToken::new(),
            stop: CancellationToken::new(),
            stopped: CancellationToken::new(),
            spool_wanted: Notify::new(),
            spool_closed: CancellationToken::new(),
        });
        tokio::spawn(run(Arc::clone(&shared), link));
        let spooled = config.spool.is_some();
        match config.spool {
            Some(spool) => drop(tokio::spawn(spooler::run(Arc::clone(&shared), spool))),
            None => shared.spool_closed.cancel(),
        }
        let stop = shared.stop.clone().drop_guard();
        Ok(Self {
            shared,
            spooled,
            _stop: stop,
        })
    }

    /// Takes a report, whose `entities` are those that are new in its interval. Never blocks; makes room by giving up the
    /// oldest. Reports must come in order of their sequence.
    pub fn push(&self, report: Report) {
        let wanted = {
            let mut state = self.shared.state();
            if state.boot_id != report.boot_id {
                state.boot_id.clone_from(&report.boot_id);
            }
            state.outbox.push(report, Instant::now())
        };
        if wanted {
            self.shared.spool_wanted.notify_one();
        }
        self.shared.pushed.notify_one();
    }

    pub fn stats(&self) -> UplinkStats {
        let state = self.shared.state();
        let counts = state.outbox.counts();
        let (queued_reports, queued_bytes) = state.outbox.in_memory();
        let held = state.outbox.held().unwrap_or_default();
        UplinkStats {
            connected: state.connected,
            queued_reports,
            queued_bytes,
            in_flight_reports: state.outbox.in_flight(),
            sent: counts.sent,
            sent_bytes: counts.sent_bytes,
            acknowledged: counts.acknowledged,
            duplicate: counts.duplicate,
            refused_by_reason: counts.refused_by_reason,
            dropped_full: counts.dropped_full,
            dropped_oversized: counts.dropped_oversized,
            reconnects: state.streams.saturating_sub(1),
            last_receipt_age: state.last_receipt.map(|at| at.elapsed()),
            certificate_to_unix_s: state.certificate.map(|validity| validity.to),
            failures: state.failures.clone(),
            spool: self.spooled.then(|| SpoolStats {
                reports: held.reports,
                bytes: held.bytes,
                ..state.spool.clone()
            }),
        }
    }

    /// Waits until every report has its receipt, at most for `deadline`, then stops sending and has the rest written to the spool. Returns how
    /// many reports are left that are neither acknowledged nor there.
    pub async fn drain(&self, deadline: Duration) -> usize {
        self.shared.hurry.cancel();
        // Past the deadline or not, what is left is counted below.
        let _ = tokio::time::timeout(deadline, self.shared.empty()).await;
        self.shared.stop.cancel();
        self.shared.stopped.cancelled().await;
        // A disk that hangs must not keep the agent from ending.
        let _ = tokio::time::timeout(SPOOL_DEADLINE, self.shared.spool_closed.cancelled()).await;
        self.shared.state().outbox.in_memory().0
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere while it was held leaves the queue whole: every change is made in one call.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn empty(&self) {
        loop {
            let mut answered = pin!(self.answered.notified());
            answered.as_mut().enable();
            if self.state().outbox.is_empty() {
                return;
            }
            answered.await;
        }
    }
}

async fn run(shared: Arc<Shared>, link: Link) {
    let _stopped = shared.stopped.clone().drop_guard();
    let mut backoff = Backoff::default();
    let mut complaint = Complaint::default();
    while let Some(end) = shared
        .stop
        .run_until_cancelled(stream(&shared, &link, &mut backoff))
        .await
    {
        let was_connected = std::mem::take(&mut shared.state().connected);
        let hurry = shared.hurry.is_cancelled();
        // Aggregators end streams after a while, to look at certificates and tokens again.
        if std::mem::take(&mut backoff.progressed) && matches!(end, End::Closed) {
            tracing::debug!("the aggregator ended the stream, the next one begins");
            continue;
        }
        *shared.state().failures.entry(end.reason()).or_default() += 1;
        let delay = backoff.next(hurry);
        if was_connected || complaint.due() {
            let waiting = shared.state().outbox.waiting();
            tracing::warn!(reason = %end, retry_in_ms = delay.as_millis(), waiting_reports = waiting, "no aggregator");
        }
        tokio::select! {
            () = shared.stop.cancelled() => break,
            () = shared.hurry.cancelled(), if !hurry => {}
            () = tokio::time::sleep(delay) => {}
        }
    }
    shared.state().connected = false;
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("{}: {}{}", .status.code(), told(.status), .hint.as_deref().unwrap_or_default())]
    Status {
        status: Box<tonic::Status>,
        hint: Option<String>,
    },
    #[error("the aggregator closed the stream")]
    Closed,
    #[error("no receipt for {} s", RECEIPT_TIMEOUT.as_secs())]
    NoReceipt,
}

impl From<tonic::Status> for End {
    fn from(status: tonic::Status) -> Self {
        Self::Status {
            status: Box::new(status),
            hint: None,
        }
    }
}

impl End {
    /// For the metric.
    fn reason(&self) -> &'static str {
        match self {
            Self::Link(error) => error.reason(),
            Self::Status { status, .. } => match status.code() {
                tonic::Code::Unauthenticated => "unauthenticated",
                tonic::Code::PermissionDenied => "permission_denied",
                tonic::Code::ResourceExhausted => "resource_exhausted",
                _ if std::error::Error::source(status).is_some() => "connection_lost",
                _ => "status",
            },
            Self::Closed => "closed",
            Self::NoReceipt => "no_receipt",
        }
    }
}

/// What the aggregator said, or what became of the connection.
fn told(status: &tonic::Status) -> String {
    match std::error::Error::source(status) {
        Some(_) => innermost(status),
        None => status.message().to_owned(),
    }
}

/// One stream from its opening to its end.
async fn stream(shared: &Shared, link: &Link, backoff: &mut Backoff) -> End {
    backoff.progressed = false;
    match try_stream(shared, link, backoff).await {
        Ok(never) => match never {},
        // With TLS 1.3 a client that is refused hears of it only after the handshake.
        Err(End::Status { status, .. }) => {
            let hint = link.hint(shared.state().certificate);
            End::Status { status, hint }
        }
        Err(end) => end,
    }
}

async fn try_stream(
    shared: &Shared,
    link: &Link,
    backoff: &mut Backoff,
) -> Result<std::convert::Infallible, End> {
    let opened = link
        .open(|validity| shared.state().certificate = validity)
        .await?;
    let mut client = IngestServiceClient::new(opened.channel).max_decoding_message_size(RECEIPT_MAX_BYTES);
    // Room for the window: what is in it waits for the socket, and what is not in it waits in the queue.
    let (requests, body) = mpsc::channel(WINDOW);
    let mut request = Request::new(ReceiverStream::new(body));
    *request.metadata_mut() = opened.metadata;
    let mut opening = pin!(client.ingest(request));
    let mut receipts: Option<Streaming<Receipt>> = None;
    let mut complaint = Complaint::default();
    shared.state().outbox.begin_stream();
    let mut pace = Pace::default();
    let mut last_progress = tokio::time::Instant::now();
    loop {
        if shared.state().outbox.in_flight() == 0 {
            last_progress = tokio::time::Instant::now();
        }
        let paused = send(shared, &requests, &mut pace);
        let waits = shared.state().outbox.in_flight() > 0;
        tokio::select! {
            // A server may answer the call only when the first report has come, so both go on at once.
            opened = &mut opening, if receipts.is_none() => {
                receipts = Some(opened?.into_inner());
                let mut state = shared.state();
                state.connected = true;
                state.streams += 1;
                tracing::info!(endpoint = %link.uri(), waiting_reports = state.outbox.waiting(), "connected to the aggregator");
            }
            receipt = next_receipt(&mut receipts) => {
                let receipt = receipt?.ok_or(End::Closed)?;
                last_progress = tokio::time::Instant::now();
                backoff.reset();
                take(shared, &receipt, &mut complaint);
            }
            () = shared.pushed.notified() => {}
            () = tokio::time::sleep_until(paused.unwrap_or(last_progress)), if paused.is_some() => {}
            () = shared.hurry.cancelled(), if paused.is_some() => {}
            () = tokio::time::sleep_until(last_progress + RECEIPT_TIMEOUT), if waits => return Err(End::NoReceipt),
        }
    }
}

/// Hands over as many reports as the window and the pace allow. Returns when the pace allows another, where it does not now.
fn send(shared: &Shared, requests: &mpsc::Sender<Report>, pace: &mut Pace) -> Option<tokio::time::Instant> {
    while let Ok(room) = requests.try_reserve() {
        let now = tokio::time::Instant::now();
        // One agent that is about to stop is no crowd.
        let paused = pace.wait_until(now).filter(|_| !shared.hurry.is_cancelled());
        if paused.is_some() {
            return paused;
        }
        let report = shared.state().next()?;
        pace.spend(report.interval_ns, now);
        room.send(report);
    }
    None
}

/// Pends while the stream is not open.
async fn next_receipt(receipts: &mut Option<Streaming<Receipt>>) -> Result<Option<Receipt>, tonic::Status> {
    match receipts {
        Some(receipts) => receipts.message().await,
        None => std::future::pending().await,
    }
}

fn take(shared: &Shared, receipt: &Receipt, complaint: &mut Complaint) {
    let mut state = shared.state();
    state.last_receipt = Some(Instant::now());
    let known = state.outbox.receipt(receipt, Instant::now());
    drop(state);
    shared.answered.notify_waiters();
    shared.spool_wanted.notify_one();
    match receipt.outcome() {
        Outcome::Accepted | Outcome::Duplicate => {}
        Outcome::Refused | Outcome::Unspecified => {
            if complaint.due() {
                let reason = receipt.reason.escape_debug().to_string();
                tracing::warn!(
                    sequence = receipt.sequence,
                    known,
                    reason,
                    "the aggregator refused a report"
                );
            }
        }
    }
}

#[derive(Default)]
struct Backoff {
    tries: u32,
    /// A receipt came on this stream.
    progressed: bool,
}

impl Backoff {
    fn reset(&mut self) {
        self.progressed = true;
        self.tries = 0;
    }

    /// `hurry`: the agent is about to stop, so waiting longer than the first time is giving up.
    fn next(&mut self, hurry: bool) -> Duration {
        let longest = if hurry { BACKOFF.0 } else { BACKOFF.1 };
        let delay = BACKOFF.0.saturating_mul(1 << self.tries.min(16)).min(longest);
        self.tries = self.tries.saturating_add(1);
        // Seeded anew each time, which is all the randomness that spreading out needs.
        let random = RandomState::new().hash_one(self.tries) % 1_000;
        delay / 2 + delay.mul_f64(f64::from(u32::try_from(random).unwrap_or(0)) / 2_000.0)
    }
}

/// Says whether it is time to log the same thing again.
#[derive(Default)]
struct Complaint {
    last: Option<Instant>,
}

impl Complaint {
    fn due(&mut self) -> bool {
        let due = self.last.is_none_or(|last| last.elapsed() >= COMPLAIN_EVERY);
        if due {
            self.last = Some(Instant::now());
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_off_grows_to_its_bound_and_starts_again_after_a_receipt() {
        let mut backoff = Backoff::default();
        let mut expected = BACKOFF.0;
        for _ in 0..40 {
            let delay = backoff.next(false);
            assert!(
                delay >= expected / 2 && delay <= expected,
                "{delay:?} of {expected:?}"
            );
            expected = (expected * 2).min(BACKOFF.1);
        }
        assert_eq!(expected, BACKOFF.1);
        assert!(backoff.next(true) <= BACKOFF.0);
        backoff.reset();
        assert!(backoff.next(false) <= BACKOFF.0);
    }

    #[test]
    fn back_off_is_spread() {
        let delays: std::collections::BTreeSet<Duration> =
            (0..50).map(|_| Backoff::default().next(false)).collect();
        assert!(delays.len() > 10, "{delays:?}");
    }

    #[tokio::test]
    async fn a_url_that_is_none_is_named() {
        let config = UplinkConfig {
            link: LinkConfig::plaintext("http://a b"),
            queue_bytes: 65_536,
            spool: None,
        };
        let error = Uplink::new(config).err().expect("no URL");
        assert!(error.to_string().contains("http://a b"), "{error}");
    }
}

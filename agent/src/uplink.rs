//! Reports on their way to the aggregator: kept until their receipt, sent again after a reconnect.
//!
//! One stream at a time. What is in flight is bounded by `WINDOW`, so that an aggregator that comes back is not met by
//! everything at once from every node; what waits is bounded by bytes.

mod merge;
mod queue;

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
use tonic::Streaming;
use tonic::transport::Endpoint;

use queue::Queue;

/// Most reports sent and not yet answered.
const WINDOW: usize = 8;
/// A receipt takes milliseconds. After this long something between here and there is stuck, and a new stream is better.
const RECEIPT_TIMEOUT: Duration = Duration::from_secs(15);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// An idle stream's peer is asked for a sign of life so often. tonic's servers allow it by default.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// First and longest wait before another try. Doubled each time, and half of it random, so that nodes spread out.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));
/// A receipt is some twenty bytes and a reason.
const RECEIPT_MAX_BYTES: usize = 64 * 1024;
/// The same complaint is logged at most so often.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
pub struct UplinkConfig {
    /// `http://host:port` of the aggregator.
    pub endpoint: String,
    /// Bound of the unacknowledged reports, encoded.
    pub queue_bytes: usize,
}

#[derive(Debug, thiserror::Error)]
#[error("aggregator {endpoint:?}: {source}")]
pub struct UplinkError {
    endpoint: String,
    source: tonic::transport::Error,
}

/// What became of the reports, since the start where it counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UplinkStats {
    /// A stream is open.
    pub connected: bool,
    /// Not yet acknowledged, in flight or waiting.
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
}

impl UplinkStats {
    pub fn refused(&self) -> u64 {
        self.refused_by_reason.values().sum()
    }

    /// Reports lost on the way, as a report's coverage tells them.
    pub fn losses(&self) -> Vec<Loss> {
        let loss = |stage: &str, reason: &str, count| Loss {
            stage: stage.to_owned(),
            reason: reason.to_owned(),
            unit: "reports".to_owned(),
            count,
        };
        vec![
            loss("queue", "full", self.dropped_full),
            loss("queue", "oversized", self.dropped_oversized),
            loss("uplink", "refused", self.refused()),
        ]
    }
}

/// The way to the aggregator, and the task that sends.
pub struct Uplink {
    shared: Arc<Shared>,
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
}

struct State {
    queue: Queue,
    connected: bool,
    streams: u64,
    last_receipt: Option<Instant>,
}

impl Uplink {
    /// Starts the task that sends; it ends with [`Uplink::drain`], or when this is dropped. Must be called within a tokio
    /// runtime.
    ///
    /// # Errors
    ///
    /// The endpoint is no URL.
    pub fn new(config: UplinkConfig) -> Result<Self, UplinkError> {
        let endpoint = Endpoint::from_shared(config.endpoint.clone())
            .and_then(|endpoint| endpoint.user_agent(concat!("partywall-agent/", env!("CARGO_PKG_VERSION"))))
            .map_err(|source| UplinkError {
                endpoint: config.endpoint,
                source,
            })?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                queue: Queue::new(config.queue_bytes),
                connected: false,
                streams: 0,
                last_receipt: None,
            }),
            pushed: Notify::new(),
            answered: Notify::new(),
            hurry: CancellationToken::new(),
            stop: CancellationToken::new(),
            stopped: CancellationToken::new(),
        });
        tokio::spawn(run(Arc::clone(&shared), endpoint));
        let stop = shared.stop.clone().drop_guard();
        Ok(Self { shared, _stop: stop })
    }

    /// Takes a report, whose `entities` are those that are new in its interval. Never blocks; makes room by giving up the
    /// oldest. Reports must come in order of their sequence.
    pub fn push(&self, report: Report) {
        self.shared.state().queue.push(report);
        self.shared.pushed.notify_one();
    }

    pub fn stats(&self) -> UplinkStats {
        let state = self.shared.state();
        let counts = state.queue.counts().clone();
        UplinkStats {
            connected: state.connected,
            queued_reports: state.queue.len(),
            queued_bytes: state.queue.bytes(),
            in_flight_reports: state.queue.in_flight(),
            sent: counts.sent,
            sent_bytes: counts.sent_bytes,
            acknowledged: counts.acknowledged,
            duplicate: counts.duplicate,
            refused_by_reason: counts.refused_by_reason,
            dropped_full: counts.dropped_full,
            dropped_oversized: counts.dropped_oversized,
            reconnects: state.streams.saturating_sub(1),
            last_receipt_age: state.last_receipt.map(|at| at.elapsed()),
        }
    }

    /// Waits until every report has its receipt, at most for `deadline`, then stops sending. Returns how many reports are
    /// left without one.
    pub async fn drain(&self, deadline: Duration) -> usize {
        self.shared.hurry.cancel();
        // Past the deadline or not, what is left is counted below.
        let _ = tokio::time::timeout(deadline, self.shared.empty()).await;
        self.shared.stop.cancel();
        self.shared.stopped.cancelled().await;
        self.shared.state().queue.len()
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
            if self.state().queue.len() == 0 {
                return;
            }
            answered.await;
        }
    }
}

async fn run(shared: Arc<Shared>, endpoint: Endpoint) {
    let _stopped = shared.stopped.clone().drop_guard();
    let mut backoff = Backoff::default();
    let mut complaint = Complaint::default();
    while let Some(end) = shared
        .stop
        .run_until_cancelled(stream(&shared, &endpoint, &mut backoff))
        .await
    {
        let was_connected = std::mem::take(&mut shared.state().connected);
        let hurry = shared.hurry.is_cancelled();
        let delay = backoff.next(hurry);
        if was_connected || complaint.due() {
            let waiting = shared.state().queue.len();
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
    #[error("cannot connect: {}", chain(.0))]
    Connect(#[from] tonic::transport::Error),
    #[error("{}: {}", .0.code(), .0.message())]
    Status(Box<tonic::Status>),
    #[error("the aggregator closed the stream")]
    Closed,
    #[error("no receipt for {} s", RECEIPT_TIMEOUT.as_secs())]
    NoReceipt,
}

impl From<tonic::Status> for End {
    fn from(status: tonic::Status) -> Self {
        Self::Status(Box::new(status))
    }
}

/// tonic's transport errors say what happened only in their sources.
fn chain(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(error.source(), |source| source.source());
    sources
        .map(ToString::to_string)
        .last()
        .unwrap_or_else(|| error.to_string())
}

/// One stream from its opening to its end.
async fn stream(shared: &Shared, endpoint: &Endpoint, backoff: &mut Backoff) -> End {
    match try_stream(shared, endpoint, backoff).await {
        Ok(never) => match never {},
        Err(end) => end,
    }
}

async fn try_stream(
    shared: &Shared,
    endpoint: &Endpoint,
    backoff: &mut Backoff,
) -> Result<std::convert::Infallible, End> {
    let channel = endpoint.connect().await?;
    let mut client = IngestServiceClient::new(channel).max_decoding_message_size(RECEIPT_MAX_BYTES);
    // Room for the window: what is in it waits for the socket, and what is not in it waits in the queue.
    let (requests, body) = mpsc::channel(WINDOW);
    let mut opening = pin!(client.ingest(ReceiverStream::new(body)));
    let mut receipts: Option<Streaming<Receipt>> = None;
    let mut complaint = Complaint::default();
    shared.state().queue.begin_stream();
    let mut last_progress = tokio::time::Instant::now();
    loop {
        if shared.state().queue.in_flight() == 0 {
            last_progress = tokio::time::Instant::now();
        }
        send(shared, &requests);
        let waits = shared.state().queue.in_flight() > 0;
        tokio::select! {
            // A server may answer the call only when the first report has come, so both go on at once.
            opened = &mut opening, if receipts.is_none() => {
                receipts = Some(opened?.into_inner());
                let mut state = shared.state();
                state.connected = true;
                state.streams += 1;
                tracing::info!(endpoint = %endpoint.uri(), waiting_reports = state.queue.len(), "connected to the aggregator");
            }
            receipt = next_receipt(&mut receipts) => {
                let receipt = receipt?.ok_or(End::Closed)?;
                last_progress = tokio::time::Instant::now();
                backoff.reset();
                take(shared, &receipt, &mut complaint);
            }
            () = shared.pushed.notified() => {}
            () = tokio::time::sleep_until(last_progress + RECEIPT_TIMEOUT), if waits => return Err(End::NoReceipt),
        }
    }
}

/// Hands over as many reports as the window allows.
fn send(shared: &Shared, requests: &mpsc::Sender<Report>) {
    while let Ok(room) = requests.try_reserve() {
        let Some(report) = shared.state().queue.next(WINDOW) else {
            return;
        };
        room.send(report);
    }
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
    let known = state.queue.receipt(receipt);
    drop(state);
    shared.answered.notify_waiters();
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
}

impl Backoff {
    fn reset(&mut self) {
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
            endpoint: "http://a b".to_owned(),
            queue_bytes: 65_536,
        };
        let error = Uplink::new(config).err().expect("no URL");
        assert!(error.to_string().contains("http://a b"), "{error}");
    }
}

//! `IngestService`: one stream per agent, one receipt per report.
//!
//! The stream of receipts is the stream of reports, mapped: a report is read from its socket when the one before was counted. Where totals survive the
//! process its receipt waits for the disk, and a few more are read meanwhile. An agent that does not read its receipts only holds itself up.

use std::hash::{BuildHasher as _, RandomState};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::{Stream, StreamExt as _, stream};
use partywall_aggregator_core::report::{Outcome, Refusal, Report};
use partywall_proto::v1;
use partywall_proto::v1::ingest_service_server::IngestService;
use prost::Message as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, info, warn};

use crate::auth::{Auth, Denied};
use crate::clock::{Lag, unix_ns};
use crate::limits::{MAX_STREAMS, MAX_STREAMS_PER_NODE, STREAM_LIFE_SPREAD};
use crate::link::Peer;
use crate::metrics::StreamRefusal;
use crate::nodes::{Nodes, OfNode};
use crate::state::{Cluster, State};
use crate::wire;

/// Reports of one stream that are counted and wait for the disk: with less a queue would be worked off one commit after another.
const UNWRITTEN: usize = 32;

pub struct Ingest {
    state: Arc<State>,
    /// `None`: agents need no token.
    auth: Option<Auth>,
    /// Streams end after about so long, so that certificates and tokens are looked at again.
    life: Option<Duration>,
    stop: CancellationToken,
    streams: Arc<AtomicUsize>,
    nodes: Arc<Nodes>,
}

impl Ingest {
    pub fn new(
        state: Arc<State>,
        auth: Option<Auth>,
        life: Option<Duration>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            state,
            auth,
            life,
            stop,
            streams: Arc::default(),
            nodes: Arc::default(),
        }
    }

    /// The first of a reason and then every tenfold is a warning.
    fn refuse(&self, peer: &str, Denied { refusal, status }: Denied) -> Status {
        let refused = self.state.metrics.refuse_stream(refusal);
        let (reason, why) = (refusal.as_str(), status.message());
        if refused
            .checked_ilog10()
            .is_some_and(|digits| 10u64.pow(digits) == refused)
        {
            warn!(peer, reason, refused, why, "stream refused");
        } else {
            debug!(peer, reason, why, "stream refused");
        }
        status
    }
}

/// A fifth more or less.
fn spread(life: Duration) -> Duration {
    // Seeded anew each time, which is all the randomness that spreading out needs.
    let random = RandomState::new().hash_one(0) % 1_000;
    let random = random as f64 / 999.0 * 2.0 - 1.0;
    life.mul_f64(1.0 + STREAM_LIFE_SPREAD * random)
}

type Receipts = Pin<Box<dyn Stream<Item = Result<v1::Receipt, Status>> + Send>>;

#[tonic::async_trait]
impl IngestService for Ingest {
    type IngestStream = Receipts;

    async fn ingest(&self, request: Request<Streaming<v1::Report>>) -> Result<Response<Receipts>, Status> {
        let addr = request.extensions().get::<Peer>().map(|peer| peer.addr);
        let peer = addr.map_or_else(|| "unknown".to_owned(), |a| a.to_string());
        let Some(open) = Open::new(&self.streams) else {
            let status = Status::resource_exhausted(format!("{MAX_STREAMS} agents are connected already"));
            let refusal = StreamRefusal::TooMany;
            return Err(self.refuse(&peer, Denied { refusal, status }));
        };
        let mut connection = Connection {
            state: Arc::clone(&self.state),
            nodes: Arc::clone(&self.nodes),
            reports: None,
            peer,
            bound: None,
            refused: 0,
            next: Instant::now(),
            _open: open,
        };
        if let Some(auth) = &self.auth {
            let admitted = auth.admit(request.metadata(), addr).await;
            let joined = admitted.and_then(|bound| connection.join(bound.cluster, bound.node));
            joined.map_err(|denied| self.refuse(&connection.peer, denied))?;
        }
        self.state.metrics.stream();
        connection.reports = Some(request.into_inner());
        // An answer for each report; an error is the last thing that is said.
        let counted = stream::unfold(Some(connection), |connection| async {
            let mut connection = connection?;
            match connection.answer().await {
                Ok(owed) => Some((Ok(owed?), Some(connection))),
                Err(status) => Some((Err(status), None)),
            }
        });
        let state = Arc::clone(&self.state);
        let receipts = counted
            .map(move |owed| {
                let state = Arc::clone(&state);
                async move {
                    let (receipt, position) = owed?;
                    if let Some(journal) = state.journal.get() {
                        journal.written(position).await;
                    }
                    Ok(receipt)
                }
            })
            .buffered(UNWRITTEN)
            .take_until(self.stop.clone().cancelled_owned());
        if let Some(life) = self.life {
            let end = tokio::time::sleep(spread(life));
            return Ok(Response::new(Box::pin(receipts.take_until(end))));
        }
        Ok(Response::new(Box::pin(receipts)))
    }
}

/// One of the streams that may be open at once.
#[derive(Debug)]
struct Open(Arc<AtomicUsize>);

impl Open {
    fn new(streams: &Arc<AtomicUsize>) -> Option<Self> {
        let open = Self(Arc::clone(streams));
        // Counted down again by drop, also where it is one too many.
        (streams.fetch_add(1, Ordering::Relaxed) < MAX_STREAMS).then_some(open)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// As it is journalled: without what is only of the moment.
fn encode(report: &mut v1::Report) -> Vec<u8> {
    let (coverage, cost) = (report.coverage.take(), report.cost.take());
    let encoded = report.encode_to_vec();
    (report.coverage, report.cost) = (coverage, cost);
    encoded
}

/// One agent's stream.
struct Connection {
    state: Arc<State>,
    nodes: Arc<Nodes>,
    reports: Option<Streaming<v1::Report>>,
    peer: String,
    /// The cluster and the node of its token, else those that its first report named.
    bound: Option<OfStream>,
    refused: u64,
    /// No report is read before: its node was faster than it may be.
    next: Instant,
    _open: Open,
}

/// What a stream is about.
struct OfStream {
    cluster: Arc<Cluster>,
    node: Arc<str>,
    of_node: OfNode,
}

impl Connection {
    /// The receipt for the next report, and the position in the journal that it must wait for; `None`: there is none.
    async fn answer(&mut self) -> Result<Option<(v1::Receipt, u64)>, Status> {
        tokio::time::sleep_until(self.next).await;
        if let Some(journal) = self.state.journal.get() {
            journal.room().await;
        }
        let Some(reports) = &mut self.reports else {
            return Ok(None);
        };
        let report = match reports.message().await {
            Ok(Some(report)) => report,
            Ok(None) => return Ok(None),
            Err(status) => {
                if let Some(refusal) = StreamRefusal::of_message(&status) {
                    self.state.metrics.refuse_stream(refusal);
                    warn!(
                        peer = self.peer,
                        reason = refusal.as_str(),
                        why = status.message(),
                        "stream ended"
                    );
                }
                return Err(status);
            }
        };
        let bytes = report.encoded_len();
        let owed = self.take(report)?;
        let wait = self.bound.as_ref().map(|bound| bound.of_node.took(bytes));
        if let Some(wait) = wait.filter(|wait| !wait.is_zero()) {
            self.state.metrics.delay(wait);
            self.next = Instant::now() + wait;
        }
        Ok(Some(owed))
    }

    fn join(&mut self, cluster: Arc<Cluster>, node: Arc<str>) -> Result<(), Denied> {
        if !cluster.is_synced() {
            // Counted now, all of it would be nobody's; the agent keeps it.
            let words = format!("the objects of cluster {:?} were not read yet", &*cluster.name);
            return Err(Denied {
                refusal: StreamRefusal::NotSynced,
                status: Status::unavailable(words),
            });
        }
        let Some(of_node) = self.nodes.join(&cluster.name, &node) else {
            let words = format!("{node:?} has {MAX_STREAMS_PER_NODE} streams already");
            return Err(Denied {
                refusal: StreamRefusal::TooManyOfNode,
                status: Status::resource_exhausted(words),
            });
        };
        info!(cluster = %cluster.name, node = %node, peer = self.peer, "an agent reports");
        self.bound = Some(OfStream {
            cluster,
            node,
            of_node,
        });
        Ok(())
    }

    /// The receipt, and the position in the journal that it must wait for.
    fn take(&mut self, mut report: v1::Report) -> Result<(v1::Receipt, u64), Status> {
        let sequence = report.sequence;
        let encoded = self.state.journal.get().map(|_| encode(&mut report));
        let Lag {
            lag_ns,
            clock_offset_ns,
        } = Lag::of(report.captured_unix_ns, report.waited_ns, unix_ns());
        let converted = self.convert(report);
        if let (None, Ok((cluster, report))) = (&self.bound, &converted) {
            let joined = self.join(Arc::clone(cluster), Arc::clone(&report.node));
            joined.map_err(|Denied { refusal, status }| {
                self.state.metrics.refuse_stream(refusal);
                status
            })?;
        }
        let receipt = match converted {
            Ok((cluster, mut report)) => {
                report.clock_offset_ns = clock_offset_ns;
                let samples = report.cpu.len();
                let names = !report.entities.is_empty();
                let node = Arc::clone(&report.node);
                let mut world = cluster.lock();
                let receipt = world.ingest(report, cluster.now());
                if let Some((journal, encoded)) = self.state.journal.get().zip(encoded) {
                    journal.note_marks(&cluster.name, &mut world);
                    let refused = matches!(receipt.outcome, Outcome::Refused(_));
                    let changed = match receipt.outcome {
                        Outcome::Accepted => true,
                        Outcome::Refused(_) => names,
                        Outcome::Duplicate => false,
                    };
                    if changed
                        && let Err(reason) = journal.note_report(&cluster.name, &node, encoded, refused)
                    {
                        world.count_loss("store", reason, "records", 1);
                    }
                }
                drop(world);
                self.state.metrics.report(&receipt.outcome, samples, lag_ns);
                receipt
            }
            Err(refusal) => {
                let outcome = Outcome::Refused(refusal);
                self.state.metrics.report(&outcome, 0, lag_ns);
                outcome.into()
            }
        };
        if let Outcome::Refused(refusal) = &receipt.outcome {
            self.log(sequence, refusal);
        }
        // Also of a report that was counted before: it may have been just now.
        let position = self.state.journal.get().map_or(0, |journal| journal.position());
        Ok((wire::receipt(sequence, receipt), position))
    }

    fn convert(&self, report: v1::Report) -> Result<(Arc<Cluster>, Report), Refusal> {
        let Some(cluster) = self.state.cluster(&report.cluster).cloned() else {
            let name: String = report.cluster.chars().take(80).collect();
            return Err(Refusal {
                reason: "wrong_cluster",
                field: "cluster".into(),
                problem: format!("{name:?} is none of the clusters of this aggregator"),
            });
        };
        let report = wire::report(report)?;
        match &self.bound {
            Some(own) if own.cluster.name != cluster.name => Err(Refusal {
                reason: "wrong_cluster",
                field: "cluster".into(),
                problem: format!(
                    "{:?} on a stream that reports of {:?}",
                    &*cluster.name, &*own.cluster.name
                ),
            }),
            Some(own) if own.node != report.node => Err(Refusal {
                reason: "wrong_node",
                field: "node".into(),
                problem: format!("{:?} on a stream that reports {:?}", &*report.node, &*own.node),
            }),
            _ => Ok((cluster, report)),
        }
    }

    /// The first refusal of a stream, and then every tenfold: an agent that is wrong once a second must not fill the log.
    fn log(&mut self, sequence: u64, refusal: &Refusal) {
        self.refused += 1;
        let refused = self.refused;
        let node = self.bound.as_ref().map_or("unknown", |bound| &*bound.node);
        if refused
            .checked_ilog10()
            .is_some_and(|digits| 10u64.pow(digits) == refused)
        {
            warn!(
                node,
                peer = self.peer,
                sequence,
                reason = refusal.reason,
                refused,
                "report refused: {refusal}"
            );
        } else {
            debug!(
                node,
                peer = self.peer,
                sequence,
                reason = refusal.reason,
                "report refused: {refusal}"
            );
        }
    }
}

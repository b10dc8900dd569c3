//! `IngestService`: one stream per agent, one receipt per report.
//!
//! The stream of receipts is the stream of reports, mapped: a report is read from its socket when the one before was counted and its receipt
//! could be sent. So there is no queue here, and an agent that does not read its receipts only holds itself up.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::{Stream, StreamExt as _};
use partywall_aggregator_core::report::{Outcome, Refusal};
use partywall_proto::v1;
use partywall_proto::v1::ingest_service_server::IngestService;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, info, warn};

use crate::clock::unix_ns;
use crate::state::State;
use crate::wire;

/// Streams at once: as many as nodes may be known, and as many again that reconnect before their old stream is noticed dead.
const MAX_STREAMS: usize = 2 * partywall_aggregator_core::limits::MAX_NODES;

#[derive(Debug)]
pub struct Ingest {
    state: Arc<State>,
    stop: CancellationToken,
    streams: Arc<AtomicUsize>,
}

impl Ingest {
    pub fn new(state: Arc<State>, stop: CancellationToken) -> Self {
        Self {
            state,
            stop,
            streams: Arc::default(),
        }
    }
}

type Receipts = Pin<Box<dyn Stream<Item = Result<v1::Receipt, Status>> + Send>>;

#[tonic::async_trait]
impl IngestService for Ingest {
    type IngestStream = Receipts;

    async fn ingest(&self, request: Request<Streaming<v1::Report>>) -> Result<Response<Receipts>, Status> {
        let peer = request
            .remote_addr()
            .map_or_else(|| "unknown".to_owned(), |a| a.to_string());
        let Some(open) = Open::new(&self.streams) else {
            return Err(Status::resource_exhausted(format!(
                "{MAX_STREAMS} agents are connected already"
            )));
        };
        self.state.metrics.streams(open.count());
        let mut connection = Connection {
            state: Arc::clone(&self.state),
            peer,
            node: None,
            refused: 0,
            _open: open,
        };
        let receipts = request
            .into_inner()
            .map(move |report| report.map(|report| connection.take(report)))
            .take_until(self.stop.clone().cancelled_owned());
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

    fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One agent's stream.
struct Connection {
    state: Arc<State>,
    peer: String,
    /// The node that its first report named.
    node: Option<Arc<str>>,
    refused: u64,
    _open: Open,
}

impl Connection {
    fn take(&mut self, report: v1::Report) -> v1::Receipt {
        let sequence = report.sequence;
        let lag_ns = unix_ns().saturating_sub(report.captured_unix_ns);
        let receipt = match self.convert(report) {
            Ok(report) => {
                let samples = report.cpu.len();
                let receipt = self.state.lock().ingest(report, self.state.now());
                self.state.metrics.report(&receipt.outcome, samples, lag_ns);
                receipt
            }
            Err(refusal) => {
                let outcome = Outcome::Refused(refusal);
                self.state.metrics.report(&outcome, 0, lag_ns);
                partywall_aggregator_core::report::Receipt {
                    outcome,
                    announce_all: false,
                }
            }
        };
        if let Outcome::Refused(refusal) = &receipt.outcome {
            self.log(sequence, refusal);
        }
        wire::receipt(sequence, receipt)
    }

    fn convert(&mut self, report: v1::Report) -> Result<partywall_aggregator_core::report::Report, Refusal> {
        let report = wire::report(report)?;
        match &self.node {
            Some(node) if *node != report.node => Err(Refusal {
                reason: "wrong_node",
                field: "node".into(),
                problem: format!("{:?} on a stream that reports {:?}", &*report.node, &**node),
            }),
            Some(_) => Ok(report),
            None => {
                info!(node = %report.node, peer = self.peer, "an agent reports");
                self.node = Some(Arc::clone(&report.node));
                Ok(report)
            }
        }
    }

    /// The first refusal of a stream, and then every tenfold: an agent that is wrong once a second must not fill the log.
    fn log(&mut self, sequence: u64, refusal: &Refusal) {
        self.refused += 1;
        let refused = self.refused;
        let node = self.node.as_deref().unwrap_or("unknown");
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

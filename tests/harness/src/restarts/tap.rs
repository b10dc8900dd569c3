//! Between a real agent and the aggregator: what was sent and what was acknowledged, in CPU time.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, Result};
use partywall_proto::{
    MAX_MESSAGE_BYTES,
    v1::{
        Outcome, Receipt, Report,
        entity::Kind,
        ingest_service_client::IngestServiceClient,
        ingest_service_server::{IngestService, IngestServiceServer},
    },
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_stream::{Stream, StreamExt, wrappers::TcpListenerStream};
use tonic::{Request, Response, Status, Streaming, transport::Endpoint};

#[derive(Default)]
struct Run {
    containers: Vec<u32>,
    /// Entity → CPU time in the first report, which closes no interval; the newest.
    first: BTreeMap<u32, u64>,
    newest: BTreeMap<u32, u64>,
    /// Sequence → what was sent up to there, in nanoseconds.
    sent: BTreeMap<u64, u64>,
    acknowledged: u64,
}

impl Run {
    fn take(&mut self, report: &Report) {
        for entity in &report.entities {
            if matches!(entity.kind, Some(Kind::Container(_))) {
                self.containers.push(entity.index);
            }
        }
        if self
            .sent
            .last_key_value()
            .is_some_and(|(last, _)| report.sequence <= *last)
        {
            return;
        }
        for sample in report.cpu.iter().filter(|s| !self.containers.contains(&s.entity)) {
            if report.sequence == 1 {
                self.first.insert(sample.entity, sample.run_ns);
            }
            self.newest.insert(sample.entity, sample.run_ns);
        }
        let grown = self
            .newest
            .iter()
            .map(|(e, ns)| ns - self.first.get(e).unwrap_or(&0));
        self.sent.insert(report.sequence, grown.sum());
    }
}

#[derive(Clone)]
struct Shared {
    /// By the agent's start.
    runs: Arc<Mutex<BTreeMap<u64, Run>>>,
    aggregator: SocketAddr,
}

pub(super) struct Tap {
    pub(super) address: SocketAddr,
    shared: Shared,
    server: JoinHandle<()>,
}

impl Tap {
    pub(super) async fn start(aggregator: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .context("cannot listen on 127.0.0.1")?;
        let address = listener.local_addr()?;
        let shared = Shared {
            runs: Arc::default(),
            aggregator,
        };
        let service = IngestServiceServer::new(shared.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let server = tokio::spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            let router = tonic::transport::Server::builder().add_service(service);
            if let Err(error) = router.serve_with_incoming(incoming).await {
                tracing::error!(%error, "tap ended");
            }
        });
        Ok(Self {
            address,
            shared,
            server,
        })
    }

    /// CPU time acknowledged and sent, over all runs, in nanoseconds.
    pub(super) fn bounds(&self) -> (u64, u64) {
        let runs = self.shared.runs();
        let acknowledged = runs.values().filter_map(|r| r.sent.get(&r.acknowledged)).sum();
        let sent = runs
            .values()
            .filter_map(|r| Some(r.sent.last_key_value()?.1))
            .sum();
        (acknowledged, sent)
    }

    pub(super) fn reports(&self) -> u64 {
        self.shared.runs().values().map(|r| r.acknowledged).sum()
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Shared {
    fn runs(&self) -> MutexGuard<'_, BTreeMap<u64, Run>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Receipts = Pin<Box<dyn Stream<Item = Result<Receipt, Status>> + Send>>;

#[tonic::async_trait]
impl IngestService for Shared {
    type IngestStream = Receipts;

    async fn ingest(&self, request: Request<Streaming<Report>>) -> Result<Response<Receipts>, Status> {
        let unavailable = |error: tonic::transport::Error| Status::unavailable(error.to_string());
        let endpoint = Endpoint::from_shared(format!("http://{}", self.aggregator)).map_err(unavailable)?;
        let channel = endpoint.connect().await.map_err(unavailable)?;
        let (shared, of) = (self.clone(), Arc::new(Mutex::new(0)));
        let run = Arc::clone(&of);
        let reports = request.into_inner().map_while(Result::ok).map(move |report| {
            let start = report.agent_start_unix_ns;
            *run.lock().unwrap_or_else(PoisonError::into_inner) = start;
            shared.runs().entry(start).or_default().take(&report);
            report
        });
        let mut client = IngestServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let shared = self.clone();
        let receipts = client.ingest(reports).await?.into_inner().map(move |receipt| {
            let receipt = receipt?;
            if matches!(receipt.outcome(), Outcome::Accepted | Outcome::Duplicate) {
                let start = *of.lock().unwrap_or_else(PoisonError::into_inner);
                let mut runs = shared.runs();
                let run = runs.entry(start).or_default();
                run.acknowledged = run.acknowledged.max(receipt.sequence);
            }
            Ok(receipt)
        });
        Ok(Response::new(Box::pin(receipts)))
    }
}

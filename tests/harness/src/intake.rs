//! Takes an agent's stream, keeps the exact counters, and hands it on to the real aggregator, or stands in for one where
//! only the agent is under test.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use partywall_proto::{
    MAX_MESSAGE_BYTES,
    v1::{
        Outcome, Receipt, Report,
        ingest_service_client::IngestServiceClient,
        ingest_service_server::{IngestService, IngestServiceServer},
    },
};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle, time::timeout};
use tokio_stream::{Stream, StreamExt, wrappers::TcpListenerStream};
use tonic::{Request, Response, Status, Streaming, transport::Endpoint};

use crate::record::Record;

/// A running intake. Ends when dropped.
pub(crate) struct Intake {
    pub(crate) address: SocketAddr,
    shared: Shared,
    changed: watch::Receiver<u64>,
    server: JoinHandle<()>,
}

#[derive(Clone)]
struct Shared {
    record: Arc<Mutex<Record>>,
    /// `captured_boot_ns` of the latest report.
    captured: Arc<watch::Sender<u64>>,
    aggregator: Option<SocketAddr>,
}

impl Intake {
    /// Listens on a free loopback port. Hands on to `aggregator` where there is one.
    pub(crate) async fn start(aggregator: Option<SocketAddr>) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .context("cannot listen on 127.0.0.1")?;
        let address = listener.local_addr()?;
        let (captured, changed) = watch::channel(0);
        let shared = Shared {
            record: Arc::default(),
            captured: Arc::new(captured),
            aggregator,
        };
        let service = IngestServiceServer::new(shared.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let server = tokio::spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            let served = tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(incoming)
                .await;
            if let Err(error) = served {
                tracing::error!(%error, "intake ended");
            }
        });
        Ok(Self {
            address,
            shared,
            changed,
            server,
        })
    }

    pub(crate) fn record(&self) -> MutexGuard<'_, Record> {
        self.shared.record()
    }

    /// Until a report arrives that was read at or after `boot_ns`.
    pub(crate) async fn report_since(&self, boot_ns: u64, patience: Duration) -> Result<()> {
        let mut changed = self.changed.clone();
        let arrived = timeout(patience, changed.wait_for(|captured| *captured >= boot_ns)).await;
        match arrived {
            Ok(Ok(_)) => Ok(()),
            _ => bail!("no report from the agent within {} s", patience.as_secs()),
        }
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Shared {
    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a report in; gives the receipt for it.
    fn take(&self, report: &Report) -> Receipt {
        let all_known = self.record().apply(report);
        self.captured.send_replace(report.captured_boot_ns);
        Receipt {
            sequence: report.sequence,
            outcome: Outcome::Accepted.into(),
            reason: String::new(),
            announce_all: !all_known,
        }
    }
}

type Receipts = Pin<Box<dyn Stream<Item = Result<Receipt, Status>> + Send>>;

#[tonic::async_trait]
impl IngestService for Shared {
    type IngestStream = Receipts;

    async fn ingest(&self, request: Request<Streaming<Report>>) -> Result<Response<Receipts>, Status> {
        let shared = self.clone();
        let reports = request.into_inner().map_while(Result::ok);
        let Some(aggregator) = self.aggregator else {
            let receipts = reports.map(move |report| Ok(shared.take(&report)));
            return Ok(Response::new(Box::pin(receipts)));
        };
        let endpoint = Endpoint::from_shared(format!("http://{aggregator}"));
        let endpoint = endpoint.map_err(|error| Status::internal(error.to_string()))?;
        let channel = endpoint
            .connect()
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let taken = reports.map(move |report| {
            shared.take(&report);
            report
        });
        let receipts = IngestServiceClient::new(channel)
            .ingest(taken)
            .await?
            .into_inner();
        let shared = self.clone();
        let watched = receipts.map(move |receipt| {
            if let Ok(receipt) = &receipt
                && receipt.outcome() == Outcome::Refused
            {
                shared
                    .record()
                    .refused
                    .push(format!("report {}: {}", receipt.sequence, receipt.reason));
            }
            receipt
        });
        Ok(Response::new(Box::pin(watched)))
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use partywall_proto::v1::{CpuSample, Entity, Pod, entity::Kind};

    fn report(sequence: u64, announced: bool) -> Report {
        let pod = Entity {
            index: 1,
            born_boot_ns: 0,
            kind: Some(Kind::Pod(Pod {
                uid: "blue".to_owned(),
            })),
        };
        Report {
            agent_start_unix_ns: 7,
            sequence,
            captured_boot_ns: sequence * 1_000,
            entities: announced.then_some(pod).into_iter().collect(),
            cpu: vec![CpuSample {
                entity: 1,
                run_ns: sequence * 10,
                ..CpuSample::default()
            }],
            ..Report::default()
        }
    }

    /// Sends the reports over the wire and gives the receipts' (sequence, announce_all).
    async fn send(intake: &Intake, reports: Vec<Report>) -> Vec<(u64, bool)> {
        let endpoint = Endpoint::from_shared(format!("http://{}", intake.address)).unwrap();
        let mut client = IngestServiceClient::new(endpoint.connect().await.unwrap());
        let mut stream = client
            .ingest(tokio_stream::iter(reports))
            .await
            .unwrap()
            .into_inner();
        let mut receipts = Vec::new();
        while let Some(receipt) = stream.message().await.unwrap() {
            assert_eq!(receipt.outcome(), Outcome::Accepted);
            receipts.push((receipt.sequence, receipt.announce_all));
        }
        receipts
    }

    #[tokio::test]
    async fn each_report_gets_its_receipt_and_what_is_unknown_is_asked_for() {
        let intake = Intake::start(None).await.unwrap();
        let receipts = send(&intake, vec![report(1, false), report(2, true)]).await;
        assert_eq!(receipts, [(1, true), (2, false)]);
        assert_eq!(intake.record().pod("blue").run_ns, 20);
        intake.report_since(2_000, Duration::from_secs(1)).await.unwrap();
        assert!(
            intake
                .report_since(2_001, Duration::from_millis(50))
                .await
                .is_err()
        );
    }

    #[tokio::test]
    async fn what_passes_to_the_aggregator_is_the_same_on_both_sides() {
        let aggregator = Intake::start(None).await.unwrap();
        let intake = Intake::start(Some(aggregator.address)).await.unwrap();
        let receipts = send(&intake, vec![report(1, false), report(2, true)]).await;
        assert_eq!(receipts, [(1, true), (2, false)], "the aggregator's own receipts");
        assert_eq!(aggregator.record().pod("blue"), intake.record().pod("blue"));
        assert_eq!(aggregator.record().reports, 2);
    }
}

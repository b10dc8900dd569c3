//! Peers that lie, repeat, exaggerate, flood and stall, each beside an honest agent whose receipts are timed: what is refused is counted by reason, and
//! the honest one has every receipt in time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod peers;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes};
use partywall_proto::v1;
use partywall_proto::v1::query_service_client::QueryServiceClient;
use peers::{Agent, SECOND_NS, Stage, Took, Wanted, documented};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Code, Request, Status};

/// An honest agent's receipts come within this, whatever others do. Two CPUs run the aggregator, its peers and other tests.
const MOST: Duration = Duration::from_millis(1_500);
/// Whoever is hostile comes from here; the honest agent from 127.0.0.1.
const HOSTILE: [u8; 4] = [127, 0, 0, 2];

/// Reports for node-a, twenty a second, until told to stop.
struct Honest {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Took>,
}

impl Honest {
    async fn begin(stage: &Stage) -> Self {
        let mut agent = stage.agent("node-a").await;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let mut took = Took::default();
            while !stopped.load(Ordering::Relaxed) {
                let run_ns = took.0.len() as u64 * SECOND_NS / 10;
                let report = agent.report_of("uid-web", run_ns);
                let began = Instant::now();
                let receipt = agent.send(report).await;
                took.0.push(began.elapsed());
                assert_eq!(receipt.outcome(), v1::Outcome::Accepted, "{receipt:?}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            took
        });
        Self { stop, task }
    }

    /// Every report was accepted, in time.
    async fn unharmed(self, about: &str) {
        self.stop.store(true, Ordering::Relaxed);
        let mut took = self.task.await.expect("no refusal");
        let [half, most, worst] = [50, 99, 100].map(|percent| took.percentile(percent));
        println!(
            "{about}: {} receipts, p50 {half:?}, p99 {most:?}, worst {worst:?}",
            took.0.len()
        );
        assert!(worst < MOST, "{about}: a receipt took {worst:?}");
    }
}

async fn tcp_from(address: [u8; 4], to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((address, 0)))?;
    socket.connect(to).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_ones_to_say_is_refused_and_counted() {
    let stage = Stage::start(Wanted::default()).await;
    let honest = Honest::begin(&stage).await;

    // A node that speaks for another.
    let mut liar = stage.agent("node-b").await;
    liar.next.node = "node-a".into();
    let report = liar.report_of("uid-web", SECOND_NS);
    let receipt = liar.send(report).await;
    assert!(
        receipt.outcome() == v1::Outcome::Refused && receipt.reason.contains("node-a"),
        "{receipt:?}"
    );
    stage
        .counted(
            "partywall_aggregator_reports_refused_total{reason=\"wrong_node\"}",
            1.0,
        )
        .await;

    // A pod of another node: it is counted and named by nobody, and the rest of the report stands.
    let mut thief = stage.agent("node-b").await;
    for second in 0..4 {
        let mut report = thief.report_of("uid-web", second * SECOND_NS);
        if second == 0 {
            let kind = Some(v1::entity::Kind::Pod(v1::Pod {
                uid: "uid-batch".into(),
            }));
            report.entities.push(v1::Entity {
                index: 2,
                kind,
                born_boot_ns: 0,
            });
        }
        report.cpu.push(v1::CpuSample {
            entity: 2,
            run_ns: second * SECOND_NS / 4,
            ..v1::CpuSample::default()
        });
        let receipt = thief.send(report).await;
        assert_eq!(receipt.outcome(), v1::Outcome::Accepted, "{receipt:?}");
    }
    let foreign = "partywall_aggregator_losses_total{cluster=\"default\",stage=\"identify\",reason=\"foreign_pod\",unit=\"pods\"}";
    stage.counted(foreign, 1.0).await;
    let of = |tenant| {
        format!(
            "partywall_tenant_cpu_seconds_total{{cluster=\"default\",tenant=\"{tenant}\",node=\"node-b\"}}"
        )
    };
    stage.counted(&of("red"), 0.1).await;
    assert!(
        stage.metric(&of("blue")).await.abs() < f64::EPSILON,
        "{}",
        stage.scrape().await
    );

    // What was counted is not counted again, and an agent run that was replaced is over.
    let mut replayed = stage.agent("node-c").await;
    let first = replayed.report_of("uid-x", SECOND_NS);
    replayed.send(first.clone()).await;
    assert_eq!(
        replayed.send(first.clone()).await.outcome(),
        v1::Outcome::Duplicate
    );
    replayed.next.agent_start_unix_ns = 2;
    replayed.next.sequence = 0;
    replayed.accepted().await;
    assert_eq!(
        replayed.send(first.clone()).await.outcome(),
        v1::Outcome::Duplicate
    );
    let later = v1::Report {
        sequence: first.sequence + 1,
        ..first
    };
    let receipt = replayed.send(later).await;
    assert_eq!(receipt.outcome(), v1::Outcome::Refused, "{receipt:?}");
    stage
        .counted(
            "partywall_aggregator_reports_refused_total{reason=\"ended_run\"}",
            1.0,
        )
        .await;
    honest.unharmed("lies").await;
    stage.running.stop().await.unwrap();
}

/// Sends bytes as they are as the message of a report.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;
    fn encoder(&mut self) -> Self {
        Self
    }
    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;
    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;
    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_are_none_end_their_stream_and_huge_ones_too() {
    let stage = Stage::start(Wanted::default()).await;
    let honest = Honest::begin(&stage).await;
    let channel = stage.channel_from(HOSTILE).await;
    let token = stage.token("node-b");

    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    let garbage = tokio_stream::iter([Bytes::from_static(&[0xff; 1_000])]);
    let mut request = Request::new(garbage);
    request
        .metadata_mut()
        .insert("authorization", format!("Bearer {token}").parse().unwrap());
    let path = "/partywall.v1.IngestService/Ingest".parse().unwrap();
    let mut answers = grpc.streaming(request, path, Raw).await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap_err().code(), Code::Internal);
    stage.refused_streams("malformed", 1.0).await;

    let mut large = Agent::open(channel.clone(), "node-b", Some(&token))
        .await
        .unwrap();
    let report = v1::Report {
        boot_id: "x".repeat(5 << 20),
        ..large.report()
    };
    large.put(report).await;
    assert_eq!(large.receipt().await.unwrap_err().code(), Code::OutOfRange);
    stage.refused_streams("oversized", 1.0).await;

    // Whatever is compressed, before it is unpacked.
    let gzip = [("grpc-encoding", "gzip")];
    let refused = Agent::open_with(channel.clone(), "node-b", Some(&token), &gzip).await;
    assert_eq!(refused.err().unwrap().code(), Code::Unimplemented);
    stage.refused_streams("compressed", 1.0).await;

    // As large as may be: a string, more pods than a node has, more pairs.
    let mut agent = Agent::open(channel, "node-b", Some(&token)).await.unwrap();
    let report = v1::Report {
        boot_id: "x".repeat(3 << 20),
        ..agent.report()
    };
    let receipt = agent.send(report).await;
    assert!(
        receipt.outcome() == v1::Outcome::Refused && receipt.reason.len() < 500,
        "{receipt:?}"
    );
    stage
        .counted(
            "partywall_aggregator_reports_refused_total{reason=\"bad_name\"}",
            1.0,
        )
        .await;
    let pod = |index: u32| v1::Entity {
        index,
        kind: Some(v1::entity::Kind::Pod(v1::Pod {
            uid: format!("made-up-{index}"),
        })),
        born_boot_ns: 0,
    };
    let mut report = agent.report();
    report.entities = (1..=60_000).map(pod).collect();
    agent.send(report).await;
    let cap = |reason| {
        format!(
            "partywall_aggregator_losses_total{{cluster=\"default\",stage=\"window\",reason=\"{reason}\",unit=\"entities\"}}"
        )
    };
    stage.counted(&cap("entity_cap"), 40_000.0).await;
    stage.counted(&cap("slot_cap"), 10_000.0).await;
    documented(&stage.scrape().await);
    honest.unharmed("malformed and oversized").await;
    stage.running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_stalls_is_let_go_and_takes_no_place_of_others() {
    let stage = Stage::start(Wanted::default()).await;
    let honest = Honest::begin(&stage).await;
    let to = stage.running.grpc_addr;

    // Handshakes that are never begun, more than one address may have at once.
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(tcp_from(HOSTILE, to).await.unwrap());
    }
    stage
        .refused_connections("too_many_handshakes_of_peer", 40.0)
        .await;
    // Somebody else is let in meanwhile.
    stage.agent("node-b").await.accepted().await;
    // One that is finished, and after which nothing is asked, a byte of it now and then.
    let tls = tls_stream(&stage, [127, 0, 0, 3]).await;
    let trickle = tokio::spawn(async move {
        let mut tls = tls;
        for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" {
            if tls.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    stage.refused_connections("handshake_timeout", 200.0).await;
    stage.refused_connections("no_request", 1.0).await;
    drop(silent);
    trickle.abort();
    documented(&stage.scrape().await);
    honest.unharmed("stalls").await;
    stage.running.stop().await.unwrap();
}

async fn tls_stream(stage: &Stage, address: [u8; 4]) -> tokio_rustls::client::TlsStream<TcpStream> {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
    let own = stage.ca.issue();
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(stage.ca.pem.as_bytes()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![CertificateDer::from_pem_slice(own.cert.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tcp = tcp_from(address, stage.running.grpc_addr).await.unwrap();
    let name = ServerName::IpAddress(IpAddr::from([127, 0, 0, 1]).into());
    tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_taken_back_at_once_end_their_connection() {
    let stage = Stage::start(Wanted::default()).await;
    let honest = Honest::begin(&stage).await;
    let mut tls = tls_stream(&stage, HOSTILE).await;
    tls.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    tls.write_all(&frame(4, 0, 0, &[])).await.unwrap();
    // POST https / to "a", as indexed and literal header fields.
    let headers = [0x83, 0x87, 0x84, 0x41, 0x01, b'a'];
    let reset = 8_u32.to_be_bytes();
    let mut burst = Vec::new();
    for n in 0..5_000_u32 {
        burst.extend(frame(1, 0x05, 2 * n + 1, &headers));
        burst.extend(frame(3, 0, 2 * n + 1, &reset));
    }
    let (mut read, mut write) = tokio::io::split(tls);
    let writing = tokio::spawn(async move { write.write_all(&burst).await });
    let mut heard = Vec::new();
    // Until it is closed, orderly or not.
    let _ = tokio::time::timeout(Duration::from_secs(10), read.read_to_end(&mut heard))
        .await
        .expect("its end");
    let _ = writing.await.unwrap();
    assert!(
        goaway(&heard).contains(&11),
        "ENHANCE_YOUR_CALM is among {:?}",
        goaway(&heard)
    );
    honest.unharmed("rapid reset").await;
    stage.running.stop().await.unwrap();
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The error codes of all GOAWAY frames.
fn goaway(mut bytes: &[u8]) -> Vec<u32> {
    let mut codes = Vec::new();
    while bytes.len() >= 9 {
        let length = usize::from(bytes[0]) << 16 | usize::from(bytes[1]) << 8 | usize::from(bytes[2]);
        let Some(payload) = bytes.get(9..9 + length) else {
            break;
        };
        if bytes[3] == 7 {
            codes.push(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
        }
        bytes = &bytes[9 + length..];
    }
    codes
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_floods_waits_and_others_do_not() {
    let stage = Stage::start(Wanted::default()).await;
    let honest = Honest::begin(&stage).await;
    let token = stage.token("node-b");
    let channel = stage.channel_from(HOSTILE).await;

    // More streams of one node than it may have, each as fast as it can, large reports, and receipts that nobody reads.
    let mut floods = Vec::new();
    for n in 0..6 {
        match Agent::open(channel.clone(), "node-b", Some(&token)).await {
            Ok(mut agent) => floods.push(tokio::spawn(async move {
                let mut sent = 0_u32;
                let until = Instant::now() + Duration::from_secs(4);
                while Instant::now() < until {
                    let mut report = agent.report_of("uid-batch", u64::from(sent));
                    report.agent_start_unix_ns = 10 + n;
                    // One of them large ones.
                    let entities = if n == 0 { 2..2_000 } else { 2..2 };
                    report.entities.extend(entities.map(|index| v1::Entity {
                        index,
                        kind: Some(v1::entity::Kind::Pod(v1::Pod {
                            uid: format!("made-up-{index}"),
                        })),
                        born_boot_ns: 0,
                    }));
                    let put = tokio::time::timeout(Duration::from_millis(200), agent.put(report)).await;
                    sent += u32::from(put == Ok(true));
                }
            })),
            Err(status) => assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}"),
        }
    }
    assert_eq!(floods.len(), 4);
    stage.refused_streams("too_many_of_node", 2.0).await;
    let before = taken(&stage).await;
    let began = Instant::now();

    // And questions, as many at once as connections can carry.
    let mut questions = Vec::new();
    for _ in 0..12 {
        let client = QueryServiceClient::new(stage.channel_from(HOSTILE).await);
        for _ in 0..16 {
            let mut client = client.clone();
            questions.push(tokio::spawn(async move {
                let (mut answered, mut refused) = (0, 0);
                for _ in 0..5 {
                    match client.get_snapshot(v1::GetSnapshotRequest::default()).await {
                        Ok(_) => answered += 1,
                        Err(status) => {
                            assert_eq!(status.code(), Code::Unavailable, "{status:?}");
                            refused += 1;
                        }
                    }
                }
                (answered, refused)
            }));
        }
    }
    let (mut answered, mut refused) = (0, 0);
    for question in questions {
        let (a, r) = question.await.unwrap();
        answered += a;
        refused += r;
    }
    for flood in floods {
        flood.await.unwrap();
    }
    let rate = (taken(&stage).await - before) / began.elapsed().as_secs_f64();
    println!("{answered} questions answered, {refused} refused; {rate:.0} reports a second were taken");
    assert!(answered > 0 && refused > 0);
    assert!(rate < 150.0, "{rate} reports a second");
    stage
        .counted("partywall_aggregator_reports_delayed_total", 1.0)
        .await;
    stage.refused_streams("queries_busy", 1.0).await;
    documented(&stage.scrape().await);
    honest.unharmed("floods").await;
    stage.running.stop().await.unwrap();
}

/// Reports that were looked at, whatever came of them.
async fn taken(stage: &Stage) -> f64 {
    let mut sum = 0.0;
    for outcome in ["accepted", "duplicate", "refused"] {
        sum += stage
            .metric(&format!(
                "partywall_aggregator_reports_total{{outcome=\"{outcome}\"}}"
            ))
            .await;
    }
    sum
}

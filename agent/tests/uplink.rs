//! The uplink against a real tonic server on loopback that is slow, refuses, forgets, and is killed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use partywall_agent::link::LinkConfig;
use partywall_agent::uplink::{SpoolConfig, Uplink, UplinkConfig, UplinkStats};
use partywall_proto::v1::entity::Kind;
use partywall_proto::v1::ingest_service_server::{IngestService, IngestServiceServer};
use partywall_proto::v1::{CpuSample, Entity, Outcome, Pod, Receipt, Report};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

/// Long enough for any reconnect but the longest, short enough to notice a hang.
const PATIENCE: Duration = Duration::from_secs(20);
const QUEUE_BYTES: usize = 1024 * 1024;

/// What a server answers to a report; `None`: nothing, ever.
type Answer = Arc<dyn Fn(&Report) -> Option<Receipt> + Send + Sync>;

fn accept(report: &Report) -> Option<Receipt> {
    Some(Receipt {
        sequence: report.sequence,
        outcome: Outcome::Accepted.into(),
        ..Receipt::default()
    })
}

/// What outlives a server: everything received by it and those before it, each stream's reports apart.
#[derive(Clone, Default)]
struct Received(Arc<Mutex<Vec<Vec<Report>>>>);

impl Received {
    fn streams(&self) -> Vec<Vec<Report>> {
        self.0.lock().unwrap().clone()
    }

    fn all(&self) -> Vec<Report> {
        self.streams().concat()
    }

    fn sequences(&self) -> Vec<u64> {
        self.all().iter().map(|report| report.sequence).collect()
    }
}

#[derive(Clone)]
struct Aggregator {
    received: Received,
    answer: Answer,
}

#[tonic::async_trait]
impl IngestService for Aggregator {
    type IngestStream = Pin<Box<dyn Stream<Item = Result<Receipt, Status>> + Send>>;

    async fn ingest(
        &self,
        request: Request<Streaming<Report>>,
    ) -> Result<Response<Self::IngestStream>, Status> {
        let mut reports = request.into_inner();
        let stream = {
            let mut streams = self.received.0.lock().unwrap();
            streams.push(Vec::new());
            streams.len() - 1
        };
        let (receipts, body) = mpsc::channel(1);
        let this = self.clone();
        tokio::spawn(async move {
            while let Some(Ok(report)) = reports.next().await {
                let receipt = (this.answer)(&report);
                this.received.0.lock().unwrap()[stream].push(report);
                if let Some(receipt) = receipt
                    && receipts.send(Ok(receipt)).await.is_err()
                {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(body))))
    }
}

/// A server with a runtime of its own: dropping it is a kill, sockets and all.
struct Server {
    address: SocketAddr,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Server {
    fn start(address: SocketAddr, received: &Received, answer: Answer) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let _inside = runtime.enter();
        let socket =
            std::net::TcpListener::bind(address).unwrap_or_else(|error| panic!("{address}: {error}"));
        socket.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(socket).unwrap();
        let address = listener.local_addr().unwrap();
        let service = IngestServiceServer::new(Aggregator {
            received: received.clone(),
            answer,
        });
        let server = tonic::transport::Server::builder().add_service(service);
        runtime.spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        drop(_inside);
        Self {
            address,
            runtime: Some(runtime),
        }
    }

    /// Afterwards nobody listens at its address, which is returned.
    fn kill(self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A runtime must not be waited for on another's worker.
        if let Some(runtime) = self.runtime.take() {
            let ended = std::thread::spawn(move || runtime.shutdown_timeout(PATIENCE)).join();
            ended.expect("the server's runtime ends");
        }
    }
}

fn anywhere() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn uplink(address: SocketAddr, queue_bytes: usize) -> Uplink {
    Uplink::new(UplinkConfig {
        link: LinkConfig::plaintext(format!("http://{address}")),
        queue_bytes,
        spool: None,
    })
    .unwrap()
}

fn pod(index: u32) -> Entity {
    let uid = format!("{index:08x}-0000-4000-8000-000000000000");
    Entity {
        index,
        kind: Some(Kind::Pod(Pod { uid })),
        ..Entity::default()
    }
}

fn report(sequence: u64) -> Report {
    Report {
        node: "node-a".to_owned(),
        boot_id: "d6b1c9c2-2a59-4b64-a5f2-8a8f7a3f4b3e".to_owned(),
        agent_start_unix_ns: 1,
        sequence,
        // Short, so that its pace holds up no test.
        interval_ns: 10_000_000,
        cpu: vec![CpuSample {
            entity: 1,
            run_ns: sequence,
            ..CpuSample::default()
        }],
        ..Report::default()
    }
}

fn padded(sequence: u64, samples: u32) -> Report {
    let cpu = (0..samples).map(|entity| CpuSample {
        entity,
        run_ns: sequence << 40,
        ..CpuSample::default()
    });
    Report {
        cpu: cpu.collect(),
        ..report(sequence)
    }
}

async fn until(uplink: &Uplink, what: &str, holds: impl Fn(&UplinkStats) -> bool) -> UplinkStats {
    let begun = Instant::now();
    loop {
        let stats = uplink.stats();
        if holds(&stats) {
            return stats;
        }
        assert!(
            begun.elapsed() < PATIENCE,
            "{what}: not within {PATIENCE:?}, {stats:?}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn indices(report: &Report) -> Vec<u32> {
    report.entities.iter().map(|entity| entity.index).collect()
}

#[tokio::test]
async fn every_report_gets_there_in_order_and_is_forgotten_after_its_receipt() {
    let received = Received::default();
    let server = Server::start(anywhere(), &received, Arc::new(accept));
    let uplink = uplink(server.address, QUEUE_BYTES);
    for sequence in 1..=100 {
        uplink.push(report(sequence));
    }
    let stats = until(&uplink, "all acknowledged", |stats| stats.acknowledged == 100).await;
    assert_eq!(received.sequences(), (1..=100).collect::<Vec<_>>());
    assert_eq!(
        (stats.queued_reports, stats.queued_bytes, stats.sent),
        (0, 0, 100)
    );
    assert!(stats.connected);
    assert!(stats.last_receipt_age.is_some_and(|age| age < PATIENCE));
    assert!(stats.losses().iter().all(|loss| loss.count == 0));
    assert_eq!(uplink.drain(Duration::from_secs(5)).await, 0);
}

#[tokio::test]
async fn reports_wait_for_an_aggregator_that_comes_later() {
    let received = Received::default();
    // A port that was free a moment ago: nobody listens there.
    let address = Server::start(anywhere(), &received, Arc::new(accept)).kill();
    let uplink = uplink(address, QUEUE_BYTES);
    for sequence in 1..=20 {
        uplink.push(report(sequence));
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let stats = uplink.stats();
    assert_eq!(
        (stats.connected, stats.queued_reports, stats.sent),
        (false, 20, 0)
    );
    let _server = Server::start(address, &received, Arc::new(accept));
    until(&uplink, "all acknowledged", |stats| stats.acknowledged == 20).await;
    assert_eq!(received.sequences(), (1..=20).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_killed_aggregator_gets_every_report_once_and_in_order() {
    let received = Received::default();
    // Counts across restarts, as an aggregator with a store would: by sequence.
    let counted: Arc<Mutex<Vec<u64>>> = Arc::default();
    // Every fifth receipt of the first server never leaves it.
    let answer = |counted: &Arc<Mutex<Vec<u64>>>, lossy: bool| -> Answer {
        let counted = Arc::clone(counted);
        Arc::new(move |report: &Report| {
            let mut counted = counted.lock().unwrap();
            let outcome = if counted.contains(&report.sequence) {
                Outcome::Duplicate
            } else {
                counted.push(report.sequence);
                Outcome::Accepted
            };
            let receipt = Receipt {
                sequence: report.sequence,
                outcome: outcome.into(),
                ..Receipt::default()
            };
            (!lossy || !report.sequence.is_multiple_of(5)).then_some(receipt)
        })
    };
    let server = Server::start(anywhere(), &received, answer(&counted, true));
    let uplink = uplink(server.address, QUEUE_BYTES);
    let mut first = report(1);
    first.entities = vec![pod(1), pod(2)];
    uplink.push(first);
    for sequence in 2..=30 {
        uplink.push(report(sequence));
    }
    until(&uplink, "the window is full of unanswered reports", |stats| {
        stats.in_flight_reports >= 6
    })
    .await;
    let before = uplink.stats();
    let address = server.kill();
    until(&uplink, "the loss of the stream noticed", |stats| {
        !stats.connected
    })
    .await;
    for sequence in 31..=40 {
        uplink.push(report(sequence));
    }
    let _server = Server::start(address, &received, answer(&counted, false));
    let stats = until(&uplink, "the queue empty", |stats| stats.queued_reports == 0).await;

    assert_eq!(
        *counted.lock().unwrap(),
        (1..=40).collect::<Vec<_>>(),
        "each once, in order"
    );
    assert_eq!(stats.acknowledged + stats.duplicate, 40);
    assert!(
        stats.duplicate >= 1,
        "what was counted but not answered was sent again: {stats:?}"
    );
    assert!(before.sent < stats.sent && stats.reconnects >= 1, "{stats:?}");
    for stream in received.streams() {
        assert!(stream.is_sorted_by_key(|report| report.sequence));
        assert_eq!(indices(&stream[0]), [1, 2], "each stream begins with all names");
        assert!(stream[1..].iter().all(|report| report.entities.is_empty()));
    }
}

#[tokio::test]
async fn an_aggregator_that_stalls_holds_no_more_than_the_window() {
    let received = Received::default();
    let server = Server::start(anywhere(), &received, Arc::new(|_: &Report| None));
    let uplink = uplink(server.address, QUEUE_BYTES);
    for sequence in 1..=50 {
        uplink.push(report(sequence));
    }
    until(&uplink, "a full window", |stats| stats.in_flight_reports == 8).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(received.sequences(), (1..=8).collect::<Vec<_>>());
    assert_eq!(uplink.stats().queued_reports, 50);
}

#[tokio::test]
async fn the_queue_keeps_its_bound_and_counts_what_it_gives_up() {
    let received = Received::default();
    let address = Server::start(anywhere(), &received, Arc::new(accept)).kill();
    let bound = 64 * 1024;
    let uplink = uplink(address, bound);
    // Some 18 KB each.
    for sequence in 1..=30 {
        uplink.push(padded(sequence, 1_500));
        assert!(uplink.stats().queued_bytes <= bound);
    }
    let stats = uplink.stats();
    let left = stats.queued_reports as u64;
    assert!((2..=4).contains(&left), "{stats:?}");
    assert_eq!(stats.dropped_full, 30 - left);
    let losses = stats.losses();
    let full = losses
        .iter()
        .find(|loss| (loss.stage.as_str(), loss.reason.as_str()) == ("queue", "full"))
        .unwrap();
    assert_eq!((full.unit.as_str(), full.count), ("reports", 30 - left));

    let _server = Server::start(address, &received, Arc::new(accept));
    until(&uplink, "the rest acknowledged", |stats| {
        stats.acknowledged == left
    })
    .await;
    assert_eq!(
        received.sequences(),
        (31 - left..=30).collect::<Vec<_>>(),
        "the oldest went"
    );
}

#[tokio::test]
async fn a_pod_that_came_and_went_during_an_outage_is_still_counted() {
    let received = Received::default();
    let address = Server::start(anywhere(), &received, Arc::new(accept)).kill();
    let uplink = uplink(address, 64 * 1024);
    let mut short_lived = report(1);
    short_lived.entities = vec![pod(77)];
    short_lived.ended = vec![77];
    short_lived.cpu = vec![CpuSample {
        entity: 77,
        run_ns: 123,
        ..CpuSample::default()
    }];
    uplink.push(short_lived);
    for sequence in 2..=1_000 {
        uplink.push(padded(sequence, 20));
    }
    assert!(uplink.stats().dropped_full > 0, "{:?}", uplink.stats());
    let _server = Server::start(address, &received, Arc::new(accept));
    until(&uplink, "all acknowledged", |stats| stats.queued_reports == 0).await;
    let first = &received.all()[0];
    assert!(indices(first).contains(&77));
    assert!(
        first
            .cpu
            .iter()
            .any(|sample| (sample.entity, sample.run_ns) == (77, 123))
    );
    assert!(first.ended.contains(&77));
}

#[tokio::test]
async fn an_oversized_report_is_refused_at_once_and_the_next_one_goes() {
    let received = Received::default();
    let server = Server::start(anywhere(), &received, Arc::new(accept));
    let uplink = uplink(server.address, 64 * 1024 * 1024);
    uplink.push(padded(1, 400_000));
    assert_eq!(
        (uplink.stats().dropped_oversized, uplink.stats().queued_reports),
        (1, 0)
    );
    uplink.push(report(2));
    until(&uplink, "the next acknowledged", |stats| stats.acknowledged == 1).await;
    assert_eq!(received.sequences(), [2]);
    assert!(
        uplink
            .stats()
            .losses()
            .iter()
            .any(|loss| (loss.reason.as_str(), loss.count) == ("oversized", 1))
    );
}

#[tokio::test]
async fn announce_all_makes_the_next_report_name_everything_that_lives() {
    let received = Received::default();
    let answer = |report: &Report| {
        let mut receipt = accept(report)?;
        receipt.announce_all = report.sequence == 3;
        Some(receipt)
    };
    let server = Server::start(anywhere(), &received, Arc::new(answer));
    let uplink = uplink(server.address, QUEUE_BYTES);
    let mut reports = [report(1), report(2), report(3), report(4), report(5)];
    reports[0].entities = vec![pod(1), pod(2), pod(3)];
    reports[1].ended = vec![2];
    reports[3].entities = vec![pod(4)];
    // One at a time, so that the request cannot be overtaken.
    for (at, report) in reports.into_iter().enumerate() {
        uplink.push(report);
        until(&uplink, "acknowledged", |stats| {
            stats.acknowledged == at as u64 + 1
        })
        .await;
    }
    let told: Vec<Vec<u32>> = received.all().iter().map(indices).collect();
    assert_eq!(told, [vec![1, 2, 3], vec![], vec![], vec![1, 3, 4], vec![]]);
}

#[tokio::test]
async fn a_refused_report_is_dropped_and_counted_and_the_others_go_on() {
    let received = Received::default();
    let answer = |report: &Report| {
        let mut receipt = accept(report)?;
        if report.sequence.is_multiple_of(2) {
            receipt.outcome = Outcome::Refused.into();
            receipt.reason = "cpu[0].entity: 1 was never announced\n".to_owned();
        }
        Some(receipt)
    };
    let server = Server::start(anywhere(), &received, Arc::new(answer));
    let uplink = uplink(server.address, QUEUE_BYTES);
    for sequence in 1..=10 {
        uplink.push(report(sequence));
    }
    let stats = until(&uplink, "all answered", |stats| stats.queued_reports == 0).await;
    assert_eq!((stats.acknowledged, stats.refused(), stats.sent), (5, 5, 10));
    assert_eq!(stats.refused_by_reason["cpu[0].entity"], 5);
    assert!(
        stats
            .losses()
            .iter()
            .any(|l| (l.stage.as_str(), l.reason.as_str(), l.count) == ("uplink", "refused", 5))
    );
}

#[tokio::test]
async fn drain_waits_for_the_last_receipt() {
    let received = Received::default();
    #[allow(
        clippy::disallowed_methods,
        reason = "a busy aggregator, on a runtime of its own"
    )]
    let slow = |report: &Report| {
        std::thread::sleep(Duration::from_millis(20));
        accept(report)
    };
    let server = Server::start(anywhere(), &received, Arc::new(slow));
    let uplink = uplink(server.address, QUEUE_BYTES);
    for sequence in 1..=20 {
        uplink.push(report(sequence));
    }
    assert_eq!(uplink.drain(PATIENCE).await, 0);
    let sequences: BTreeSet<u64> = received.sequences().into_iter().collect();
    assert_eq!(sequences.len(), 20);
    assert!(!uplink.stats().connected);
}

#[tokio::test]
async fn drain_gives_up_at_its_deadline_and_says_what_is_left() {
    let received = Received::default();
    let address = Server::start(anywhere(), &received, Arc::new(accept)).kill();
    let uplink = uplink(address, QUEUE_BYTES);
    for sequence in 1..=5 {
        uplink.push(report(sequence));
    }
    let begun = Instant::now();
    assert_eq!(uplink.drain(Duration::from_millis(700)).await, 5);
    let took = begun.elapsed();
    assert!(
        (Duration::from_millis(690)..Duration::from_secs(5)).contains(&took),
        "{took:?}"
    );
}

#[tokio::test]
async fn drain_does_not_sit_out_a_long_back_off() {
    let received = Received::default();
    let address = Server::start(anywhere(), &received, Arc::new(accept)).kill();
    let uplink = uplink(address, QUEUE_BYTES);
    uplink.push(report(1));
    // After 3.5 s of tries the next wait is 2 to 4 s.
    tokio::time::sleep(Duration::from_millis(3_500)).await;
    let _server = Server::start(address, &received, Arc::new(accept));
    let begun = Instant::now();
    assert_eq!(uplink.drain(PATIENCE).await, 0);
    assert!(
        begun.elapsed() < Duration::from_millis(1_500),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn an_uplink_that_is_dropped_lets_go_of_its_stream() {
    let received = Received::default();
    let server = Server::start(anywhere(), &received, Arc::new(accept));
    let uplink = uplink(server.address, QUEUE_BYTES);
    uplink.push(report(1));
    until(&uplink, "acknowledged", |stats| stats.acknowledged == 1).await;
    drop(uplink);
    let begun = Instant::now();
    while connections_to(server.address) > 0 {
        assert!(begun.elapsed() < PATIENCE, "the connection is still open");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Established TCP connections to `address`, from the kernel's table.
fn connections_to(address: SocketAddr) -> usize {
    let table = procfs::net::tcp().unwrap();
    let open = |entry: &&procfs::net::TcpNetEntry| entry.state == procfs::net::TcpState::Established;
    table
        .iter()
        .filter(open)
        .filter(|entry| entry.remote_address == address)
        .count()
}

/// With a spool that takes over at half of 64 KiB.
fn spooled(address: SocketAddr, dir: &Path) -> Uplink {
    Uplink::new(UplinkConfig {
        link: LinkConfig::plaintext(format!("http://{address}")),
        queue_bytes: 64 * 1024,
        spool: Some(SpoolConfig {
            dir: dir.to_owned(),
            bytes: 32 << 20,
        }),
    })
    .unwrap()
}

fn on_disk(stats: &UplinkStats) -> u64 {
    stats.spool.as_ref().map_or(0, |spool| spool.reports)
}

/// Half an hour of reports, one a second, made faster than that.
#[tokio::test]
async fn an_outage_of_half_an_hour_goes_to_disk_and_comes_back_whole_and_in_order() {
    const REPORTS: u64 = 1_800;
    let dir = tempfile::tempdir().unwrap();
    let received = Received::default();
    let address = Server::start(anywhere(), &received, Arc::new(accept)).kill();
    let uplink = spooled(address, dir.path());
    for sequence in 1..=REPORTS {
        let mut report = padded(sequence, 60);
        // Each lives for one report: its name is only on disk.
        report.entities = vec![pod(1_000_000 + sequence as u32)];
        report.ended = vec![1_000_000 + sequence as u32];
        uplink.push(report);
        // As time would, lets the disk keep up.
        if sequence % 8 == 0 {
            until(&uplink, "memory relieved", |stats| stats.queued_bytes < 32 * 1024).await;
        }
    }
    let stats = uplink.stats();
    assert!(on_disk(&stats) > REPORTS * 9 / 10, "{stats:?}");
    let _server = Server::start(address, &received, Arc::new(accept));
    let stats = until(&uplink, "all acknowledged", |stats| stats.acknowledged == REPORTS).await;
    assert_eq!(received.sequences(), (1..=REPORTS).collect::<Vec<_>>());
    let announced = |report: &Report| indices(report).contains(&(1_000_000 + report.sequence as u32));
    assert!(received.all().iter().all(announced), "each with its name");
    assert!(stats.losses().iter().all(|loss| loss.count == 0), "{stats:?}");
    let stats = until(&uplink, "nothing left on disk", |stats| on_disk(stats) == 0).await;
    assert_eq!((stats.queued_reports, stats.spool.unwrap().errors), (0, 0));
    uplink.push(report(REPORTS + 1));
    until(&uplink, "the present goes on", |stats| {
        stats.acknowledged == REPORTS + 1
    })
    .await;
}

#[tokio::test]
async fn what_an_agent_run_could_not_send_is_sent_by_the_next_before_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let received = Received::default();
    let address = Server::start(anywhere(), &received, Arc::new(accept)).kill();
    let of_run = |run, sequence| Report {
        agent_start_unix_ns: run,
        ..report(sequence)
    };
    for run in 1..=3 {
        let uplink = spooled(address, dir.path());
        for sequence in 1..=5 {
            let mut report = of_run(run, sequence);
            if sequence == 1 {
                report.entities = vec![pod(run as u32)];
            }
            uplink.push(report);
        }
        let left = uplink.drain(Duration::from_millis(100)).await;
        assert_eq!(left, 0, "nothing is lost: it is on disk");
    }
    let server = Server::start(address, &received, Arc::new(accept));
    let uplink = spooled(server.address, dir.path());
    uplink.push(of_run(4, 1));
    until(&uplink, "all acknowledged", |stats| stats.acknowledged == 16).await;
    let order: Vec<(u64, u64)> = received
        .all()
        .iter()
        .map(|report| (report.agent_start_unix_ns, report.sequence))
        .collect();
    let expected: Vec<(u64, u64)> = (1..=3)
        .flat_map(|run| (1..=5).map(move |sequence| (run, sequence)))
        .chain([(4, 1)])
        .collect();
    assert_eq!(order, expected);
    let named: Vec<Vec<u32>> = received.all().iter().step_by(5).map(indices).collect();
    assert_eq!(named, [vec![1], vec![2], vec![3], vec![]], "of its own run");
}

#[tokio::test]
async fn reports_of_a_node_by_another_name_are_not_sent_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let received = Received::default();
    let address = Server::start(anywhere(), &received, Arc::new(accept)).kill();
    let renamed = spooled(address, dir.path());
    renamed.push(Report {
        node: "node-b".to_owned(),
        ..report(1)
    });
    assert_eq!(renamed.drain(Duration::from_millis(50)).await, 0);
    let _server = Server::start(address, &received, Arc::new(accept));
    let uplink = spooled(address, dir.path());
    uplink.push(Report {
        agent_start_unix_ns: 2,
        ..report(1)
    });
    let stats = until(&uplink, "acknowledged", |stats| stats.acknowledged == 1).await;
    assert_eq!(stats.spool.unwrap().foreign, 1);
    assert_eq!(received.all()[0].node, "node-a");
}

#[tokio::test]
async fn a_spool_that_cannot_be_used_costs_nothing_but_itself() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a file");
    std::fs::write(&file, "").unwrap();
    let received = Received::default();
    let server = Server::start(anywhere(), &received, Arc::new(accept));
    let uplink = spooled(server.address, &file);
    uplink.push(report(1));
    let stats = until(&uplink, "acknowledged", |stats| stats.acknowledged == 1).await;
    let spool = stats.spool.unwrap();
    assert_eq!((spool.usable, spool.errors), (false, 1));
    assert_eq!(uplink.drain(PATIENCE).await, 0);
}

#[tokio::test]
async fn a_damaged_spool_is_moved_aside_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("spool.redb"), "no database").unwrap();
    let received = Received::default();
    let server = Server::start(anywhere(), &received, Arc::new(accept));
    let uplink = spooled(server.address, dir.path());
    uplink.push(report(1));
    let stats = until(&uplink, "acknowledged", |stats| stats.acknowledged == 1).await;
    let losses = stats.losses();
    let aside = losses
        .iter()
        .find(|loss| loss.reason == "spool_set_aside")
        .unwrap();
    assert_eq!((aside.unit.as_str(), aside.count), ("files", 1));
    assert!(stats.spool.unwrap().usable);
}

#[tokio::test]
async fn a_backlog_is_not_sent_all_at_once() {
    let received = Received::default();
    let address = Server::start(anywhere(), &received, Arc::new(accept)).kill();
    let uplink = uplink(address, QUEUE_BYTES);
    for sequence in 1..=60 {
        uplink.push(Report {
            interval_ns: 1_000_000_000,
            ..report(sequence)
        });
    }
    let _server = Server::start(address, &received, Arc::new(accept));
    let begun = Instant::now();
    // Thirty or so at once, then ten a second.
    until(&uplink, "the first", |stats| stats.acknowledged >= 25).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let after = uplink.stats().acknowledged;
    assert!((26..58).contains(&after), "{after} after {:?}", begun.elapsed());
    // An agent that is about to end does not wait.
    assert_eq!(uplink.drain(Duration::from_secs(2)).await, 0);
}

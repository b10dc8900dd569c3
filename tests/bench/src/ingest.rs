//! What the aggregator takes: the nodes of a large cluster, all of whose pods are busy, over real streams.

use std::{
    fs,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use partywall_proto::v1::{
    CpuSample, Entity, LedgerRow, Outcome, Pod, Report, entity, ingest_service_client::IngestServiceClient,
};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Endpoint};

use crate::{
    figure::{Bounds, Figure},
    measure::Effort,
    processes::Aggregator,
};

const NODES: u32 = 100;
const PODS: u32 = 110;
const TENANTS: u32 = 50;
/// Who ran while a pod waited: pods of other tenants and of its own.
const RUNNERS: u32 = 4;
const MS: u64 = 1_000_000;
const MIB: f64 = 1024.0 * 1024.0;

/// Reports of each node that fill the window before anything is measured.
const WARM_UP: u32 = 12;
/// Reports of each node and round, as fast as they are taken.
const FLAT_OUT: u32 = 20;

pub(crate) fn measure(effort: &Effort) -> Result<Vec<Figure>> {
    eprintln!("the aggregator with {NODES} nodes of {PODS} pods");
    let cluster = tempfile::tempdir().context("cannot make a directory for the cluster's objects")?;
    fs::write(cluster.path().join("pods.yaml"), objects())?;
    let aggregator = Aggregator::start(Some(cluster.path()))?;
    let pods = f64::from(NODES * PODS);
    let empty = aggregator.own_bytes()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;

    let (mut per_sample, mut every_second) = (Vec::new(), Vec::new());
    let mut nodes = Vec::new();
    for node in 0..NODES {
        nodes.push(runtime.block_on(Node::connect(aggregator.grpc, node))?);
    }
    nodes = runtime.block_on(report_all(nodes, WARM_UP, Duration::ZERO))?;
    for round in 0..effort.rounds {
        eprintln!("round {} of {}", round + 1, effort.rounds);
        let before = aggregator.cpu_seconds()?;
        nodes = runtime.block_on(report_all(nodes, FLAT_OUT, Duration::ZERO))?;
        let used = aggregator.cpu_seconds()? - before;
        per_sample.push(used * 1e6 / (pods * f64::from(FLAT_OUT)));
    }
    let seconds = effort.idle.as_secs().clamp(3, 10) as u32;
    for _ in 0..effort.rounds.min(3) {
        let before = aggregator.cpu_seconds()?;
        let began = Instant::now();
        nodes = runtime.block_on(report_all(nodes, seconds, Duration::from_secs(1)))?;
        every_second.push((aggregator.cpu_seconds()? - before) / began.elapsed().as_secs_f64() * 100.0);
    }
    let judge = aggregator.metric("partywall_aggregator_judge_seconds_sum")?
        / aggregator.metric("partywall_aggregator_judge_seconds_count")?;
    let per_pod = (aggregator.own_bytes()? - empty) / pods;
    let wire = nodes
        .first()
        .map_or(0, |node| prost::Message::encoded_len(&node.report));

    let section = "the aggregator, 100 nodes of 110 busy pods";
    Ok(vec![
        // 200,000 and 1,000,000 a second and core.
        Figure::new(
            section,
            "CPU per pod sample, reports flat out",
            "µs",
            &per_sample,
            Bounds::new(5.0, 1.0),
        ),
        Figure::new(
            section,
            "CPU, each node reporting every second",
            "% of a core",
            &every_second,
            Bounds::NONE,
        ),
        Figure::new(section, "one judgement, mean", "ms", &[judge * 1e3], Bounds::NONE),
        Figure::new(
            section,
            "memory per pod known",
            "KiB",
            &[per_pod / 1024.0],
            Bounds::new(8.0, 2.0),
        ),
        Figure::new(
            section,
            "memory in all",
            "MiB",
            &[aggregator.own_bytes()? / MIB],
            Bounds::NONE,
        ),
        Figure::new(
            section,
            "a busy pod's part of a report",
            "bytes",
            &[wire as f64 / f64::from(PODS)],
            Bounds::NONE,
        ),
    ])
}

fn uid(node: u32, pod: u32) -> String {
    format!("{node:08x}-0000-4000-8000-{pod:012x}")
}

/// The pods as the API server would list them.
fn objects() -> String {
    let mut text = String::new();
    for node in 0..NODES {
        for pod in 0..PODS {
            let tenant = pod % TENANTS;
            text += &format!(
                "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: pod-{node}-{pod}, namespace: tenant-{tenant}, uid: {}}}, \
                 spec: {{nodeName: node-{node}, containers: [{{name: c, resources: {{requests: {{cpu: 100m}}}}}}]}}}}\n",
                uid(node, pod)
            );
        }
    }
    text
}

/// What the node's agent tells from: cumulative counters of its pods, and their names.
pub(crate) fn before(node: u32) -> Report {
    let entities = (0..PODS).map(|pod| Entity {
        index: pod,
        kind: Some(entity::Kind::Pod(Pod { uid: uid(node, pod) })),
        born_boot_ns: 1,
    });
    let samples = (0..PODS).map(|pod| CpuSample {
        entity: pod,
        waits: vec![0; 16],
        ..CpuSample::default()
    });
    let rows = (0..PODS).map(|pod| LedgerRow {
        waiter: pod,
        runners: (1..=RUNNERS).map(|step| (pod + step) % PODS).collect(),
        ran_ns: vec![0; RUNNERS as usize],
        ..LedgerRow::default()
    });
    Report {
        node: format!("node-{node}"),
        boot_id: "bench".into(),
        agent_start_unix_ns: 1,
        captured_boot_ns: 1_000 * MS,
        interval_ns: 1_000 * MS,
        online_cpus: 64,
        entities: entities.collect(),
        cpu: samples.collect(),
        ledger: rows.collect(),
        ..Report::default()
    }
}

/// One more second in which every pod ran, waited in every length, and waited for others.
pub(crate) fn second(report: &mut Report) -> Report {
    report.sequence += 1;
    report.captured_boot_ns += 1_000 * MS;
    for sample in &mut report.cpu {
        sample.run_ns += 3 * MS;
        sample.wait_ns += 1_000_000;
        sample.waits.iter_mut().for_each(|n| *n += 3);
    }
    for row in &mut report.ledger {
        row.ran_ns.iter_mut().for_each(|ns| *ns += 200_000);
        row.self_ns += 100_000;
        row.idle_ns += 100_000;
    }
    let next = report.clone();
    report.entities.clear();
    next
}

/// One node's agent: a stream, and the cumulative counters of its pods.
struct Node {
    reports: mpsc::Sender<Report>,
    receipts: Streaming<partywall_proto::v1::Receipt>,
    report: Report,
}

impl Node {
    async fn connect(to: SocketAddr, node: u32) -> Result<Self> {
        let channel = Endpoint::from_shared(format!("http://{to}"))?.connect().await?;
        let (reports, out) = mpsc::channel(4);
        let receipts = IngestServiceClient::new(channel)
            .ingest(ReceiverStream::new(out))
            .await?
            .into_inner();
        Ok(Self {
            reports,
            receipts,
            report: before(node),
        })
    }

    async fn report(mut self, seconds: u32, every: Duration) -> Result<Self> {
        let mut clock = tokio::time::interval(every.max(Duration::from_nanos(1)));
        for _ in 0..seconds {
            if !every.is_zero() {
                clock.tick().await;
            }
            let report = second(&mut self.report);
            self.reports.send(report).await.context("the stream ended")?;
            let receipt = self.receipts.message().await?.context("the stream ended")?;
            ensure!(
                receipt.outcome() == Outcome::Accepted,
                "refused: {}",
                receipt.reason
            );
        }
        Ok(self)
    }
}

async fn report_all(nodes: Vec<Node>, seconds: u32, every: Duration) -> Result<Vec<Node>> {
    let mut tasks = JoinSet::new();
    for node in nodes {
        tasks.spawn(node.report(seconds, every));
    }
    let mut done = Vec::new();
    while let Some(node) = tasks.join_next().await {
        done.push(node??);
    }
    Ok(done)
}

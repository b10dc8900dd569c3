//! How large a cluster one aggregator takes: agents that report once a second each, spread over the second, as real ones do.
//!
//! **A report** has what an agent of a node of 110 pods tells: two of five pods ran since the last one, waited in eight lengths for four others and for
//! themselves; their containers' CPU time; memory of what changed and, every tenth second, of every pod; two flows a pod, of which every fifth
//! moved. The rest is quiet, and quiet pods are not in a report.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use partywall_proto::v1::{
    AgentCost, Container, Coverage, CpuSample, Entity, Feature, Flow, FlowSample, LedgerRow, MemoryEvents,
    MemorySample, Outcome, Pod, Pressure, Reclaim, Report, Role, Traffic, entity::Kind,
    ingest_service_client::IngestServiceClient,
};
use prost::Message as _;
use serde::Serialize;
use tokio::{sync::mpsc, task::JoinSet, time::interval_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

use crate::processes::{Aggregator, self_cpu_seconds};

const MS: u64 = 1_000_000;
const MIB: f64 = 1024.0 * 1024.0;
const TENANTS: u32 = 50;
const RUNNERS: u32 = 4;
const FLOWS: u32 = 2;
/// Connecting and announcing, and a window's length.
const WARM_UP: Duration = Duration::from_secs(20);
const SCRAPE_EVERY: Duration = Duration::from_secs(15);

#[derive(Args)]
pub(crate) struct Scale {
    /// Simulated agents; once for each number
    #[arg(
        long,
        value_name = "N",
        value_delimiter = ',',
        default_value = "50,100,250,500"
    )]
    nodes: Vec<u32>,
    /// Pods of each
    #[arg(long, value_name = "N", default_value_t = 110, value_parser = clap::value_parser!(u32).range(5..=400))]
    pods: u32,
    /// Measured after a warm-up of 20 s
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    seconds: u64,
    /// Only with `--state-dir`, or only without [default: both]
    #[arg(long, value_name = "BOOL")]
    durable: Option<bool>,
    /// Where the state is: a disk, not a memory file system [default: the directory for temporary files]
    #[arg(long, value_name = "DIR")]
    disk: Option<std::path::PathBuf>,
}

/// One number of nodes, measured.
#[derive(Serialize)]
struct Measured {
    nodes: u32,
    pods: u32,
    durable: bool,
    reports: u64,
    lost: u64,
    receipt_p50_ms: f64,
    receipt_p99_ms: f64,
    receipt_max_ms: f64,
    cpu_percent: f64,
    simulator_cpu_percent: f64,
    memory_mib: f64,
    memory_peak_mib: f64,
    report_bytes: f64,
    judge_ms: f64,
    scrape_ms: f64,
    scrape_mib: f64,
    disk_mib_per_second: f64,
    file_mib: f64,
    start_seconds: f64,
}

pub(crate) fn run(args: &Scale) -> Result<serde_json::Value> {
    println!(
        "{:>5} {:>7} {:>7} {:>8} {:>5} {:>21} {:>6} {:>6} {:>11} {:>7} {:>7} {:>13} {:>6} {:>6} {:>6}",
        "nodes",
        "pods",
        "durable",
        "reports",
        "lost",
        "receipt p50/p99/max ms",
        "CPU %",
        "sim %",
        "MiB (peak)",
        "bytes",
        "judge",
        "scrape",
        "disk",
        "file",
        "start"
    );
    let mut all = Vec::new();
    for nodes in &args.nodes {
        for durable in [false, true] {
            if args.durable.is_some_and(|only| only != durable) {
                continue;
            }
            let m = measure(args, *nodes, durable)?;
            println!(
                "{:>5} {:>7} {:>7} {:>8} {:>5} {:>7.1}/{:>6.1}/{:>6.1} {:>6.1} {:>6.1} {:>4.0} ({:>4.0}) {:>7.0} {:>4.1} ms {:>4.0} ms {:>4.1} M {:>6.2} {:>6.1} {:>4.1} s",
                m.nodes,
                m.nodes * m.pods,
                m.durable,
                m.reports,
                m.lost,
                m.receipt_p50_ms,
                m.receipt_p99_ms,
                m.receipt_max_ms,
                m.cpu_percent,
                m.simulator_cpu_percent,
                m.memory_mib,
                m.memory_peak_mib,
                m.report_bytes,
                m.judge_ms,
                m.scrape_ms,
                m.scrape_mib,
                m.disk_mib_per_second,
                m.file_mib,
                m.start_seconds,
            );
            all.push(m);
        }
    }
    Ok(serde_json::to_value(all)?)
}

fn measure(args: &Scale, nodes: u32, durable: bool) -> Result<Measured> {
    let cluster = tempfile::tempdir().context("cannot make a directory for the cluster's objects")?;
    objects(cluster.path(), nodes, args.pods)?;
    let state = match &args.disk {
        Some(dir) => tempfile::tempdir_in(dir),
        None => tempfile::tempdir(),
    };
    let state = state.context("cannot make a directory for the state")?;
    let began = Instant::now();
    let aggregator = Aggregator::start_with(Some(cluster.path()), durable.then(|| state.path()))?;
    let start_seconds = began.elapsed().as_secs_f64();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let figures = Arc::new(Figures::default());
    let pods = args.pods;
    let measured = runtime.block_on(async {
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let mut agents = JoinSet::new();
        for node in 0..nodes {
            let offset = Duration::from_secs(1) * node / nodes;
            let agent = Agent::new(node, nodes, pods);
            agents.spawn(agent.run(aggregator.grpc, offset, stopped.clone(), Arc::clone(&figures)));
        }
        tokio::time::sleep(WARM_UP).await;
        figures.take();
        let (cpu, own) = (aggregator.cpu_seconds()?, self_cpu_seconds()?);
        let written = aggregator.written_bytes()?;
        let judged = judge(&aggregator)?;
        let began = Instant::now();
        let (mut scrapes, mut scraped) = (Vec::new(), 0);
        let mut memory: f64 = 0.0;
        let mut clock = tokio::time::interval(SCRAPE_EVERY);
        while began.elapsed() < Duration::from_secs(args.seconds) {
            clock.tick().await;
            let at = Instant::now();
            scraped = tokio::task::block_in_place(|| aggregator.scrape())?.len();
            scrapes.push(at.elapsed().as_secs_f64() * 1e3);
            memory = memory.max(aggregator.own_bytes()?);
        }
        let seconds = began.elapsed().as_secs_f64();
        let (mut receipts, bytes) = figures.take();
        let cpu = aggregator.cpu_seconds()? - cpu;
        let own = self_cpu_seconds()? - own;
        let written = aggregator.written_bytes()? - written;
        let judged_after = judge(&aggregator)?;
        let _ = stop.send(true);
        let (mut sent, mut accepted) = (0, 0);
        while let Some(agent) = agents.join_next().await {
            let (s, a) = agent??;
            sent += s;
            accepted += a;
        }
        let losses = aggregator.sum_of("partywall_aggregator_losses_total")?;
        receipts.sort_by(f64::total_cmp);
        let quantile = |q: f64| {
            receipts
                .get((receipts.len() as f64 * q) as usize)
                .copied()
                .unwrap_or(f64::NAN)
        };
        scrapes.sort_by(f64::total_cmp);
        anyhow::Ok(Measured {
            nodes,
            pods,
            durable,
            reports: receipts.len() as u64,
            lost: sent - accepted + losses as u64,
            receipt_p50_ms: quantile(0.5),
            receipt_p99_ms: quantile(0.99),
            receipt_max_ms: receipts.last().copied().unwrap_or(f64::NAN),
            cpu_percent: cpu / seconds * 100.0,
            simulator_cpu_percent: own / seconds * 100.0,
            memory_mib: memory / MIB,
            memory_peak_mib: aggregator.peak_bytes()? / MIB,
            report_bytes: bytes as f64 / receipts.len() as f64,
            judge_ms: (judged_after.0 - judged.0) / (judged_after.1 - judged.1) * 1e3,
            scrape_ms: scrapes.get(scrapes.len() / 2).copied().unwrap_or(f64::NAN),
            scrape_mib: scraped as f64 / MIB,
            disk_mib_per_second: written / seconds / MIB,
            file_mib: fs::metadata(state.path().join("state.redb")).map_or(0, |m| m.len()) as f64 / MIB,
            start_seconds,
        })
    })?;
    Ok(measured)
}

fn judge(aggregator: &Aggregator) -> Result<(f64, f64)> {
    let sum = aggregator.metric("partywall_aggregator_judge_seconds_sum")?;
    Ok((
        sum,
        aggregator.metric("partywall_aggregator_judge_seconds_count")?,
    ))
}

/// Receipts' milliseconds and reports' bytes since the last look.
#[derive(Default)]
struct Figures(Mutex<(Vec<f64>, u64)>);

impl Figures {
    fn add(&self, receipt_ms: f64, bytes: usize) {
        let mut figures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        figures.0.push(receipt_ms);
        figures.1 += bytes as u64;
    }

    fn take(&self) -> (Vec<f64>, u64) {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn uid(node: u32, pod: u32) -> String {
    format!("{node:08x}-0000-4000-8000-{pod:012x}")
}

fn address(node: u32, pod: u32) -> [u8; 4] {
    [
        10,
        (node / 256) as u8 + 64,
        (node % 256) as u8,
        (pod % 250) as u8 + 1,
    ]
}

/// The pods as the API server would list them, a file for each 50 nodes.
fn objects(dir: &Path, nodes: u32, pods: u32) -> Result<()> {
    for first in (0..nodes).step_by(50) {
        let mut items = Vec::new();
        for node in first..nodes.min(first + 50) {
            for pod in 0..pods.min(250) {
                let ip = std::net::Ipv4Addr::from(address(node, pod)).to_string();
                items.push(serde_json::json!({
                    "apiVersion": "v1", "kind": "Pod",
                    "metadata": {
                        "name": format!("pod-{node}-{pod}"), "namespace": format!("tenant-{}", pod % TENANTS), "uid": uid(node, pod),
                        "labels": {"app": format!("app-{}", pod % 7), "pod-template-hash": "7d9c5b8f6d"},
                    },
                    "spec": {
                        "nodeName": format!("node-{node}"),
                        "containers": [{"name": "c", "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}}}],
                    },
                    "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]},
                }));
            }
        }
        let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": items});
        fs::write(
            dir.join(format!("pods-{first:04}.json")),
            serde_json::to_vec(&list)?,
        )?;
    }
    Ok(())
}

/// One simulated node's agent.
struct Agent {
    pods: u32,
    second: u32,
    next: Report,
    cpu: Vec<CpuSample>,
    rows: Vec<LedgerRow>,
    memory: Vec<MemorySample>,
    flows: Vec<FlowSample>,
}

impl Agent {
    /// Entities: pods from 0, their containers from `pods`.
    fn new(node: u32, nodes: u32, pods: u32) -> Self {
        let pod_entities = (0..pods).map(|pod| (pod, Kind::Pod(Pod { uid: uid(node, pod) })));
        let containers = (0..pods).map(|pod| {
            let id = format!("{:064x}", u64::from(node) << 32 | u64::from(pod));
            (pods + pod, Kind::Container(Container { pod, id }))
        });
        let entities = pod_entities.chain(containers).map(|(index, kind)| Entity {
            index,
            born_boot_ns: 1,
            kind: Some(kind),
        });
        // Each pod opens to one on the next node, which is told by both ends.
        let flows = (0..pods).flat_map(|pod| {
            let (next, last) = ((node + 1) % nodes, (node + nodes - 1) % nodes);
            let flow = |role: Role, peer: [u8; 4]| Flow {
                index: pod * FLOWS + u32::from(role == Role::Accepted),
                entity: pod,
                local: address(node, pod).to_vec().into(),
                peer: peer.to_vec().into(),
                protocol: 6,
                port: 8_080,
                role: role.into(),
            };
            [
                flow(Role::Opened, address(next, pod)),
                flow(Role::Accepted, address(last, pod)),
            ]
        });
        let feature = |name: &str| Feature {
            name: name.to_owned(),
            present: true,
            reason: String::new(),
        };
        Self {
            pods,
            second: 0,
            next: Report {
                node: format!("node-{node}"),
                boot_id: "5f7c1a52-3b0e-4a59-8a27-0d8b0c8f8f11".into(),
                agent_start_unix_ns: 1,
                captured_boot_ns: 1_000_000 * MS,
                interval_ns: 1_000 * MS,
                online_cpus: 64,
                entities: entities.collect(),
                flows: flows.collect(),
                coverage: Some(Coverage {
                    features: ["switch", "wakeup", "throttle", "memory", "flows", "psi"]
                        .map(feature)
                        .into(),
                    losses: Vec::new(),
                }),
                cost: Some(AgentCost {
                    memory_bytes: 30 << 20,
                    memory_source: "memory.current".into(),
                    ..AgentCost::default()
                }),
                ..Report::default()
            },
            cpu: (0..2 * pods)
                .map(|entity| CpuSample {
                    entity,
                    ..CpuSample::default()
                })
                .collect(),
            rows: (0..pods)
                .map(|waiter| LedgerRow {
                    waiter,
                    runners: (1..=RUNNERS).map(|step| (waiter + step) % pods).collect(),
                    ran_ns: vec![0; RUNNERS as usize],
                    ..LedgerRow::default()
                })
                .collect(),
            memory: (0..pods).map(memory).collect(),
            flows: (0..pods * FLOWS)
                .map(|flow| FlowSample {
                    flow,
                    traffic: Some(Traffic {
                        opened: u64::from(flow % FLOWS == 0),
                        established: 1,
                        ..Traffic::default()
                    }),
                })
                .collect(),
        }
    }

    fn second(&mut self) -> Report {
        self.second += 1;
        let mut report = self.next.clone();
        self.next.entities.clear();
        self.next.flows.clear();
        report.sequence = self.second.into();
        report.captured_boot_ns += u64::from(self.second) * 1_000 * MS;
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        report.captured_unix_ns = now.as_nanos() as u64;
        let first = self.second == 1;
        for pod in 0..self.pods {
            let at = pod as usize;
            let busy =
                first || (pod + self.second / 10).is_multiple_of(5) || (pod + self.second / 10) % 5 == 1;
            if busy {
                let row = &mut self.rows[at];
                row.ran_ns.iter_mut().for_each(|ns| *ns += 211_003);
                row.self_ns += 100_007;
                row.idle_ns += 99_991;
                report.ledger.push(row.clone());
                for entity in [at, at + self.pods as usize] {
                    let sample = &mut self.cpu[entity];
                    sample.run_ns += 31 * MS + 17;
                    if entity == at {
                        sample.wait_ns += 4 * 211_003 + 100_007 + 99_991;
                        sample.waits.resize(10, 0);
                        sample.waits[2..].iter_mut().for_each(|n| *n += 3);
                    }
                    report.cpu.push(sample.clone());
                }
            }
            if first || (busy && pod % 3 == 0) || (pod + self.second).is_multiple_of(10) {
                let sample = &mut self.memory[at];
                sample.current_bytes = sample.current_bytes.map(|n| n + 4_096);
                report.memory.push(*sample);
            }
        }
        for sample in &mut self.flows {
            if first || (sample.flow / FLOWS + self.second).is_multiple_of(5) {
                let traffic = sample.traffic.get_or_insert_default();
                traffic.sent_bytes += 12_000;
                traffic.sent_packets += 9;
                traffic.received_bytes += 12_000;
                traffic.received_packets += 9;
                report.flow_samples.push(*sample);
            }
        }
        report.cpu.sort_by_key(|s| s.entity);
        report
    }

    /// Reports sent and accepted.
    async fn run(
        mut self,
        to: SocketAddr,
        offset: Duration,
        mut stopped: tokio::sync::watch::Receiver<bool>,
        figures: Arc<Figures>,
    ) -> Result<(u64, u64)> {
        let mut clock = interval_at(
            tokio::time::Instant::now() + Duration::from_secs(2) + offset,
            Duration::from_secs(1),
        );
        let channel = Endpoint::from_shared(format!("http://{to}"))?.connect().await?;
        let (reports, out) = mpsc::channel(4);
        let mut receipts = IngestServiceClient::new(channel)
            .ingest(ReceiverStream::new(out))
            .await?
            .into_inner();
        let (mut sent, mut accepted) = (0, 0);
        loop {
            tokio::select! {
                _ = clock.tick() => {}
                _ = stopped.changed() => return Ok((sent, accepted)),
            }
            let report = self.second();
            let bytes = report.encoded_len();
            let at = Instant::now();
            reports.send(report).await.context("the stream ended")?;
            sent += 1;
            let receipt = receipts.message().await?.context("the stream ended")?;
            ensure!(
                receipt.outcome() == Outcome::Accepted,
                "refused: {}",
                receipt.reason
            );
            accepted += 1;
            figures.add(at.elapsed().as_secs_f64() * 1e3, bytes);
        }
    }
}

fn memory(entity: u32) -> MemorySample {
    let pressure = Pressure {
        some_us: 1_000,
        full_us: Some(500),
    };
    MemorySample {
        entity,
        current_bytes: Some(100 << 20),
        working_set_bytes: Some(80 << 20),
        limit_bytes: Some(256 << 20),
        events: Some(MemoryEvents::default()),
        major_faults: Some(12),
        refaults: Some(3),
        cpu_pressure: Some(pressure),
        memory_pressure: Some(pressure),
        io_pressure: Some(pressure),
        limit_reclaim: Some(Reclaim::default()),
        node_reclaim: Some(Reclaim::default()),
    }
}

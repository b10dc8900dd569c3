//! A real aggregator, agents that report what they are told, and clients that ask.
#![allow(dead_code, reason = "shared by the test files, each uses its part")]

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use partywall_aggregator::config::{Config, NamedSource};
use partywall_aggregator::{Running, start};
use partywall_proto::v1;
use partywall_proto::v1::ingest_service_client::IngestServiceClient;
use partywall_proto::v1::query_service_client::QueryServiceClient;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

pub(crate) const MS: u64 = 1_000_000;

pub(crate) async fn running(dir: &Path, policy: Option<&str>) -> Running {
    let policy = policy.map(|text| {
        let path = dir.join("policy.yaml");
        std::fs::write(&path, text).unwrap();
        path
    });
    let cluster = dir.join("cluster");
    std::fs::create_dir_all(&cluster).unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = Config {
        grpc_listen: any,
        http_listen: any,
        insecure_plaintext: true,
        cluster_from: vec![NamedSource {
            cluster: None,
            source: cluster,
        }],
        policy,
        ..Config::default()
    };
    start(config).await.unwrap()
}

pub(crate) fn pod(namespace: &str, name: &str, cpu: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, uid: uid-{namespace}-{name}}}\n\
         spec: {{nodeName: node-a, containers: [{{resources: {{requests: {{cpu: {cpu}}}}}}}]}}\n"
    )
}

/// An agent: a stream that reports what it is told, 100 ms of the node's time after another.
pub(crate) struct Agent {
    pub(crate) reports: mpsc::Sender<v1::Report>,
    pub(crate) receipts: Streaming<v1::Receipt>,
    pub(crate) next: v1::Report,
    counters: Vec<(v1::CpuSample, v1::LedgerRow)>,
}

impl Agent {
    pub(crate) async fn connect(to: &Running, node: &str) -> Self {
        let mut client = IngestServiceClient::new(channel(to).await);
        let (reports, out) = mpsc::channel(16);
        let receipts = client
            .ingest(ReceiverStream::new(out))
            .await
            .unwrap()
            .into_inner();
        let next = v1::Report {
            node: node.into(),
            boot_id: "boot".into(),
            agent_start_unix_ns: 1,
            captured_boot_ns: 1_000_000 * MS,
            online_cpus: 2,
            ..v1::Report::default()
        };
        Self {
            reports,
            receipts,
            next,
            counters: Vec::new(),
        }
    }

    pub(crate) fn pod(&mut self, uid: &str) -> u32 {
        let index = u32::try_from(self.counters.len()).unwrap() + 1;
        let kind = Some(v1::entity::Kind::Pod(v1::Pod { uid: uid.into() }));
        self.next.entities.push(v1::Entity {
            index,
            kind,
            born_boot_ns: 0,
        });
        let sample = v1::CpuSample {
            entity: index,
            ..v1::CpuSample::default()
        };
        let row = v1::LedgerRow {
            waiter: index,
            ..v1::LedgerRow::default()
        };
        self.counters.push((sample, row));
        index
    }

    /// One interval: `ran` (entity, ms), `waited` (waiter, runner, ms).
    pub(crate) fn interval(&mut self, ran: &[(u32, u64)], waited: &[(u32, u32, u64)]) -> v1::Report {
        for (entity, ms) in ran {
            self.counters[*entity as usize - 1].0.run_ns += ms * MS;
        }
        for (waiter, runner, ms) in waited {
            let (sample, row) = &mut self.counters[*waiter as usize - 1];
            sample.wait_ns += ms * MS;
            match row.runners.iter().position(|r| r == runner) {
                Some(at) => row.ran_ns[at] += ms * MS,
                None => {
                    row.runners.push(*runner);
                    row.ran_ns.push(ms * MS);
                }
            }
        }
        self.next.sequence += 1;
        self.next.captured_boot_ns += 1_000 * MS;
        let entities = std::mem::take(&mut self.next.entities);
        let (cpu, ledger) = self.counters.iter().cloned().unzip();
        v1::Report {
            entities,
            cpu,
            ledger,
            ..self.next.clone()
        }
    }

    pub(crate) async fn send(&mut self, report: v1::Report) -> v1::Receipt {
        self.reports.send(report).await.unwrap();
        let receipt = tokio::time::timeout(Duration::from_secs(5), self.receipts.message()).await;
        receipt.expect("a receipt in time").unwrap().expect("a receipt")
    }
}

pub(crate) async fn http(addr: SocketAddr, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(addr).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

pub(crate) async fn channel(to: &Running) -> Channel {
    let address = format!("http://{}", to.grpc_addr);
    Channel::from_shared(address).unwrap().connect().await.unwrap()
}

pub(crate) async fn query(to: &Running) -> QueryServiceClient<Channel> {
    QueryServiceClient::new(channel(to).await)
}

pub(crate) async fn snapshot(to: &Running) -> v1::Snapshot {
    let request = v1::GetSnapshotRequest {
        include_resolved: true,
        ..v1::GetSnapshotRequest::default()
    };
    query(to).await.get_snapshot(request).await.unwrap().into_inner()
}

/// Until `what` is there: files are watched, judging takes a second.
pub(crate) async fn eventually<T>(about: &str, mut what: impl AsyncFnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = what().await {
            return found;
        }
        assert!(began.elapsed() < Duration::from_secs(15), "in vain: {about}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The table of docs/metrics.md has a row for each metric of a scrape, with `cluster` among its labels where it is.
pub(crate) fn documented(scrape: &str) {
    let docs = include_str!("../../../docs/metrics.md");
    for line in scrape.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        let suffix = match kind {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        let row = format!("| `{name}{suffix}` | {kind} | ");
        let found = docs.lines().find_map(|line| line.strip_prefix(&row));
        let labels = found.unwrap_or_else(|| panic!("docs/metrics.md lacks {row}"));
        // Said once above the pods' table.
        let said = name.starts_with("partywall_pod_") || labels.starts_with("cluster");
        let is_there = scrape.contains(&format!("\n{name}{suffix}{{cluster="))
            || scrape.contains(&format!("\n{name}_count{{cluster="));
        assert_eq!(said, is_there, "{row}{labels}");
    }
}

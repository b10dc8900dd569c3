//! A real aggregator on free ports, a node's reports sent to it as an agent would, and the built `partywall` to ask it.
#![allow(dead_code, reason = "shared by the test files, each uses its part")]

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use partywall_aggregator::config::NamedSource;
use partywall_proto::v1;
use partywall_proto::v1::entity::Kind;
use partywall_proto::v1::ingest_service_client::IngestServiceClient;
use partywall_workload::manifest::{Phase, namespace_yaml, pod_yaml};
use partywall_workload::{PodSpec, Resources};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;

const NODE: &str = "node-a";
const SECOND_NS: u64 = 1_000_000_000;

/// An aggregator that knows blue/web, promised 0.5 cores, and red/batch, promised 0.1.
pub(crate) struct Cluster {
    aggregator: Option<partywall_aggregator::Running>,
    config: partywall_aggregator::config::Config,
    pub(crate) grpc: SocketAddr,
    pub(crate) http: SocketAddr,
    blue: PodSpec,
    red: PodSpec,
    _yaml: TempDir,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        Self::with(&[]).await
    }

    /// The same, and beside it clusters of these names with objects of the same names and UIDs.
    pub(crate) async fn with(others: &[&str]) -> Self {
        Self::begin(others, false).await
    }

    /// One that keeps what it saw.
    pub(crate) async fn remembering() -> Self {
        Self::begin(&[], true).await
    }

    async fn begin(others: &[&str], remembers: bool) -> Self {
        let yaml = tempfile::tempdir().expect("a directory");
        let own = yaml.path().join("own");
        std::fs::create_dir(&own).expect("a directory");
        let blue = tenant(&own, "blue", "web", 0.5);
        let red = tenant(&own, "red", "batch", 0.1);
        let mut cluster_from = vec![NamedSource {
            cluster: None,
            source: own.clone(),
        }];
        for name in others {
            let source = yaml.path().join(name);
            std::fs::create_dir(&source).expect("a directory");
            for file in ["blue.yaml", "red.yaml"] {
                std::fs::copy(own.join(file), source.join(file)).expect("a copy");
            }
            cluster_from.push(NamedSource {
                cluster: Some((*name).to_owned()),
                source,
            });
        }
        let state_dir = yaml.path().join("state");
        std::fs::create_dir(&state_dir).expect("a directory");
        let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        let config = partywall_aggregator::config::Config {
            grpc_listen: any,
            http_listen: any,
            insecure_plaintext: true,
            cluster_from,
            state_dir: remembers.then_some(state_dir),
            ..partywall_aggregator::config::Config::default()
        };
        let aggregator = partywall_aggregator::start(config.clone())
            .await
            .expect("an aggregator");
        let (grpc, http) = (aggregator.grpc_addr, aggregator.http_addr);
        Self {
            aggregator: Some(aggregator),
            config,
            grpc,
            http,
            blue,
            red,
            _yaml: yaml,
        }
    }

    pub(crate) async fn stop(&mut self) {
        self.aggregator
            .take()
            .expect("still running")
            .stop()
            .await
            .expect("a clean end");
    }

    /// Another aggregator in its place, on other ports, with what the one before kept.
    pub(crate) async fn restart(&mut self) {
        self.stop().await;
        self.start_again().await;
    }

    /// One that begins with the trail that `fill` leaves in its directory.
    pub(crate) async fn with_past(fill: impl FnOnce(&Path)) -> Self {
        let mut cluster = Self::remembering().await;
        cluster.stop().await;
        fill(cluster.config.state_dir.as_deref().expect("one that remembers"));
        cluster.start_again().await;
        cluster
    }

    async fn start_again(&mut self) {
        let again = partywall_aggregator::start(self.config.clone())
            .await
            .expect("an aggregator");
        (self.grpc, self.http) = (again.grpc_addr, again.http_addr);
        self.aggregator = Some(again);
    }

    /// Reports, once a second until aborted: blue ran 0.2 cores and waited 0.3 while red ran, red ran 1.5.
    pub(crate) async fn report(&self) -> JoinHandle<()> {
        self.report_of("").await
    }

    /// The same of one of the other clusters.
    pub(crate) async fn report_of(&self, cluster: &str) -> JoinHandle<()> {
        let cluster = cluster.to_owned();
        let pod = |index, spec: &PodSpec| v1::Entity {
            index,
            kind: Some(Kind::Pod(v1::Pod {
                uid: spec.uid.clone(),
            })),
            born_boot_ns: 0,
        };
        let entities = vec![pod(1, &self.blue), pod(2, &self.red)];
        let started_unix_ns = unix_ns();
        let reports = futures::stream::unfold(0_u64, move |done| {
            let entities = entities.clone();
            let cluster = cluster.clone();
            async move {
                if done > 0 {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                let entities = if done == 0 { entities } else { Vec::new() };
                let report = v1::Report {
                    cluster,
                    ..report(started_unix_ns, done, entities)
                };
                Some((report, done + 1))
            }
        });
        let channel =
            tonic::transport::Endpoint::from_shared(format!("http://{}", self.grpc)).expect("an address");
        let mut ingest = IngestServiceClient::new(channel.connect().await.expect("a connection"));
        tokio::spawn(async move {
            let mut receipts = ingest.ingest(reports).await.expect("a stream").into_inner();
            while let Some(receipt) = receipts.next().await {
                let Ok(receipt) = receipt else { return }; // the aggregator was stopped
                assert_eq!(receipt.outcome(), v1::Outcome::Accepted, "{receipt:?}");
            }
        })
    }

    /// Runs `partywall` against this cluster until it ends.
    pub(crate) async fn ask(&self, arguments: &[&str]) -> Output {
        let mut command = partywall(arguments);
        command.env("PARTYWALL_AGGREGATOR", format!("http://{}", self.grpc));
        tokio::task::spawn_blocking(move || command.output().expect("an output"))
            .await
            .expect("no panic")
    }
}

/// Writes the YAML of one tenant with one pod.
fn tenant(directory: &Path, name: &str, pod: &str, promised_cores: f64) -> PodSpec {
    let mut spec = PodSpec::new(name, pod);
    spec.requests = Resources {
        cpu_cores: Some(promised_cores),
        memory_bytes: None,
    };
    let documents = [
        namespace_yaml(name, &std::collections::BTreeMap::new()).expect("YAML"),
        pod_yaml(&spec, NODE, Phase::Running).expect("YAML"),
    ];
    std::fs::write(directory.join(format!("{name}.yaml")), documents.join("---\n")).expect("a file");
    spec
}

/// The report that closes second `done` of an agent's run.
fn report(started_unix_ns: u64, done: u64, entities: Vec<v1::Entity>) -> v1::Report {
    let cores = |share: f64| (share * (done * SECOND_NS) as f64) as u64;
    v1::Report {
        node: NODE.into(),
        boot_id: "6f0e8c52-5a3f-4a53-9f0e-0d5b6f1c2a3b".into(),
        agent_start_unix_ns: started_unix_ns,
        sequence: done + 1,
        captured_unix_ns: unix_ns(),
        waited_ns: Some(0),
        captured_boot_ns: 1_000 * SECOND_NS + done * SECOND_NS,
        interval_ns: if done == 0 { 0 } else { SECOND_NS },
        online_cpus: 2,
        entities,
        cpu: vec![
            v1::CpuSample {
                entity: 1,
                run_ns: cores(0.2),
                wait_ns: cores(0.3),
                waits: vec![0, 0, 0, 100 * done],
            },
            v1::CpuSample {
                entity: 2,
                run_ns: cores(1.5),
                wait_ns: 0,
                waits: vec![],
            },
        ],
        ledger: vec![v1::LedgerRow {
            waiter: 1,
            runners: vec![2],
            ran_ns: vec![cores(0.3)],
            ..Default::default()
        }],
        coverage: Some(v1::Coverage {
            features: vec![v1::Feature {
                name: "ledger".into(),
                present: true,
                reason: String::new(),
            }],
            losses: vec![],
        }),
        cost: Some(v1::AgentCost {
            cpu_ns: cores(0.002),
            memory_bytes: 20 << 20,
            memory_source: "rss".into(),
            map_bytes: 9 << 20,
            programs: vec![],
        }),
        ..v1::Report::default()
    }
}

fn unix_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    u64::try_from(now.as_nanos()).expect("before 2554")
}

/// The built program, with nothing of this test's environment that would change what it says.
pub(crate) fn partywall(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_partywall"));
    command
        .args(arguments)
        .stdin(Stdio::null())
        .env_remove("PARTYWALL_AGGREGATOR")
        .env_remove("PARTYWALL_TLS_CA")
        .env_remove("PARTYWALL_TLS_CERT")
        .env_remove("PARTYWALL_TLS_KEY")
        .env_remove("NO_COLOR");
    command
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

/// What it said on stderr: exactly one line.
pub(crate) fn complaint(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).expect("UTF-8");
    assert_eq!(text.lines().count(), 1, "one line was wanted: {text:?}");
    text
}

pub(crate) fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error} in {}", String::from_utf8_lossy(&output.stdout)))
}

//! What the tests of links share: an authority, an aggregator with TLS and tokens, agents good and bad.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "shared by the test files, each uses its part"
)]

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use partywall_aggregator::auth::Expected;
use partywall_aggregator::config::{Config, NamedSource};
use partywall_aggregator::identify::api::Target;
use partywall_aggregator::link::tls::Files;
use partywall_aggregator::{Running, start};
use partywall_apiserver::{Server, Token};
use partywall_proto::v1;
use partywall_proto::v1::ingest_service_client::IngestServiceClient;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status, Streaming};

pub const SECOND_NS: u64 = 1_000_000_000;
pub const AUDIENCE: &str = "partywall";
const ACCOUNT: (&str, &str) = ("partywall", "partywall-agent");

/// Signs certificates.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

/// A certificate and its key, PEM.
#[derive(Clone)]
pub struct Pair {
    pub cert: String,
    pub key: String,
}

impl Ca {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        Self { issuer, pem }
    }

    /// Good for an hour from an hour ago, for 127.0.0.1 and localhost.
    pub fn issue(&self) -> Pair {
        self.issue_until(3_600)
    }

    /// Good for so many seconds from now; below zero: not any more.
    pub fn issue_until(&self, seconds: i64) -> Pair {
        let mut params =
            CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        let hour = Duration::from_secs(3_600);
        params.not_before = epoch + (now - hour);
        params.not_after = match u64::try_from(seconds) {
            Ok(ahead) => epoch + (now + Duration::from_secs(ahead)),
            Err(_) => epoch + (now - Duration::from_secs(seconds.unsigned_abs())),
        };
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap().pem();
        let key = key.serialize_pem();
        Pair { cert, key }
    }
}

/// Writes the three files as the kubelet does: a link to a directory that is replaced.
pub fn publish(dir: &Path, pair: &Pair, client_ca: &str) -> Files {
    let generation = format!(
        "..{}",
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()
    );
    let fresh = dir.join(&generation);
    std::fs::create_dir_all(&fresh).unwrap();
    for (name, text) in [
        ("tls.crt", &*pair.cert),
        ("tls.key", &*pair.key),
        ("ca.crt", client_ca),
    ] {
        std::fs::write(fresh.join(name), text).unwrap();
        let link = dir.join(name);
        if !link.is_symlink() {
            std::os::unix::fs::symlink(format!("..data/{name}"), link).unwrap();
        }
    }
    let link = dir.join("..data_tmp");
    std::os::unix::fs::symlink(generation, &link).unwrap();
    std::fs::rename(link, dir.join("..data")).unwrap();
    Files {
        cert: dir.join("tls.crt"),
        key: dir.join("tls.key"),
        client_ca: dir.join("ca.crt"),
    }
}

/// An aggregator on free ports, its authority, and the API of its cluster.
pub struct Stage {
    pub ca: Ca,
    pub api: Server,
    pub running: Running,
    pub dir: tempfile::TempDir,
}

pub struct Wanted {
    pub tokens: bool,
    pub stream_life: Duration,
    /// The aggregator's own certificate; `None`: a good one.
    pub own: Option<fn(&Ca) -> Pair>,
}

impl Default for Wanted {
    fn default() -> Self {
        Self {
            tokens: true,
            stream_life: Duration::from_secs(900),
            own: None,
        }
    }
}

impl Stage {
    pub async fn start(wanted: Wanted) -> Self {
        let ca = Ca::new("authority");
        let dir = tempfile::tempdir().unwrap();
        let (tls, kubeconfig) = (dir.path().join("tls"), dir.path().join("kubeconfig"));
        let own = wanted.own.map_or_else(|| ca.issue(), |own| own(&ca));
        let files = publish(&tls, &own, &ca.pem);
        let api = Server::on_loopback().await.unwrap();
        api.apply_yaml(&pods()).unwrap();
        std::fs::write(&kubeconfig, api.kubeconfig()).unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let config = Config {
            grpc_listen: any,
            http_listen: any,
            tls: Some(files),
            stream_life: wanted.stream_life,
            agent_tokens: wanted.tokens.then(|| Expected {
                audience: AUDIENCE.into(),
                namespace: ACCOUNT.0.into(),
                name: ACCOUNT.1.into(),
            }),
            kube_api: vec![NamedSource {
                cluster: None,
                source: Target::Kubeconfig {
                    path: kubeconfig,
                    context: None,
                },
            }],
            ..Config::default()
        };
        let running = start(config).await.unwrap();
        ready(running.http_addr).await;
        Self {
            ca,
            api,
            running,
            dir,
        }
    }

    /// A token of the agent on `node`, as API servers from 1.30 on review it.
    pub fn token(&self, node: &str) -> String {
        let text = format!("token-of-{node}");
        self.api.add_token(&text, good_token(Some(node), "uid-agent"));
        text
    }

    pub fn endpoint(&self, pair: Option<&Pair>) -> Endpoint {
        self.endpoint_of(&self.ca, "127.0.0.1", pair)
    }

    pub fn endpoint_of(&self, trusted: &Ca, name: &str, pair: Option<&Pair>) -> Endpoint {
        let mut tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&trusted.pem))
            .domain_name(name);
        if let Some(pair) = pair {
            tls = tls.identity(Identity::from_pem(&pair.cert, &pair.key));
        }
        let url = format!("https://127.0.0.1:{}", self.running.grpc_addr.port());
        Endpoint::from_shared(url).unwrap().tls_config(tls).unwrap()
    }

    /// The same from another address than the others'.
    pub async fn channel_from(&self, address: [u8; 4]) -> Channel {
        let endpoint = self.endpoint(Some(&self.ca.issue()));
        endpoint
            .local_address(Some(address.into()))
            .connect()
            .await
            .unwrap()
    }

    /// A connection of somebody who has a certificate.
    pub async fn channel(&self) -> Channel {
        self.endpoint(Some(&self.ca.issue())).connect().await.unwrap()
    }

    pub async fn agent(&self, node: &str) -> Agent {
        let token = self.token(node);
        Agent::open(self.channel().await, node, Some(&token))
            .await
            .unwrap()
    }

    pub async fn scrape(&self) -> String {
        http(self.running.http_addr, "/metrics").await
    }

    /// The value of a series, 0 where there is none.
    pub async fn metric(&self, series: &str) -> f64 {
        let text = self.scrape().await;
        // One without labels is written as `name{}`.
        let value = |line: &str| {
            let rest = line.strip_prefix(series)?;
            rest.strip_prefix("{}")
                .unwrap_or(rest)
                .strip_prefix(' ')?
                .parse()
                .ok()
        };
        let line = text.lines().find_map(value);
        line.unwrap_or(0.0)
    }

    /// Until a series has at least this value.
    pub async fn counted(&self, series: &str, least: f64) {
        let began = Instant::now();
        while self.metric(series).await < least {
            assert!(
                began.elapsed() < Duration::from_secs(20),
                "{series} stays below {least}\n{}",
                self.scrape().await
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn refused_connections(&self, reason: &str, least: f64) {
        let series = format!("partywall_aggregator_connections_refused_total{{reason=\"{reason}\"}}");
        self.counted(&series, least).await;
    }

    pub async fn refused_streams(&self, reason: &str, least: f64) {
        let series = format!("partywall_aggregator_streams_refused_total{{reason=\"{reason}\"}}");
        self.counted(&series, least).await;
    }
}

pub fn good_token(node: Option<&str>, pod_uid: &str) -> Token {
    Token {
        user: format!("system:serviceaccount:{}:{}", ACCOUNT.0, ACCOUNT.1),
        audiences: vec![AUDIENCE.into()],
        pod: Some(("partywall-agent-x".into(), pod_uid.into())),
        node: node.map(|name| (name.to_owned(), format!("uid-{name}"))),
        ..Token::default()
    }
}

/// Until every kind of object was listed: before, no pod has a name.
async fn ready(http: SocketAddr) {
    let began = Instant::now();
    loop {
        let mut stream = tokio::net::TcpStream::connect(http).await.unwrap();
        let request = b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        if answer.starts_with("HTTP/1.1 200") {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(10), "{answer}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// blue/web on node-a, red/batch on node-b, and the agent of node-old.
fn pods() -> String {
    let pod = |namespace: &str, name: &str, uid: &str, node: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, uid: {uid}}}\n\
             spec: {{nodeName: {node}, containers: [{{resources: {{requests: {{cpu: 500m}}}}}}]}}\n"
        )
    };
    pod("blue", "web", "uid-web", "node-a")
        + &pod("red", "batch", "uid-batch", "node-b")
        + &pod(ACCOUNT.0, "agent", "uid-agent-old", "node-old")
}

/// A stream that reports a second of the node's time after another.
pub struct Agent {
    reports: mpsc::Sender<v1::Report>,
    receipts: Streaming<v1::Receipt>,
    pub next: v1::Report,
}

impl Agent {
    pub async fn open(channel: Channel, node: &str, token: Option<&str>) -> Result<Self, Status> {
        Self::open_with(channel, node, token, &[]).await
    }

    pub async fn open_with(
        channel: Channel,
        node: &str,
        token: Option<&str>,
        metadata: &[(&'static str, &str)],
    ) -> Result<Self, Status> {
        let (reports, out) = mpsc::channel(16);
        let mut request = Request::new(ReceiverStream::new(out));
        if let Some(token) = token {
            let value = format!("Bearer {token}").parse().unwrap();
            request.metadata_mut().insert("authorization", value);
        }
        for (key, value) in metadata {
            request.metadata_mut().insert(*key, value.parse().unwrap());
        }
        let mut client = IngestServiceClient::new(channel).max_encoding_message_size(64 << 20);
        let receipts = client.ingest(request).await?.into_inner();
        let next = v1::Report {
            node: node.into(),
            boot_id: "boot".into(),
            agent_start_unix_ns: unix_ns(),
            captured_boot_ns: 1_000 * SECOND_NS,
            online_cpus: 2,
            ..v1::Report::default()
        };
        Ok(Self {
            reports,
            receipts,
            next,
        })
    }

    /// The next report, empty.
    pub fn report(&mut self) -> v1::Report {
        self.next.sequence += 1;
        self.next.captured_boot_ns += SECOND_NS;
        self.next.captured_unix_ns = unix_ns();
        self.next.clone()
    }

    /// The next report of one pod that ran so long in all.
    pub fn report_of(&mut self, uid: &str, run_ns: u64) -> v1::Report {
        let kind = Some(v1::entity::Kind::Pod(v1::Pod { uid: uid.into() }));
        let is_first = self.next.sequence == 0;
        let mut report = self.report();
        if is_first {
            report.entities.push(v1::Entity {
                index: 1,
                kind,
                born_boot_ns: 0,
            });
        }
        report.cpu.push(v1::CpuSample {
            entity: 1,
            run_ns,
            ..v1::CpuSample::default()
        });
        report
    }

    pub async fn put(&mut self, report: v1::Report) -> bool {
        self.reports.send(report).await.is_ok()
    }

    pub async fn receipt(&mut self) -> Result<Option<v1::Receipt>, Status> {
        let receipt = tokio::time::timeout(Duration::from_secs(20), self.receipts.message()).await;
        receipt.expect("an answer in time")
    }

    pub async fn send(&mut self, report: v1::Report) -> v1::Receipt {
        assert!(self.put(report).await);
        self.receipt().await.unwrap().expect("a receipt")
    }

    pub async fn accepted(&mut self) {
        let report = self.report();
        let receipt = self.send(report).await;
        assert_eq!(receipt.outcome(), v1::Outcome::Accepted, "{receipt:?}");
    }
}

pub fn unix_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(now.as_nanos()).unwrap()
}

pub async fn http(addr: SocketAddr, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(addr).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

/// The table of docs/metrics.md has a row for each metric of a scrape.
pub fn documented(scrape: &str) {
    let docs = include_str!("../../../docs/metrics.md");
    for line in scrape.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        let suffix = match kind {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        let row = format!("| `{name}{suffix}` | {kind} |");
        assert!(docs.contains(&row), "docs/metrics.md lacks {row}");
    }
}

/// Samples of how long something took.
#[derive(Default)]
pub struct Took(pub Vec<Duration>);

impl Took {
    /// The worst of so many per cent.
    pub fn percentile(&mut self, percent: usize) -> Duration {
        self.0.sort_unstable();
        self.0[(self.0.len() * percent / 100).min(self.0.len() - 1)]
    }
}

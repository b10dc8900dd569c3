//! A real aggregator that tells real HTTP servers of a breach: some that take it, some that do not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod peers;
mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use partywall_aggregator::config::{Config, NamedSource};
use partywall_aggregator::sinks::push::PushArgs;
use partywall_aggregator::{Running, start};
use peers::Ca;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use support::{Agent, documented, eventually, http, pod};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// A server that takes what it is sent, after it has answered 503 so many times.
#[derive(Clone, Default)]
struct Taker {
    bodies: Arc<Mutex<Vec<Value>>>,
    busy: Arc<Mutex<u32>>,
    tried: Arc<Mutex<u32>>,
}

impl Taker {
    async fn serve(busy: u32) -> (Self, SocketAddr) {
        let taker = Self {
            busy: Arc::new(Mutex::new(busy)),
            ..Self::default()
        };
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new()
            .route("/hook", post(Self::take))
            .route("/am/api/v2/alerts", post(Self::take))
            .with_state(taker.clone());
        tokio::spawn(axum::serve(listener, router).into_future());
        (taker, address)
    }

    async fn take(State(taker): State<Self>, headers: HeaderMap, body: String) -> StatusCode {
        assert_eq!(headers["content-type"], "application/json");
        *taker.tried.lock().unwrap() += 1;
        let mut busy = taker.busy.lock().unwrap();
        if *busy > 0 {
            *busy -= 1;
            return StatusCode::SERVICE_UNAVAILABLE;
        }
        taker
            .bodies
            .lock()
            .unwrap()
            .push(serde_json::from_str(&body).unwrap());
        StatusCode::OK
    }

    fn bodies(&self) -> Vec<Value> {
        self.bodies.lock().unwrap().clone()
    }

    /// What an Alertmanager was told, without the greetings.
    fn alerts(&self) -> Vec<Value> {
        let bodies = self.bodies();
        bodies
            .iter()
            .flat_map(|body| body.as_array().cloned().unwrap_or_default())
            .collect()
    }
}

async fn telling(dir: &Path, push: PushArgs, policy: &str) -> Running {
    let cluster = dir.join("cluster");
    std::fs::create_dir_all(&cluster).unwrap();
    std::fs::write(
        cluster.join("all.yaml"),
        pod("blue", "web", "500m") + &pod("red", "batch", "100m"),
    )
    .unwrap();
    std::fs::write(dir.join("policy.yaml"), policy).unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = Config {
        grpc_listen: any,
        http_listen: any,
        insecure_plaintext: true,
        cluster_from: vec![NamedSource {
            cluster: None,
            source: cluster,
        }],
        policy: Some(dir.join("policy.yaml")),
        push: push.try_into().unwrap(),
        ..Config::default()
    };
    start(config).await.unwrap()
}

/// Red takes CPU from blue until `done`.
async fn noise<T>(running: &Running, about: &str, mut done: impl AsyncFnMut() -> Option<T>) -> T {
    let mut agent = Agent::connect(running, "node-a").await;
    let (web, batch) = (agent.pod("uid-blue-web"), agent.pod("uid-red-batch"));
    eventually(about, async || {
        let report = agent.interval(&[(web, 300), (batch, 1_500)], &[(web, batch, 400)]);
        agent.send(report).await;
        tokio::time::sleep(Duration::from_millis(400)).await;
        done().await
    })
    .await
}

#[tokio::test]
async fn who_is_busy_is_told_later_and_holds_up_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let (busy, busy_at) = Taker::serve(3).await;
    let (ready, ready_at) = Taker::serve(0).await;
    let push = PushArgs {
        alertmanager: vec![format!("http://{ready_at}/am")],
        webhook: vec![
            format!("http://{busy_at}/hook"),
            format!("http://{ready_at}/hook"),
        ],
        ..PushArgs::default()
    };
    let policy = "alerts: {noisy_neighbour: {severity: critical}}\n";
    let running = telling(dir.path(), push, policy).await;
    noise(&running, "all are told", async || {
        (!busy.bodies().is_empty() && !ready.alerts().is_empty()).then_some(())
    })
    .await;
    assert_eq!(*busy.tried.lock().unwrap(), 4, "three times in vain");
    let alert = &ready.alerts()[0];
    assert_eq!(alert["labels"]["alertname"], "TenantNoisyNeighbour");
    assert_eq!(alert["labels"]["severity"], "critical", "as the policy has it");
    let told = &busy.bodies()[0]["breaches"][0];
    assert_eq!(told["status"], "firing");
    assert_eq!(told["firing_at"], alert["startsAt"]);
    assert_eq!(told["labels"], alert["labels"]);

    let scrape = http(running.http_addr, "/metrics").await;
    documented(&scrape);
    let failed = format!(
        "partywall_aggregator_push_requests_total{{sink=\"webhook\",target=\"{busy_at}\",outcome=\"failed\"}} 3"
    );
    assert!(scrape.contains(&failed), "{failed}\n{scrape}");
    running.stop().await.unwrap();
    // Nothing is over because an aggregator is: the next one goes on.
    for taker in [&busy, &ready] {
        for body in taker.bodies() {
            let breaches = body["breaches"].as_array().cloned().unwrap_or_default();
            assert!(breaches.iter().all(|b| b["status"] == "firing"), "{body}");
        }
    }
    let end = |alert: &Value| alert["endsAt"].as_str().unwrap().to_owned();
    let start = |alert: &Value| alert["startsAt"].as_str().unwrap().to_owned();
    assert!(ready.alerts().iter().all(|alert| end(alert) > start(alert)));
}

#[tokio::test]
async fn a_webhook_that_refused_all_is_not_down_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let refuses = Router::new().fallback(async || StatusCode::BAD_REQUEST);
    tokio::spawn(axum::serve(listener, refuses).into_future());
    let push = PushArgs {
        webhook: vec![format!("http://{address}/hook")],
        ..PushArgs::default()
    };
    let running = telling(dir.path(), push, "").await;
    let lost = format!(
        "partywall_aggregator_push_lost_total{{sink=\"webhook\",target=\"{address}\",reason=\"refused\"}} 1"
    );
    let scrape = noise(&running, "it refuses", async || {
        let scrape = http(running.http_addr, "/metrics").await;
        scrape.contains(&lost).then_some(scrape)
    })
    .await;
    assert!(!scrape.contains("partywall_aggregator_push_up{"), "{scrape}");
    running.stop().await.unwrap();
}

#[tokio::test]
async fn what_the_policy_keeps_back_is_not_told() {
    let dir = tempfile::tempdir().unwrap();
    let (taker, address) = Taker::serve(0).await;
    let push = PushArgs {
        alertmanager: vec![format!("http://{address}/am")],
        ..PushArgs::default()
    };
    let policy = "alerts: {noisy_neighbour: {push: false}}\n";
    let running = telling(dir.path(), push, policy).await;
    noise(&running, "it fires", async || {
        let scrape = http(running.http_addr, "/metrics").await;
        scrape
            .contains("kind=\"NoisyNeighbour\",tenant=\"red\",against=\"blue\",state=\"firing\"} 1")
            .then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!taker.bodies().is_empty(), "greeted");
    assert!(taker.alerts().is_empty(), "{:?}", taker.alerts());
    running.stop().await.unwrap();
}

#[tokio::test]
async fn a_token_goes_to_who_shows_the_right_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, stranger) = (Ca::new("corp"), Ca::new("stranger"));
    let heads = Arc::new(Mutex::new([Vec::new(), Vec::new()]));
    let mut addresses = Vec::new();
    for (at, ca) in [&ca, &stranger].into_iter().enumerate() {
        let pair = ca.issue();
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pair.cert.as_bytes()).collect();
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain.unwrap(), key)
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        addresses.push(listener.local_addr().unwrap());
        let heads = Arc::clone(&heads);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    continue;
                };
                let mut request = vec![0; 64 * 1024];
                let length = stream.read(&mut request).await.unwrap_or(0);
                let text = String::from_utf8_lossy(&request[..length]).to_lowercase();
                heads.lock().unwrap()[at].push(text);
                let answer = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        });
    }
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let push = PushArgs {
        alertmanager: addresses.iter().map(|a| format!("https://{a}")).collect(),
        alertmanager_token_file: Some(file("token", "s3cr3t\n")),
        push_ca: Some(file("ca.crt", &ca.pem)),
        ..PushArgs::default()
    };
    let running = telling(dir.path(), push, "").await;
    let up = |address: SocketAddr, value: u8| {
        format!("partywall_aggregator_push_up{{sink=\"alertmanager\",target=\"{address}\"}} {value}")
    };
    eventually("one takes it, the other is not trusted", async || {
        let scrape = http(running.http_addr, "/metrics").await;
        let both = scrape.contains(&up(addresses[0], 1)) && scrape.contains(&up(addresses[1], 0));
        both.then_some(())
    })
    .await;
    let heads = heads.lock().unwrap().clone();
    assert!(
        heads[0][0].contains("authorization: bearer s3cr3t"),
        "{:?}",
        heads[0]
    );
    assert!(heads[1].is_empty(), "{:?}", heads[1]);
    running.stop().await.unwrap();
}

//! The agent's uplink and the aggregator over TLS: both sides' certificates come, break, are replaced and expire, and no report is lost by it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use partywall_agent::link::{LinkConfig, TlsFiles};
use partywall_agent::uplink::{Uplink, UplinkConfig, UplinkStats};
use partywall_aggregator::config::Config;
use partywall_aggregator::link::tls::Files;
use partywall_proto::v1;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// The longest pause between two tries is 15 s; these tests never get so far.
const PATIENCE: Duration = Duration::from_secs(15);

struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Ca {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(vec![]).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        let issuer = Issuer::new(params, key);
        Self { issuer, pem }
    }

    /// Writes `NAME.crt` and `NAME.key`, good for so many seconds more; below zero: not any more.
    fn issue(&self, dir: &Path, name: &str, seconds: i64) {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("an address");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        let day = Duration::from_secs(86_400);
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        params.not_before = epoch + (now - day);
        params.not_after = match u64::try_from(seconds) {
            Ok(ahead) => epoch + (now + Duration::from_secs(ahead)),
            Err(_) => epoch + (now - Duration::from_secs(seconds.unsigned_abs())),
        };
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        std::fs::write(dir.join(format!("{name}.crt")), cert).expect("a file");
        std::fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).expect("a file");
    }
}

async fn aggregator(dir: &Path, at: SocketAddr, stream_life: Duration) -> partywall_aggregator::Running {
    let config = Config {
        grpc_listen: at,
        http_listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        tls: Some(Files {
            cert: dir.join("server.crt"),
            key: dir.join("server.key"),
            client_ca: dir.join("ca.crt"),
        }),
        stream_life,
        ..Config::default()
    };
    partywall_aggregator::start(config).await.expect("an aggregator")
}

fn uplink(dir: &Path, to: SocketAddr) -> Uplink {
    let link = LinkConfig {
        endpoint: format!("https://{to}"),
        cluster: String::new(),
        tls: Some(TlsFiles {
            ca: dir.join("ca.crt"),
            cert: dir.join("agent.crt"),
            key: dir.join("agent.key"),
        }),
        token: None,
    };
    let config = UplinkConfig {
        link,
        queue_bytes: 1 << 20,
        spool: None,
    };
    Uplink::new(config).expect("a URL")
}

fn report(sequence: u64) -> v1::Report {
    v1::Report {
        node: "node-a".into(),
        boot_id: "boot".into(),
        agent_start_unix_ns: 1,
        sequence,
        captured_boot_ns: sequence * 1_000_000_000,
        // Of the present: what is of the past is sent at a bounded pace.
        interval_ns: 1,
        online_cpus: 1,
        ..v1::Report::default()
    }
}

async fn until(uplink: &Uplink, about: &str, wanted: impl Fn(&UplinkStats) -> bool) -> UplinkStats {
    let began = Instant::now();
    loop {
        let stats = uplink.stats();
        if wanted(&stats) {
            return stats;
        }
        assert!(began.elapsed() < PATIENCE, "in vain: {about}: {stats:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn failures(stats: &UplinkStats, reason: &str) -> u64 {
    stats.failures.get(reason).copied().unwrap_or(0)
}

fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

#[tokio::test]
async fn files_that_are_missing_broken_or_expired_are_an_outage_that_ends() {
    let dir = tempfile::tempdir().expect("a directory");
    let ca = Ca::new("authority");
    std::fs::write(dir.path().join("ca.crt"), &ca.pem).expect("a file");
    ca.issue(dir.path(), "server", 3_600);
    let running = aggregator(dir.path(), any_port(), Duration::from_secs(900)).await;
    let uplink = uplink(dir.path(), running.grpc_addr);
    uplink.push(report(1));
    until(&uplink, "no certificate yet", |s| {
        failures(s, "tls_certificate") >= 1
    })
    .await;

    ca.issue(dir.path(), "agent", -60);
    let stats = until(&uplink, "an expired one", |s| s.certificate_to_unix_s.is_some()).await;
    assert_eq!(stats.acknowledged, 0);
    until(&uplink, "it is refused", |s| s.failures.len() >= 2).await;

    Ca::new("stranger").issue(dir.path(), "agent", 3_600);
    until(&uplink, "a stranger's is refused", |s| {
        failures(s, "connect") + failures(s, "connection_lost") >= 2
    })
    .await;

    ca.issue(dir.path(), "agent", 3_600);
    let stats = until(&uplink, "a good one", |s| s.acknowledged == 1).await;
    assert_eq!((stats.queued_reports, stats.dropped_full), (0, 0));
    assert_eq!(uplink.drain(PATIENCE).await, 0);
    running.stop().await.expect("a clean end");
}

#[tokio::test]
async fn streams_that_end_in_time_are_followed_by_the_next_without_a_pause() {
    let dir = tempfile::tempdir().expect("a directory");
    let ca = Ca::new("authority");
    std::fs::write(dir.path().join("ca.crt"), &ca.pem).expect("a file");
    ca.issue(dir.path(), "server", 3_600);
    ca.issue(dir.path(), "agent", 3_600);
    let running = aggregator(dir.path(), any_port(), Duration::from_millis(300)).await;
    let uplink = uplink(dir.path(), running.grpc_addr);
    let mut longest = Duration::ZERO;
    for sequence in 1..=150 {
        uplink.push(report(sequence));
        let began = Instant::now();
        until(&uplink, "its receipt", |s| {
            s.acknowledged + s.duplicate >= sequence
        })
        .await;
        longest = longest.max(began.elapsed());
    }
    let stats = uplink.stats();
    assert!(stats.reconnects >= 3, "{stats:?}");
    assert!(
        stats.failures.is_empty(),
        "an orderly end is no failure: {:?}",
        stats.failures
    );
    // A pause would be an eighth of a second at least.
    println!("the longest wait for a receipt: {longest:?}");
    assert!(longest < Duration::from_millis(500), "{longest:?}");

    // A restart with other certificates, of another authority even: the agent reads its files anew.
    let at = running.grpc_addr;
    running.stop().await.expect("a clean end");
    uplink.push(report(151));
    let next = Ca::new("the next one");
    std::fs::write(dir.path().join("ca.crt"), &next.pem).expect("a file");
    next.issue(dir.path(), "server", 3_600);
    next.issue(dir.path(), "agent", 3_600);
    let running = aggregator(dir.path(), at, Duration::from_secs(900)).await;
    until(&uplink, "the last receipt", |s| {
        s.acknowledged + s.duplicate >= 151
    })
    .await;
    assert_eq!(uplink.stats().dropped_full, 0);
    assert_eq!(uplink.drain(PATIENCE).await, 0);
    running.stop().await.expect("a clean end");
}

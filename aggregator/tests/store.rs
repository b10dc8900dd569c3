//! Totals that survive the process, and a state that cannot be opened. (kill -9 is `partywall-harness restarts`'.)
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
#![allow(clippy::float_cmp, reason = "quarters are exact")]

use std::net::SocketAddr;
use std::path::Path;

use partywall_aggregator::config::{Config, NamedSource};
use partywall_aggregator::{Running, start};
use partywall_proto::v1;
use partywall_proto::v1::ingest_service_client::IngestServiceClient;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const MS: u64 = 1_000_000;

fn config(dir: &Path) -> Config {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let (cluster, state) = (dir.join("cluster"), dir.join("state"));
    std::fs::create_dir_all(&cluster).unwrap();
    std::fs::create_dir_all(&state).unwrap();
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: blue, uid: u-web}, spec: {nodeName: node-a, containers: []}}";
    std::fs::write(cluster.join("pods.yaml"), pod).unwrap();
    Config {
        grpc_listen: any,
        http_listen: any,
        insecure_plaintext: true,
        cluster_from: vec![NamedSource {
            cluster: None,
            source: cluster,
        }],
        state_dir: Some(state),
        ..Config::default()
    }
}

fn report(sequence: u64) -> v1::Report {
    let kind = Some(v1::entity::Kind::Pod(v1::Pod { uid: "u-web".into() }));
    let entity = v1::Entity {
        index: 1,
        kind,
        born_boot_ns: 0,
    };
    v1::Report {
        node: "node-a".into(),
        boot_id: "boot".into(),
        agent_start_unix_ns: 1,
        sequence,
        captured_boot_ns: sequence * 1_000 * MS,
        online_cpus: 2,
        entities: (sequence == 1).then_some(entity).into_iter().collect(),
        cpu: vec![v1::CpuSample {
            entity: 1,
            run_ns: sequence * 250 * MS,
            wait_ns: sequence * MS,
            waits: vec![0, 0, sequence],
        }],
        ledger: vec![v1::LedgerRow {
            waiter: 1,
            self_ns: sequence * MS,
            ..v1::LedgerRow::default()
        }],
        ..v1::Report::default()
    }
}

async fn send(to: &Running, reports: Vec<v1::Report>) -> Vec<v1::Outcome> {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", to.grpc_addr)).unwrap();
    let mut client = IngestServiceClient::new(endpoint.connect().await.unwrap());
    let mut receipts = client
        .ingest(tokio_stream::iter(reports))
        .await
        .unwrap()
        .into_inner();
    let mut outcomes = Vec::new();
    while let Some(receipt) = receipts.message().await.unwrap() {
        outcomes.push(receipt.outcome());
    }
    outcomes
}

async fn scrape(from: &Running) -> String {
    let mut stream = tokio::net::TcpStream::connect(from.http_addr).await.unwrap();
    let request = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

fn value(scrape: &str, series: &str) -> f64 {
    let line = scrape.lines().find_map(|line| line.strip_prefix(series));
    let line = line.map(|value| value.trim_start_matches("{}"));
    line.unwrap_or_else(|| panic!("no {series} in\n{scrape}"))
        .trim()
        .parse()
        .unwrap()
}

const CPU: &str = "partywall_tenant_cpu_seconds_total{cluster=\"default\",tenant=\"blue\",node=\"node-a\"}";

/// Once everything reported is in the totals.
async fn settled(running: &Running) -> f64 {
    tokio::time::sleep(std::time::Duration::from_millis(1_200)).await;
    value(&scrape(running).await, CPU)
}

#[tokio::test(flavor = "multi_thread")]
async fn totals_go_on_where_they_were_and_nothing_counts_twice() {
    use v1::Outcome::{Accepted, Duplicate};
    let dir = tempfile::tempdir().unwrap();
    let running = start(config(dir.path())).await.unwrap();
    let outcomes = send(&running, (1..=40).map(report).collect()).await;
    assert_eq!(outcomes, [Accepted; 40]);
    assert_eq!(
        settled(&running).await,
        39.0 * 0.25,
        "the first closes no interval"
    );
    running.stop().await.unwrap();

    let running = start(config(dir.path())).await.unwrap();
    let before = scrape(&running).await;
    assert_eq!(value(&before, CPU), 39.0 * 0.25);
    assert_eq!(value(&before, "partywall_aggregator_store_restored_nodes"), 1.0);
    assert_eq!(value(&before, "partywall_aggregator_store_durable"), 1.0);
    for what in ["breaches", "hours", "file", "rows"] {
        let lost = format!("partywall_aggregator_trail_lost_total{{what=\"{what}\"}}");
        assert_eq!(value(&before, &lost), 0.0, "there before the first is lost");
    }
    let docs = include_str!("../../docs/metrics.md");
    for line in before
        .lines()
        .filter_map(|l| l.strip_prefix("# TYPE partywall_aggregator_store"))
    {
        let (name, kind) = line.split_once(' ').unwrap();
        let suffix = if kind == "counter" { "_total" } else { "" };
        let row = format!("| `partywall_aggregator_store{name}{suffix}` | {kind} |");
        assert!(docs.contains(&row), "docs/metrics.md lacks {row}");
    }
    // The receipt of the last was lost, one more was lost before it came.
    let outcomes = send(&running, vec![report(40), report(42)]).await;
    assert_eq!(outcomes, [Duplicate, Accepted]);
    assert_eq!(settled(&running).await, 41.0 * 0.25);
    let waits = "partywall_tenant_wait_seconds_count{cluster=\"default\",tenant=\"blue\"}";
    assert_eq!(value(&scrape(&running).await, waits), 41.0);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_another_holds_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(config(dir.path())).await.unwrap();
    let error = format!("{:#}", start(config(dir.path())).await.expect_err("refused"));
    assert!(
        error.contains("--state-dir") && error.contains("state.redb"),
        "{error}"
    );
    assert!(error.contains("another process"), "{error}");
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_makes_no_sense_is_moved_aside() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let file = dir.path().join("state/state.redb");
    std::fs::write(&file, b"no database at all".repeat(1_000)).unwrap();
    let running = start(config.clone()).await.unwrap();
    let left_out = "partywall_aggregator_store_left_out{part=\"file\"}";
    assert_eq!(value(&scrape(&running).await, left_out), 1.0);
    assert!(dir.path().join("state/state.redb.corrupt").is_file());
    send(&running, (1..=9).map(report).collect()).await;
    settled(&running).await;
    running.stop().await.unwrap();

    // A disk that turned bits.
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[4_096..].iter_mut().step_by(97).for_each(|b| *b ^= 0x10);
    std::fs::write(&file, bytes).unwrap();
    let running = start(config).await.unwrap();
    assert_eq!(value(&scrape(&running).await, left_out), 1.0);
    assert!(!scrape(&running).await.contains(CPU), "totals begin anew");
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_moved_away_is_noticed_and_one_that_is_back_too() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(config(dir.path())).await.unwrap();
    let (file, away) = (dir.path().join("state/state.redb"), dir.path().join("away"));
    for (sequence, from, to, durable) in [(1, &file, &away, 0.0), (2, &away, &file, 1.0)] {
        std::fs::rename(from, to).unwrap();
        assert_eq!(
            send(&running, vec![report(sequence)]).await,
            [v1::Outcome::Accepted]
        );
        // It is looked at behind the commit that the receipt waited for.
        let mut told = f64::NAN;
        for _ in 0..50 {
            told = value(&scrape(&running).await, "partywall_aggregator_store_durable");
            if told == durable {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        assert_eq!(told, durable, "after report {sequence}");
    }
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_format_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    start(config.clone()).await.unwrap().stop().await.unwrap();
    let file = dir.path().join("state/state.redb");
    {
        let db = redb::Database::open(&file).unwrap();
        let txn = db.begin_write().unwrap();
        let meta: redb::TableDefinition<'_, &str, u64> = redb::TableDefinition::new("meta");
        txn.open_table(meta).unwrap().insert("version", 2).unwrap();
        txn.commit().unwrap();
    }
    let error = format!("{:#}", start(config).await.expect_err("refused"));
    assert!(
        error.contains("format is 2") && error.contains("format 1"),
        "{error}"
    );
    assert!(file.is_file() && !dir.path().join("state/state.redb.corrupt").exists());
}

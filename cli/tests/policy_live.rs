//! From a flow that two agents report, by way of a real aggregator, to the policy that closes it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[allow(dead_code, reason = "its flows are invented; those here are reported")]
#[path = "support/seen.rs"]
mod seen;

use std::io::Read as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use partywall_aggregator::config::Config;
use partywall_proto::v1;
use partywall_proto::v1::entity::Kind;
use partywall_proto::v1::ingest_service_client::IngestServiceClient;
use seen::{cluster, policy, said, text};
use serde_json::Value;
use tokio_stream::StreamExt as _;

/// Reports are judged twice a second; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the agent of one end says of red/client, which opened a connection to blue/db-0.
fn report(node: &str, uid: &str, role: v1::Role) -> v1::Report {
    let (own, peer) = ([10, 0, 1, 1], [10, 0, 0, 1]);
    let opens = role == v1::Role::Opened;
    let (local, peer) = if opens { (own, peer) } else { (peer, own) };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    let now = u64::try_from(now).unwrap();
    v1::Report {
        node: node.into(),
        boot_id: "6f0e8c52-5a3f-4a53-9f0e-0d5b6f1c2a3b".into(),
        agent_start_unix_ns: now,
        sequence: 1,
        captured_unix_ns: now,
        captured_boot_ns: 1_000_000_000_000,
        online_cpus: 2,
        entities: vec![v1::Entity {
            index: 1,
            kind: Some(Kind::Pod(v1::Pod { uid: uid.into() })),
            born_boot_ns: 0,
        }],
        coverage: Some(v1::Coverage::default()),
        flows: vec![v1::Flow {
            index: 1,
            entity: 1,
            local: local.to_vec().into(),
            peer: peer.to_vec().into(),
            protocol: 6,
            port: 5432,
            role: role.into(),
        }],
        flow_samples: vec![v1::FlowSample {
            flow: 1,
            traffic: Some(v1::Traffic {
                sent_packets: 5,
                sent_bytes: 500,
                received_packets: 5,
                received_bytes: 500,
                opened: u64::from(opens),
                established: 1,
                ..v1::Traffic::default()
            }),
        }],
        ..v1::Report::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reported_flow_is_closed_by_what_is_suggested() {
    let dir = cluster();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let aggregator = partywall_aggregator::start(Config {
        grpc_listen: any,
        http_listen: any,
        insecure_plaintext: true,
        cluster_from: vec![partywall_aggregator::config::NamedSource {
            cluster: None,
            source: dir.path().to_owned(),
        }],
        ..Config::default()
    })
    .await
    .unwrap();
    let address = format!("http://{}", aggregator.grpc_addr);
    for (node, uid, role) in [
        ("node-b", "u-red", v1::Role::Opened),
        ("node-a", "u-db", v1::Role::Accepted),
    ] {
        let channel = tonic::transport::Endpoint::from_shared(address.clone()).unwrap();
        let mut ingest = IngestServiceClient::new(channel.connect().await.unwrap());
        let reports = tokio_stream::once(report(node, uid, role));
        let mut receipts = ingest.ingest(reports).await.unwrap().into_inner();
        let receipt = receipts.next().await.unwrap().unwrap();
        assert_eq!(receipt.outcome(), v1::Outcome::Accepted, "{receipt:?}");
    }

    let arguments = ["--aggregator", &address, "--cluster-from", text(dir.path())];
    let deadline = Instant::now() + PATIENCE;
    let yaml = loop {
        let output = tokio::task::block_in_place(|| policy("suggest", &arguments));
        let yaml = said(&output);
        if yaml.contains("closed: red/client [red] to blue/db-0 [navy], 5432/TCP: 1 connection, 1000 B") {
            break yaml;
        }
        assert!(Instant::now() < deadline, "{yaml}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    assert!(yaml.contains("  name: partywall-db\n"), "{yaml}");

    let changed = tempfile::tempdir().unwrap();
    std::fs::write(changed.path().join("suggested.yaml"), yaml).unwrap();
    let arguments: Vec<&str> = arguments
        .into_iter()
        .chain(["--changed", text(changed.path()), "--json"])
        .collect();
    let output = tokio::task::block_in_place(|| policy("diff", &arguments));
    assert_eq!(output.status.code(), Some(1));
    let diff: Value = serde_json::from_str(&said(&output)).unwrap();
    assert_eq!(
        diff["changes"][0]["by"],
        "ingress: isolated by blue/partywall-db, no rule admits it"
    );
    aggregator.stop().await.unwrap();
}

/// As many flows as the aggregator lists of one verdict.
const LISTED: u16 = 4_096;

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_says_what_the_aggregator_did_not_list() {
    let dir = cluster();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let aggregator = partywall_aggregator::start(Config {
        grpc_listen: any,
        http_listen: any,
        insecure_plaintext: true,
        cluster_from: vec![partywall_aggregator::config::NamedSource {
            cluster: None,
            source: dir.path().to_owned(),
        }],
        ..Config::default()
    })
    .await
    .unwrap();
    let address = format!("http://{}", aggregator.grpc_addr);
    // One more with the outside than are listed, each with more bytes than the one with another tenant.
    let mut report = report("node-b", "u-red", v1::Role::Opened);
    let (flow, mut sample) = (report.flows[0].clone(), report.flow_samples[0]);
    sample.traffic.as_mut().unwrap().sent_bytes = 5_000;
    for index in 2..=u32::from(LISTED) + 2 {
        let [.., high, low] = index.to_be_bytes();
        report.flows.push(v1::Flow {
            index,
            peer: vec![198, 51, high, low].into(),
            ..flow.clone()
        });
        report.flow_samples.push(v1::FlowSample {
            flow: index,
            ..sample
        });
    }
    let channel = tonic::transport::Endpoint::from_shared(address.clone()).unwrap();
    let mut ingest = IngestServiceClient::new(channel.connect().await.unwrap());
    let mut receipts = ingest
        .ingest(tokio_stream::once(report))
        .await
        .unwrap()
        .into_inner();
    let receipt = receipts.next().await.unwrap().unwrap();
    assert_eq!(receipt.outcome(), v1::Outcome::Accepted, "{receipt:?}");

    let saved = dir.path().join("flows.saved");
    let mut watch = Command::new(env!("CARGO_BIN_EXE_partywall"))
        .args(["flows", "--watch", "--json", "--aggregator", &address])
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(&saved).unwrap())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let lines = std::fs::read_to_string(&saved).unwrap();
        let is_open = |line: &str| line.contains("\"db-0\"") && line.contains("\"open\"");
        let is_rest = |line: &str| line.contains("\"flows\":[]") && line.contains("\"left_out\":1}");
        if lines.lines().any(is_open) && lines.lines().any(is_rest) {
            break;
        }
        assert!(Instant::now() < deadline, "{} lines", lines.lines().count());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let interrupt = Command::new("kill")
        .args(["-INT", &watch.id().to_string()])
        .status();
    assert!(interrupt.unwrap().success());
    assert_eq!(watch.wait().unwrap().code(), Some(0));
    let mut said_aside = String::new();
    watch
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said_aside)
        .unwrap();
    assert_eq!(
        said_aside,
        "partywall: not told: 1 more with fewer bytes; narrow it by --from, --to or --verdict\n"
    );

    let yaml = said(&policy("suggest", &["--flows", text(&saved)]));
    assert!(yaml.contains("the aggregator knew 1 more flows"), "{yaml}");
    aggregator.stop().await.unwrap();
}

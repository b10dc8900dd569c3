//! The trail as clients see it. (Outages, kill -9 and the truth are `partywall-harness audit`'s and `trail-kill`'s.)
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
#![allow(
    dead_code,
    unused_imports,
    reason = "shared by the test files, each uses its part"
)]

mod support;

use std::net::SocketAddr;
use std::path::Path;

use partywall_aggregator::config::{Config, NamedSource};
use partywall_aggregator::{Running, start};
use partywall_proto::trail::Verifier;
use partywall_proto::v1;
use partywall_proto::v1::trail_service_client::TrailServiceClient;
use support::{Agent, channel, documented, eventually, http, pod};
use tonic::transport::Channel;

async fn keeping(dir: &Path) -> Running {
    let (cluster, state) = (dir.join("cluster"), dir.join("state"));
    std::fs::create_dir_all(&cluster).unwrap();
    std::fs::create_dir_all(&state).unwrap();
    std::fs::write(
        cluster.join("pods.yaml"),
        pod("blue", "web", "1") + &pod("red", "hog", "100m"),
    )
    .unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = Config {
        grpc_listen: any,
        http_listen: any,
        insecure_plaintext: true,
        cluster_from: vec![NamedSource {
            cluster: None,
            source: cluster,
        }],
        state_dir: Some(state),
        ..Config::default()
    };
    start(config).await.unwrap()
}

async fn client(to: &Running) -> TrailServiceClient<Channel> {
    TrailServiceClient::new(channel(to).await)
}

async fn history(to: &Running, request: v1::GetHistoryRequest) -> Vec<v1::HistoryEntry> {
    let mut stream = client(to).await.get_history(request).await.unwrap().into_inner();
    let mut out = Vec::new();
    while let Some(entry) = stream.message().await.unwrap() {
        out.push(entry);
    }
    out
}

async fn chain(to: &Running) -> Vec<v1::TrailRecord> {
    let request = v1::ReadTrailRequest::default();
    let mut stream = client(to).await.read_trail(request).await.unwrap().into_inner();
    let (mut out, mut verifier) = (Vec::new(), Verifier::default());
    while let Some(record) = stream.message().await.unwrap() {
        verifier.take(&record).unwrap();
        out.push(record);
    }
    verifier.finish().unwrap();
    out
}

/// red/hog makes blue/web wait until that is a breach.
async fn disturb(running: &Running, run: u64) {
    let mut agent = Agent::connect(running, "node-a").await;
    agent.next.agent_start_unix_ns = run;
    let (web, hog) = (agent.pod("uid-blue-web"), agent.pod("uid-red-hog"));
    eventually("a breach in the trail", async || {
        let report = agent.interval(&[(web, 200), (hog, 700)], &[(web, hog, 500)]);
        agent.send(report).await;
        let found = history(running, v1::GetHistoryRequest::default()).await;
        found.iter().any(|e| e.end_unknown.is_empty()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_directory_it_says_which_flag() {
    let dir = tempfile::tempdir().unwrap();
    let running = support::running(dir.path(), None).await;
    let mut client = client(&running).await;
    let status = client.audit(v1::AuditRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::FailedPrecondition);
    assert!(status.message().contains("--state-dir"), "{status}");
    let status = client
        .get_history(v1::GetHistoryRequest::default())
        .await
        .unwrap_err();
    assert_eq!(status.code(), tonic::Code::FailedPrecondition);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn breaches_are_in_the_history_and_in_the_chain_and_survive() {
    let dir = tempfile::tempdir().unwrap();
    let running = keeping(dir.path()).await;
    disturb(&running, 1).await;
    let found = history(&running, v1::GetHistoryRequest::default()).await;
    let breach = found[0].breach.as_ref().unwrap();
    assert_eq!((breach.tenant.as_str(), breach.against.as_str()), ("red", "blue"));
    assert!(!breach.culprits.is_empty(), "with its evidence");
    assert!(found[0].fired_sequence > 1 && found[0].resolved_sequence == 0);
    let scrape = http(running.http_addr, "/metrics").await;
    documented(&scrape);
    let records = chain(&running).await;
    let last = records.last().unwrap();
    let hash: String = last.hash.iter().map(|b| format!("{b:02x}")).collect();
    let head = format!(
        "partywall_aggregator_trail_head{{hash=\"{hash}\"}} {}",
        last.sequence
    );
    assert!(scrape.contains(&head), "{head}");
    // What does not fit.
    let by = |tenant: &str, to_unix_ns| v1::GetHistoryRequest {
        tenant: tenant.into(),
        to_unix_ns,
        ..v1::GetHistoryRequest::default()
    };
    assert_eq!(history(&running, by("blue", 0)).await.len(), found.len());
    assert_eq!(history(&running, by("green", 0)).await.len(), 0);
    assert_eq!(
        history(&running, by("", breach.firing_unix_ns - 1)).await.len(),
        0
    );
    running.stop().await.unwrap();

    let running = keeping(dir.path()).await;
    let after = chain(&running).await;
    assert_eq!(after[..records.len()], records, "nothing is written anew");
    assert_eq!(
        history(&running, v1::GetHistoryRequest::default()).await[0].fired_sequence,
        found[0].fired_sequence
    );
    disturb(&running, 2).await;
    let again = history(&running, v1::GetHistoryRequest::default()).await;
    let of_kind = again
        .iter()
        .filter(|e| e.breach.as_ref().unwrap().kind == breach.kind);
    assert_eq!(of_kind.count(), 1, "it goes on: {again:?}");
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_makes_no_sense_is_refused_and_one_of_no_known_time_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let running = keeping(dir.path()).await;
    let mut client = client(&running).await;
    let ask = |from_unix_ns, to_unix_ns| v1::AuditRequest {
        from_unix_ns,
        to_unix_ns,
        from_tenant: "red".into(),
        to_tenant: "blue".into(),
        ..v1::AuditRequest::default()
    };
    let now = 1_800_000_000_000_000_000;
    for (request, field) in [
        (ask(now, now - 60_000_000_000), "to_unix_ns"),
        (ask(1, now), "from_unix_ns"),
    ] {
        let status = client.audit(request).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert!(status.message().starts_with(field), "{status}");
    }
    let outside = v1::AuditRequest {
        to_tenant: "<outside>".into(),
        ..ask(now - 60_000_000_000, now)
    };
    let status = client.audit(outside).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    assert!(
        status.message().starts_with("to_tenant: \"<outside>\""),
        "{status}"
    );
    // Each of the cluster, then one of nobody.
    for (pair, is_strange) in [
        (["red", "blue"], false),
        (["rde", "blue"], true),
        (["red", "bleu"], true),
    ] {
        let asked = v1::AuditRequest {
            from_tenant: pair[0].into(),
            to_tenant: pair[1].into(),
            ..ask(now - 60_000_000_000, now)
        };
        let answer = client.audit(asked).await.unwrap().into_inner();
        let gaps = &answer.pairs[0].gaps;
        assert_eq!(
            gaps.iter().any(|gap| gap.reason == "no_such_tenant"),
            is_strange,
            "{pair:?}"
        );
    }
    let mut elsewhere = ask(now - 3_600_000_000_000, now);
    elsewhere.cluster = "nowhere".into();
    assert_eq!(
        client.audit(elsewhere).await.unwrap_err().code(),
        tonic::Code::NotFound
    );
    let answer = client
        .audit(ask(now - 3_600_000_000_000, now))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.pairs.len(), 1);
    let pair = &answer.pairs[0];
    assert_eq!(
        (pair.reached(), pair.covered),
        (v1::Reached::Unknown, 0.0),
        "{pair:?}"
    );
    assert_eq!(answer.slot_ns, 10_000_000_000);
    // Of everybody: nothing is known of any pair.
    let all = v1::AuditRequest {
        from_unix_ns: now - 3_600_000_000_000,
        to_unix_ns: now,
        ..v1::AuditRequest::default()
    };
    let answer = client.audit(all).await.unwrap().into_inner();
    assert_eq!((answer.pairs.len(), answer.pairs[0].from.as_str()), (1, ""));
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_tells_the_past_from_the_trail() {
    let dir = tempfile::tempdir().unwrap();
    let running = keeping(dir.path()).await;
    disturb(&running, 1).await;
    let mut quiet = Agent::connect(&running, "node-a").await;
    quiet.next.agent_start_unix_ns = 2;
    let told = eventually("the end of it", async || {
        let report = quiet.interval(&[], &[]);
        quiet.send(report).await;
        let said = http(running.http_addr, "/api/history").await;
        let body = said.split_once("\r\n\r\n").unwrap().1;
        body.contains("\"fingerprint\"").then(|| body.to_owned())
    });
    let told = told.await;
    for needle in [
        "\"source\":\"trail\"",
        "\"kept_seconds\":2592000",
        "\"kind\":\"NoisyNeighbour\"",
        "\"state\":\"resolved\"",
        "\"tenant\":\"red\"",
        "\"stolen_cores\"",
    ] {
        assert!(told.contains(needle), "{needle}: {told}");
    }
    let other = http(running.http_addr, "/api/history?tenant=green").await;
    assert!(other.contains("\"entries\":[]"), "{other}");
    running.stop().await.unwrap();
}

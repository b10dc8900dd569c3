//! Certificates and tokens on real sockets, with a server that reviews tokens as a Kubernetes API server does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod peers;

use std::time::Duration;

use partywall_proto::v1;
use partywall_proto::v1::query_service_client::QueryServiceClient;
use peers::{Agent, Ca, Stage, Wanted, documented, good_token, http, publish};
use tonic::Code;
use tonic::transport::Endpoint;

fn no_tokens() -> Wanted {
    Wanted {
        tokens: false,
        ..Wanted::default()
    }
}

/// Whether an aggregator answers who comes by this way. With TLS 1.3 a client that is refused hears of it only when it reads.
async fn answers(endpoint: &Endpoint) -> bool {
    let Ok(channel) = endpoint.connect().await else {
        return false;
    };
    let mut client = QueryServiceClient::new(channel);
    client
        .get_snapshot(v1::GetSnapshotRequest::default())
        .await
        .is_ok()
}

#[tokio::test]
async fn both_sides_show_certificates_and_each_refusal_is_counted() {
    let stage = Stage::start(no_tokens()).await;
    let stranger = Ca::new("stranger");
    let good = stage.ca.issue();
    assert!(answers(&stage.endpoint(Some(&good))).await);

    assert!(!answers(&stage.endpoint(None)).await);
    stage.refused_connections("no_certificate", 1.0).await;
    assert!(!answers(&stage.endpoint(Some(&stranger.issue()))).await);
    stage.refused_connections("unknown_authority", 1.0).await;
    assert!(!answers(&stage.endpoint(Some(&stage.ca.issue_until(-60)))).await);
    stage.refused_connections("expired_certificate", 1.0).await;
    // The other way round: who does not trust the aggregator, or knows it by another name, says so and goes.
    assert!(!answers(&stage.endpoint_of(&stranger, "127.0.0.1", Some(&good))).await);
    assert!(!answers(&stage.endpoint_of(&stage.ca, "aggregator.example", Some(&good))).await);
    stage.refused_connections("refused_by_peer", 2.0).await;
    let plain = format!("http://{}", stage.running.grpc_addr);
    assert!(!answers(&Endpoint::from_shared(plain).unwrap()).await);
    stage.refused_connections("no_tls", 1.0).await;

    assert!(answers(&stage.endpoint(Some(&good))).await);
    let scrape = stage.scrape().await;
    assert!(
        scrape.contains("partywall_aggregator_certificate_expiry_timestamp_seconds{file=\"tls-cert\"} "),
        "{scrape}"
    );
    documented(&scrape);
    stage.running.stop().await.unwrap();
}

#[tokio::test]
async fn replaced_certificates_are_taken_over_and_broken_ones_are_not() {
    let stage = Stage::start(no_tokens()).await;
    let dir = stage.dir.path().join("tls");
    let old = stage.ca.issue();
    let mut agent = Agent::open(stage.channel().await, "node-a", None).await.unwrap();
    agent.accepted().await;

    // A certificate without its key: what was in force stays, and is said.
    let (one, other) = (stage.ca.issue(), stage.ca.issue());
    let broken = peers::Pair {
        cert: one.cert,
        key: other.key,
    };
    publish(&dir, &broken, &stage.ca.pem);
    stage
        .counted("partywall_aggregator_certificate_load_failures_total", 1.0)
        .await;
    assert!(answers(&stage.endpoint(Some(&old))).await);
    let ready = http(stage.running.http_addr, "/readyz").await;
    assert!(ready.contains("--tls-key"), "{ready}");

    // Another authority for clients: whose certificate is of the old one is not let in any more, but streams go on until they end.
    let next = Ca::new("the next one");
    publish(&dir, &stage.ca.issue(), &next.pem);
    stage
        .counted("partywall_aggregator_certificate_loads_total", 1.0)
        .await;
    assert!(!answers(&stage.endpoint(Some(&old))).await);
    stage.refused_connections("unknown_authority", 1.0).await;
    assert!(answers(&stage.endpoint(Some(&next.issue()))).await);
    agent.accepted().await;
    let ready = http(stage.running.http_addr, "/readyz").await;
    assert!(ready.contains("\"degraded\":[]"), "{ready}");
    stage.running.stop().await.unwrap();
}

#[tokio::test]
async fn an_expired_certificate_is_served_and_said_until_another_is_there() {
    let own = |ca: &Ca| ca.issue_until(-60);
    let stage = Stage::start(Wanted {
        own: Some(own),
        ..no_tokens()
    })
    .await;
    let good = stage.ca.issue();
    assert!(!answers(&stage.endpoint(Some(&good))).await, "clients refuse it");
    let ready = http(stage.running.http_addr, "/readyz").await;
    assert!(
        ready.contains("\"file\":\"tls-cert\",\"reason\":\"the certificate expired "),
        "{ready}"
    );
    publish(&stage.dir.path().join("tls"), &stage.ca.issue(), &stage.ca.pem);
    stage
        .counted("partywall_aggregator_certificate_loads_total", 1.0)
        .await;
    assert!(answers(&stage.endpoint(Some(&good))).await);
    stage.running.stop().await.unwrap();
}

#[tokio::test]
async fn streams_end_in_time_and_every_report_before_has_its_receipt() {
    let stage = Stage::start(Wanted {
        stream_life: Duration::from_millis(500),
        ..Wanted::default()
    })
    .await;
    let mut agent = stage.agent("node-a").await;
    let (mut sent, mut answered) = (0, 0);
    loop {
        let report = agent.report();
        if !agent.put(report).await {
            break;
        }
        sent += 1;
        match agent.receipt().await.unwrap() {
            Some(receipt) => assert_eq!(receipt.outcome(), v1::Outcome::Accepted),
            None => break,
        }
        answered += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(answered > 5 && sent - answered <= 1, "{answered} of {sent}");
    // The next stream takes up where this one ended.
    let mut again = stage.agent("node-a").await;
    again.next = agent.next.clone();
    let last = again.next.clone();
    let outcome = again.send(last).await.outcome();
    assert!(
        matches!(outcome, v1::Outcome::Duplicate | v1::Outcome::Accepted),
        "{outcome:?}"
    );
    again.accepted().await;
    stage.running.stop().await.unwrap();
}

#[tokio::test]
async fn a_token_names_the_node_and_every_other_one_is_refused_by_reason() {
    let stage = Stage::start(Wanted::default()).await;
    stage.agent("node-a").await.accepted().await;
    // An API server that does not tell the node: the pod's object does.
    stage.api.add_token("old", good_token(None, "uid-agent-old"));
    let mut old = Agent::open(stage.channel().await, "node-old", Some("old"))
        .await
        .unwrap();
    old.accepted().await;

    let mut token = good_token(Some("node-a"), "uid-agent");
    token.audiences = vec!["vault".into()];
    stage.api.add_token("audience", token.clone());
    token.audiences = vec![peers::AUDIENCE.into()];
    token.user = "system:serviceaccount:red:default".into();
    stage.api.add_token("account", token);
    stage.api.add_token("unknown-pod", good_token(None, "uid-nobody"));
    let mut unbound = good_token(None, "");
    unbound.pod = None;
    stage.api.add_token("unbound", unbound);
    let long = "x".repeat(9_000);
    let cases: [(Option<&str>, Code, &str); 7] = [
        (None, Code::Unauthenticated, "no_token"),
        (Some("made-up"), Code::Unauthenticated, "bad_token"),
        (Some(&long), Code::Unauthenticated, "bad_token"),
        (Some("audience"), Code::Unauthenticated, "bad_token"),
        (Some("account"), Code::PermissionDenied, "wrong_account"),
        (Some("unbound"), Code::PermissionDenied, "unbound_token"),
        (Some("unknown-pod"), Code::Unavailable, "pod_unknown"),
    ];
    for (token, code, reason) in cases {
        let status = Agent::open(stage.channel().await, "node-a", token)
            .await
            .err()
            .expect(reason);
        assert_eq!(status.code(), code, "{reason}: {status:?}");
        assert!(!status.message().contains("xxxx"), "tokens are not told");
        stage.refused_streams(reason, 1.0).await;
    }
    let east = [("partywall-cluster", "east")];
    let token = stage.token("node-a");
    let channel = stage.channel().await;
    let status = Agent::open_with(channel, "node-a", Some(&token), &east)
        .await
        .err()
        .unwrap();
    assert!(
        status.code() == Code::NotFound && status.message().contains("east"),
        "{status:?}"
    );

    // Without its API what was reviewed a moment ago is let in, and nothing else; each says that it is to come again.
    stage.api.go_away();
    stage.agent("node-a").await.accepted().await;
    let new = stage.token("node-new");
    let status = Agent::open(stage.channel().await, "node-new", Some(&new))
        .await
        .err()
        .unwrap();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    stage.refused_streams("api_away", 1.0).await;
    stage.api.come_back();
    stage.agent("node-new").await.accepted().await;
    documented(&stage.scrape().await);
    stage.running.stop().await.unwrap();
}

#[tokio::test]
async fn a_flood_of_wrong_tokens_does_not_reach_the_api() {
    let stage = Stage::start(Wanted::default()).await;
    let channel = stage.channel().await;
    stage.api.forget_requests();
    for n in 0..200 {
        let token = format!("guess-{n}");
        let status = Agent::open(channel.clone(), "node-a", Some(&token))
            .await
            .err()
            .unwrap();
        assert!(
            matches!(status.code(), Code::Unauthenticated | Code::ResourceExhausted),
            "{status:?}"
        );
    }
    let asked = stage.api.requests().len();
    assert!(asked <= 60, "{asked} of 200 were reviewed");
    stage.refused_streams("too_many_bad_tokens", 100.0).await;
    stage.running.stop().await.unwrap();
}

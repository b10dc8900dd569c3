//! Several clusters in one aggregator: nothing of one is named, counted or judged in another, though nodes, namespaces and pods bear the same names.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use partywall_aggregator::config::{Config, NamedSource};
use partywall_aggregator::identify::api::Target;
use partywall_aggregator::{Running, start};
use partywall_apiserver::Server;
use partywall_proto::v1;
use support::{Agent, documented, eventually, http, pod, query, running, snapshot};
use tonic::Code;

/// blue/web and red/batch on node-a, of the same UIDs in both; red's quota, and the tenant of namespace blue.
fn objects(dir: &Path, cluster: &str, quota_cores: u32, tenant: &str) -> NamedSource<std::path::PathBuf> {
    let source = dir.join(cluster);
    std::fs::create_dir_all(&source).unwrap();
    let blue = format!(
        "---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: blue, labels: {{capsule.clastix.io/tenant: {tenant}}}}}\n"
    );
    let quota = format!(
        "---\napiVersion: v1\nkind: ResourceQuota\nmetadata: {{name: q, namespace: red}}\nspec: {{hard: {{limits.cpu: {quota_cores}}}}}\n"
    );
    std::fs::write(
        source.join("all.yaml"),
        blue + &pod("blue", "web", "500m") + &pod("red", "batch", "100m") + &quota,
    )
    .unwrap();
    NamedSource {
        cluster: Some(cluster.to_owned()),
        source,
    }
}

/// `here`, the aggregator's own, where red may use 4 cores; `eu-1`, where it may use 1.
async fn two(dir: &Path) -> Running {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = Config {
        grpc_listen: any,
        http_listen: any,
        insecure_plaintext: true,
        cluster: "here".into(),
        cluster_from: vec![objects(dir, "here", 4, "navy"), objects(dir, "eu-1", 1, "azure")],
        ..Config::default()
    };
    start(config).await.unwrap()
}

async fn agent(to: &Running, cluster: &str) -> Agent {
    let mut agent = Agent::connect(to, "node-a").await;
    agent.next.cluster = cluster.into();
    agent
}

async fn of(to: &Running, cluster: &str) -> v1::Snapshot {
    let request = v1::GetSnapshotRequest {
        cluster: cluster.into(),
        ..v1::GetSnapshotRequest::default()
    };
    query(to).await.get_snapshot(request).await.unwrap().into_inner()
}

fn tenant<'a>(snapshot: &'a v1::Snapshot, name: &str) -> &'a v1::TenantView {
    let found = snapshot.tenants.iter().find(|t| t.name == name);
    found.unwrap_or_else(|| panic!("no {name} in {:?}", snapshot.tenants))
}

#[tokio::test]
async fn two_clusters_are_kept_apart() {
    let dir = tempfile::tempdir().unwrap();
    let running = two(dir.path()).await;
    let watch = v1::WatchBreachesRequest {
        cluster: "eu-1".into(),
        ..v1::WatchBreachesRequest::default()
    };
    let mut watching = query(&running)
        .await
        .watch_breaches(watch)
        .await
        .unwrap()
        .into_inner();

    // Red's pod uses 1.5 cores in both; only in `eu-1` that is more than it may, and only in `here` blue waits for it.
    let mut here = agent(&running, "").await;
    let mut there = agent(&running, "eu-1").await;
    let (web, batch) = (here.pod("uid-blue-web"), here.pod("uid-red-batch"));
    there.pod("uid-blue-web");
    there.pod("uid-red-batch");
    let (noisy, over) = eventually("a breach in each", async || {
        let report = here.interval(&[(web, 300), (batch, 1_500)], &[(web, batch, 400)]);
        assert_eq!(here.send(report).await.outcome(), v1::Outcome::Accepted);
        let report = there.interval(&[(web, 200), (batch, 1_500)], &[]);
        assert_eq!(there.send(report).await.outcome(), v1::Outcome::Accepted);
        tokio::time::sleep(Duration::from_millis(900)).await;
        let breaches = snapshot(&running).await.breaches;
        let firing = |kind: v1::BreachKind| {
            let found = breaches
                .iter()
                .find(|b| b.kind() == kind && b.state() == v1::BreachState::Firing);
            found.cloned()
        };
        firing(v1::BreachKind::NoisyNeighbour).zip(firing(v1::BreachKind::QuotaExceeded))
    })
    .await;
    assert_eq!((noisy.cluster.as_str(), noisy.against.as_str()), ("here", "navy"));
    assert_eq!((over.cluster.as_str(), over.tenant.as_str()), ("eu-1", "red"));

    // The same names, each with what is its own.
    let (ours, theirs) = (of(&running, "here").await, of(&running, "eu-1").await);
    for (snapshot, cluster, quota, blue) in [(&ours, "here", 4.0, "navy"), (&theirs, "eu-1", 1.0, "azure")] {
        assert_eq!(snapshot.clusters.len(), 1);
        assert_eq!(snapshot.clusters[0].name, cluster);
        assert_eq!(
            (snapshot.clusters[0].pods, snapshot.clusters[0].namespaces),
            (2, 1)
        );
        let node = &snapshot.nodes[..];
        assert_eq!(
            node.iter()
                .map(|n| (n.cluster.as_str(), n.name.as_str()))
                .collect::<Vec<_>>(),
            [(cluster, "node-a")]
        );
        assert_eq!(tenant(snapshot, "red").quota_cores, Some(quota));
        assert_eq!(tenant(snapshot, blue).cluster, cluster);
        let clusters = snapshot.pods.iter().map(|p| &p.cluster);
        assert!(
            clusters
                .chain(snapshot.ledger.iter().map(|c| &c.cluster))
                .all(|c| c == cluster)
        );
        assert!(snapshot.breaches.iter().all(|b| b.cluster == cluster));
    }
    assert!(tenant(&ours, "navy").stolen_cores > 0.3);
    assert!(tenant(&theirs, "azure").stolen_cores < 0.01);
    assert!(
        !theirs
            .breaches
            .iter()
            .any(|b| b.kind() == v1::BreachKind::NoisyNeighbour)
    );
    let all = snapshot(&running).await;
    assert_eq!((all.clusters.len(), all.nodes.len(), all.pods.len()), (2, 2, 4));
    assert_eq!(of(&running, "").await.clusters.len(), 2, "none named: all");

    // The watch of one tells nothing of the other.
    let mut seen = Vec::new();
    while let Ok(Ok(Some(change))) =
        tokio::time::timeout(Duration::from_millis(200), watching.message()).await
    {
        assert_eq!(change.cluster, "eu-1");
        seen.push((change.kind(), change.state()));
    }
    assert!(
        seen.contains(&(v1::BreachKind::QuotaExceeded, v1::BreachState::Firing)),
        "{seen:?}"
    );

    let text = http(running.http_addr, "/metrics").await;
    for line in [
        "partywall_tenant_quota_cores{cluster=\"eu-1\",tenant=\"red\"} 1.0",
        "partywall_tenant_quota_cores{cluster=\"here\",tenant=\"red\"} 4.0",
        "partywall_breaches{cluster=\"here\",kind=\"NoisyNeighbour\",tenant=\"red\",against=\"navy\",state=\"firing\"} 1",
        "partywall_breaches{cluster=\"eu-1\",kind=\"QuotaExceeded\",tenant=\"red\",against=\"\",state=\"firing\"} 1",
        "partywall_node_online_cpus{cluster=\"eu-1\",node=\"node-a\"} 2.0",
        "partywall_node_online_cpus{cluster=\"here\",node=\"node-a\"} 2.0",
        "partywall_aggregator_cluster_objects{cluster=\"eu-1\",kind=\"pod\"} 2",
        "partywall_breaches_fired_total{kind=\"QuotaExceeded\"} 1",
    ] {
        assert!(text.contains(line), "lacks {line}\n{text}");
    }
    let declared = text
        .lines()
        .filter(|l| *l == "# TYPE partywall_tenant_quota_cores gauge");
    assert_eq!(declared.count(), 1, "a family stands together");
    documented(&text);
    running.stop().await.unwrap();
}

#[tokio::test]
async fn a_report_of_another_cluster_is_refused_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let running = two(dir.path()).await;
    let mut stranger = agent(&running, "us-\u{1b}9").await;
    let report = stranger.interval(&[], &[]);
    let receipt = stranger.send(report).await;
    assert_eq!(receipt.outcome(), v1::Outcome::Refused);
    assert_eq!(
        receipt.reason,
        "cluster: \"us-\\u{1b}9\" is none of the clusters of this aggregator"
    );

    // A stream is of one cluster; the empty name is the aggregator's own.
    let mut moving = agent(&running, "").await;
    let web = moving.pod("uid-blue-web");
    let first = moving.interval(&[(web, 10)], &[]);
    assert_eq!(moving.send(first).await.outcome(), v1::Outcome::Accepted);
    moving.next.cluster = "eu-1".into();
    let moved = moving.interval(&[(web, 10)], &[]);
    let receipt = moving.send(moved.clone()).await;
    assert_eq!(receipt.outcome(), v1::Outcome::Refused);
    assert_eq!(
        receipt.reason,
        "cluster: \"eu-1\" on a stream that reports of \"here\""
    );
    let same = v1::Report {
        cluster: "here".into(),
        ..moved
    };
    assert_eq!(
        moving.send(same).await.outcome(),
        v1::Outcome::Accepted,
        "the stream goes on"
    );
    assert!(of(&running, "eu-1").await.nodes.is_empty());
    let text = http(running.http_addr, "/metrics").await;
    let line = "partywall_aggregator_reports_refused_total{reason=\"wrong_cluster\"} 2";
    assert!(text.contains(line), "lacks {line}\n{text}");
    running.stop().await.unwrap();
}

#[tokio::test]
async fn a_cluster_that_there_is_not_is_named_with_those_that_there_are() {
    let dir = tempfile::tempdir().unwrap();
    let running = two(dir.path()).await;
    let mut client = query(&running).await;
    let cluster = String::from("us-9");
    let errors = [
        client
            .get_snapshot(v1::GetSnapshotRequest {
                cluster: cluster.clone(),
                ..v1::GetSnapshotRequest::default()
            })
            .await
            .unwrap_err(),
        client
            .get_flows(v1::GetFlowsRequest {
                cluster: cluster.clone(),
                ..v1::GetFlowsRequest::default()
            })
            .await
            .unwrap_err(),
        client
            .watch_breaches(v1::WatchBreachesRequest {
                cluster: cluster.clone(),
                ..v1::WatchBreachesRequest::default()
            })
            .await
            .unwrap_err(),
        client
            .explain_namespace(v1::ExplainNamespaceRequest {
                cluster,
                namespace: "blue".into(),
            })
            .await
            .unwrap_err(),
    ];
    for error in errors {
        assert_eq!(
            (error.code(), error.message()),
            (
                Code::NotFound,
                "cluster: \"us-9\" is not known; there is eu-1, here"
            )
        );
    }
    running.stop().await.unwrap();
}

#[tokio::test]
async fn each_cluster_explains_its_own_namespaces() {
    let dir = tempfile::tempdir().unwrap();
    let running = two(dir.path()).await;
    let explain = async |cluster: &str, namespace: &str| {
        let request = v1::ExplainNamespaceRequest {
            cluster: cluster.into(),
            namespace: namespace.into(),
        };
        query(&running).await.explain_namespace(request).await
    };
    for (asked, cluster, tenant) in [("", "here", "navy"), ("eu-1", "eu-1", "azure")] {
        let said = explain(asked, "blue").await.unwrap().into_inner();
        assert_eq!(
            (
                said.cluster.as_str(),
                said.tenant.as_str(),
                said.resolved_by.as_str()
            ),
            (cluster, tenant, "capsule")
        );
        let rules: Vec<_> = said
            .rules
            .iter()
            .map(|r| (r.rule.as_str(), r.outcome()))
            .collect();
        use v1::RuleOutcome::{Named, NotNeeded, Silent};
        assert_eq!(
            rules,
            [
                ("system", Silent),
                ("policy", Silent),
                ("capsule", Named),
                ("vcluster", Silent),
                ("hnc", Silent),
                ("label", Silent),
                ("namespace", NotNeeded)
            ]
        );
        assert!(said.rules[2].detail.contains(tenant), "{:?}", said.rules[2]);
    }
    let error = explain("eu-1", "nowhere").await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    assert_eq!(
        error.message(),
        "namespace: \"nowhere\" is in no object of cluster \"eu-1\" and in no rule of the policy"
    );
    running.stop().await.unwrap();
}

/// The node's wall clock is stepped by an hour, back and forth: its reports are counted as ever, and are not late by it.
#[tokio::test]
async fn a_stepped_clock_is_told_and_disturbs_nothing() {
    const S: u64 = 1_000_000_000;
    let dir = tempfile::tempdir().unwrap();
    let running = running(dir.path(), None).await;
    let mut agent = Agent::connect(&running, "node-a").await;
    let web = agent.pod("uid-blue-web");
    let began = std::time::Instant::now();
    for (hours, ahead) in [(0, 0.0), (1, 3_600.0), (-1, -3_600.0), (0, 0.0)] {
        let mut report = agent.interval(&[(web, 100)], &[]);
        // As much of the node's time passed as of ours.
        report.captured_boot_ns = 1_000_000 * S + u64::try_from(began.elapsed().as_nanos()).unwrap();
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        report.captured_unix_ns = u64::try_from(now.as_nanos())
            .unwrap()
            .saturating_add_signed(hours * 3_600 * S as i64);
        report.waited_ns = Some(0);
        assert_eq!(agent.send(report).await.outcome(), v1::Outcome::Accepted);
        let offset = snapshot(&running).await.nodes[0]
            .clock_offset_seconds
            .expect("a clock");
        assert!((offset - ahead).abs() < 1.0, "{offset} instead of {ahead}");
    }
    let text = http(running.http_addr, "/metrics").await;
    assert!(
        text.contains("partywall_node_clock_offset_seconds{cluster=\"default\",node=\"node-a\"} "),
        "{text}"
    );
    assert!(
        text.contains("partywall_aggregator_report_lag_seconds_bucket{le=\"1.0\"} 3\n")
            && text.contains("partywall_aggregator_report_lag_seconds_bucket{le=\"15.0\"} 4\n"),
        "{text}"
    );
    // An agent that does not say for how long a report waited has no offset.
    let mut report = agent.interval(&[(web, 100)], &[]);
    report.captured_boot_ns = 1_000_000 * S + u64::try_from(began.elapsed().as_nanos()).unwrap();
    report.waited_ns = None;
    assert_eq!(agent.send(report).await.outcome(), v1::Outcome::Accepted);
    assert_eq!(snapshot(&running).await.nodes[0].clock_offset_seconds, None);
    running.stop().await.unwrap();
}

#[tokio::test]
async fn a_cluster_whose_api_is_away_keeps_only_its_own_agents_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::on_loopback().await.unwrap();
    server.apply_yaml(&pod("blue", "web", "500m")).unwrap();
    server.go_away();
    let path = dir.path().join("kubeconfig");
    std::fs::write(&path, server.kubeconfig()).unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = Config {
        grpc_listen: any,
        http_listen: any,
        insecure_plaintext: true,
        cluster: "here".into(),
        cluster_from: vec![objects(dir.path(), "here", 4, "navy")],
        kube_api: vec![NamedSource {
            cluster: Some("far".into()),
            source: Target::Kubeconfig { path, context: None },
        }],
        ..Config::default()
    };
    let running = start(config).await.unwrap();
    let ready = eventually("readiness", async || {
        let said = http(running.http_addr, "/readyz").await;
        said.starts_with("HTTP/1.1 200").then_some(said)
    });
    let ready = ready.await;
    assert!(
        ready.contains("\"far\"") && ready.contains("not read yet"),
        "{ready}"
    );
    let mut near = agent(&running, "here").await;
    let web = near.pod("uid-blue-web");
    let report = near.interval(&[(web, 10)], &[]);
    assert_eq!(near.send(report).await.outcome(), v1::Outcome::Accepted);

    let mut far = agent(&running, "far").await;
    let web = far.pod("uid-blue-web");
    let report = far.interval(&[(web, 10)], &[]);
    far.reports.send(report.clone()).await.unwrap();
    let refused = far.receipts.message().await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    let text = http(running.http_addr, "/metrics").await;
    let line = "partywall_aggregator_streams_refused_total{reason=\"not_synced\"} 1";
    assert!(text.contains(line), "lacks {line}\n{text}");

    server.come_back();
    let accepted = eventually("the objects", async || {
        let mut far = agent(&running, "far").await;
        far.reports.send(report.clone()).await.unwrap();
        let receipt = far.receipts.message().await.ok()??;
        Some(receipt.outcome())
    });
    assert_eq!(accepted.await, v1::Outcome::Accepted);
    assert_eq!(tenant(&of(&running, "far").await, "blue").pods, 1);
    running.stop().await.unwrap();
}

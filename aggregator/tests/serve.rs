//! The whole aggregator on real sockets and real files.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use partywall_aggregator::config::{Config, NamedSource};
use partywall_aggregator::start;
use partywall_proto::v1;
use support::{Agent, MS, documented, eventually, http, pod, query, running, snapshot};

#[tokio::test]
async fn a_noisy_neighbour_is_named_exported_and_resolved() {
    let dir = tempfile::tempdir().unwrap();
    let running = running(dir.path(), None).await;
    std::fs::write(
        dir.path().join("cluster/all.yaml"),
        pod("blue", "web", "500m")
            + &pod("red", "batch", "100m")
            + "---\napiVersion: v1\nkind: ResourceQuota\nmetadata: {name: q, namespace: red}\nspec: {hard: {limits.cpu: 1}}\n",
    )
    .unwrap();
    let mut watching = query(&running)
        .await
        .watch_breaches(v1::WatchBreachesRequest::default())
        .await
        .unwrap()
        .into_inner();

    let mut agent = Agent::connect(&running, "node-a").await;
    let (web, batch) = (agent.pod("uid-blue-web"), agent.pod("uid-red-batch"));
    let began = Instant::now();
    let mut receipts = 0;
    let fired = eventually("a firing breach", async || {
        let report = agent.interval(&[(web, 300), (batch, 1_500)], &[(web, batch, 400)]);
        let receipt = agent.send(report).await;
        assert_eq!(receipt.outcome(), v1::Outcome::Accepted, "{receipt:?}");
        receipts += 1;
        assert_eq!(receipt.sequence, receipts);
        tokio::time::sleep(Duration::from_millis(900)).await;
        let breaches = snapshot(&running).await.breaches;
        breaches
            .into_iter()
            .find(|b| b.kind() == v1::BreachKind::NoisyNeighbour && b.state() == v1::BreachState::Firing)
    })
    .await;
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    assert_eq!(
        (
            fired.tenant.as_str(),
            fired.against.as_str(),
            fired.subject.as_str()
        ),
        ("red", "blue", "blue/web")
    );
    assert!(
        fired
            .summary
            .starts_with("red/batch took 0.4 cores from blue/web on node-a"),
        "{}",
        fired.summary
    );
    assert_eq!(fired.culprits[0].pod, "red/batch");

    // The same over the watch: pending, then firing.
    let mut states = Vec::new();
    while states.last() != Some(&v1::BreachState::Firing) {
        let change = tokio::time::timeout(Duration::from_secs(5), watching.message())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        if change.kind() == v1::BreachKind::NoisyNeighbour {
            assert_eq!(change.fingerprint, fired.fingerprint);
            states.push(change.state());
        }
    }
    assert_eq!(states, [v1::BreachState::Pending, v1::BreachState::Firing]);

    let text = http(running.http_addr, "/metrics").await;
    for line in [
        "partywall_breaches{cluster=\"default\",kind=\"NoisyNeighbour\",tenant=\"red\",against=\"blue\",state=\"firing\"} 1",
        "partywall_tenant_quota_cores{cluster=\"default\",tenant=\"red\"} 1.0",
        "partywall_ledger_wait_seconds_total{cluster=\"default\",node=\"node-a\",waiter=\"blue\",runner=\"red\"} ",
        "partywall_tenant_cpu_seconds_total{cluster=\"default\",tenant=\"red\",node=\"node-a\"} ",
        "partywall_node_covered_ratio{cluster=\"default\",node=\"node-a\"} ",
        "# TYPE partywall_tenant_wait_seconds histogram",
        "partywall_aggregator_cluster_objects{cluster=\"default\",kind=\"pod\"} 2",
        "# EOF",
    ] {
        assert!(text.contains(line), "lacks {line}\n{text}");
    }
    documented(&text);
    assert!(
        http(running.http_addr, "/healthz")
            .await
            .starts_with("HTTP/1.1 200")
    );
    let ready = http(running.http_addr, "/readyz").await;
    assert!(
        ready.starts_with("HTTP/1.1 200") && ready.contains("\"degraded\":[]"),
        "{ready}"
    );

    eventually("the end of it", async || {
        let report = agent.interval(&[(web, 300)], &[]);
        agent.send(report).await;
        tokio::time::sleep(Duration::from_millis(900)).await;
        let breaches = snapshot(&running).await.breaches;
        breaches
            .into_iter()
            .find(|b| b.kind() == v1::BreachKind::NoisyNeighbour && b.state() == v1::BreachState::Resolved)
    })
    .await;
    running.stop().await.unwrap();
}

/// Pods of red that each hold 100 MiB and wait for memory, one of which has a task killed; room for the series of two.
#[tokio::test]
async fn memory_is_exported_of_the_largest_pods_and_shown_of_all() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = dir.path().join("cluster");
    std::fs::create_dir_all(&cluster).unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let running = start(Config {
        grpc_listen: any,
        http_listen: any,
        insecure_plaintext: true,
        cluster_from: vec![NamedSource {
            cluster: None,
            source: cluster.clone(),
        }],
        max_series_per_tenant: 50,
        ..Config::default()
    })
    .await
    .unwrap();
    let pods = ["a", "b", "c"].map(|name| pod("red", name, "1, memory: 64Mi"));
    let quota = "---\napiVersion: v1\nkind: ResourceQuota\nmetadata: {name: q, namespace: red}\nspec: {hard: {memory: 1Gi, pods: 9}}\n";
    std::fs::write(
        cluster.join("all.yaml"),
        pods.concat() + quota + &pod("blue", "web", "1"),
    )
    .unwrap();
    eventually("the cluster data", async || {
        let tenants = snapshot(&running).await.tenants;
        tenants.iter().any(|t| t.name == "red").then_some(())
    })
    .await;

    let mut agent = Agent::connect(&running, "node-a").await;
    let red = ["a", "b", "c"].map(|name| agent.pod(&format!("uid-red-{name}")));
    let web = agent.pod("uid-blue-web");
    for second in 1..=3u64 {
        let mut report = agent.interval(&[(red[0], 10)], &[]);
        report.memory = red
            .iter()
            .map(|entity| v1::MemorySample {
                entity: *entity,
                current_bytes: Some((100 + u64::from(*entity)) << 20),
                working_set_bytes: Some(80 << 20),
                limit_bytes: (*entity == red[2]).then_some(256 << 20),
                events: Some(v1::MemoryEvents {
                    max: second,
                    ..v1::MemoryEvents::default()
                }),
                major_faults: Some(second),
                memory_pressure: Some(v1::Pressure {
                    some_us: second * 500_000,
                    full_us: Some(second * 250_000),
                }),
                node_reclaim: Some(v1::Reclaim {
                    stall_ns: second * 100 * MS,
                    pages: 32,
                    times: 1,
                }),
                ..v1::MemorySample::default()
            })
            .collect();
        if second == 3 {
            report.oom_kills.push(v1::OomKill {
                at_boot_ns: report.captured_boot_ns - MS,
                trigger: red[0],
                victim: web,
                scope: v1::OomScope::Node.into(),
                ..v1::OomKill::default()
            });
        }
        assert_eq!(agent.send(report).await.outcome(), v1::Outcome::Accepted);
        tokio::time::sleep(Duration::from_millis(900)).await;
    }
    let seen = snapshot(&running).await;
    let memory = seen
        .pods
        .iter()
        .find(|p| p.name == "c")
        .and_then(|p| p.memory)
        .unwrap();
    assert!((memory.pressure_some.unwrap() - 0.5).abs() < 1e-9, "{memory:?}");
    assert!((memory.node_stall - 0.1).abs() < 1e-9, "{memory:?}");
    let sample = memory.sample.unwrap();
    assert_eq!((sample.limit_bytes, sample.cpu_pressure), (Some(256 << 20), None));
    let view = |name: &str| seen.tenants.iter().find(|t| t.name == name).unwrap();
    assert_eq!(view("red").working_set_bytes, Some(240 << 20));
    assert_eq!((view("red").quota_pods, view("red").limit_stall), (Some(9), None));
    assert_eq!(view("blue").memory_bytes, None, "no node tells");
    let kill = eventually("the breach", async || {
        let breaches = snapshot(&running).await.breaches;
        breaches
            .into_iter()
            .find(|b| b.kind() == v1::BreachKind::CrossTenantOom && b.state() == v1::BreachState::Firing)
    })
    .await;
    assert_eq!(
        (kill.tenant.as_str(), kill.against.as_str(), kill.subject.as_str()),
        ("red", "blue", "blue/web")
    );
    assert_eq!(kill.confidence, Some(1.0));
    assert_eq!(
        kill.culprits[0].over_request_bytes,
        Some((36 + u64::from(red[2])) << 20)
    );

    let text = http(running.http_addr, "/metrics").await;
    let c = "tenant=\"red\",namespace=\"red\",pod=\"c\",node=\"node-a\"";
    let other = "tenant=\"red\",namespace=\"~other\",pod=\"~other\",node=\"~other\"";
    for line in [
        format!("partywall_pod_memory_working_set_bytes{{cluster=\"default\",{c}}} 83886080"),
        format!("partywall_pod_memory_requests_bytes{{cluster=\"default\",{c}}} 67108864"),
        format!("partywall_pod_memory_limit_bytes{{cluster=\"default\",{c}}} 268435456"),
        format!("partywall_pod_reclaim_stall_seconds_total{{cluster=\"default\",{c},cause=\"node\"}} 0.3"),
        format!("partywall_pod_reclaimed_pages_total{{cluster=\"default\",{c},cause=\"node\"}} 32"),
        format!("partywall_pod_major_faults_total{{cluster=\"default\",{c}}} 3"),
        format!("partywall_pod_memory_events_total{{cluster=\"default\",{c},event=\"max\"}} 3"),
        format!("partywall_pod_pressure_memory_waiting_seconds_total{{cluster=\"default\",{c}}} 1.5"),
        format!("partywall_pod_pressure_memory_stalled_seconds_total{{cluster=\"default\",{c}}} 0.75"),
        format!("partywall_pod_memory_working_set_bytes{{cluster=\"default\",{other}}} 83886080"),
        "partywall_tenant_memory_working_set_bytes{cluster=\"default\",tenant=\"red\"} 251658240".into(),
        "partywall_tenant_quota_memory_bytes{cluster=\"default\",tenant=\"red\"} 1073741824".into(),
        "partywall_tenant_quota_pods{cluster=\"default\",tenant=\"red\"} 9".into(),
        "partywall_oom_kills_total{cluster=\"default\",node=\"node-a\",trigger=\"red\",victim=\"blue\",scope=\"node\"} 1".into(),
        "kind=\"CrossTenantOom\",tenant=\"red\",against=\"blue\",state=\"firing\"} 1".into(),
        "partywall_aggregator_series_folded 1".into(),
    ] {
        assert!(text.contains(&line), "lacks {line}\n{text}");
    }
    for absent in [
        "pressure_cpu",
        "cause=\"limit\"",
        "pod_refaults",
        "pod=\"web\"",
        "total{cluster=\"default\",tenant=\"red\",namespace=\"~other\"",
    ] {
        assert!(!text.contains(absent), "has {absent}\n{text}");
    }
    documented(&text);
    running.stop().await.unwrap();
}

#[tokio::test]
async fn a_lying_agent_is_refused_and_told_why() {
    let dir = tempfile::tempdir().unwrap();
    let running = running(dir.path(), None).await;
    let mut agent = Agent::connect(&running, "node-a").await;
    let a = agent.pod("uid-someone");
    let good = agent.interval(&[(a, 100)], &[]);
    assert_eq!(agent.send(good.clone()).await.outcome(), v1::Outcome::Accepted);
    assert_eq!(agent.send(good.clone()).await.outcome(), v1::Outcome::Duplicate);

    let next = agent.interval(&[(a, 100)], &[]);
    type Spoil = fn(&mut v1::Report);
    let table: &[(&str, Spoil)] = &[
        ("node: \"node-c\" on a stream that reports \"node-a\"", |r| {
            r.node = "node-c".into();
        }),
        ("node: \"node-a\\u{1b}[31m\" is no node name", |r| {
            r.node = "node-a\u{1b}[31m".into();
        }),
        ("entities[0].host.path: \"/a\\nb\" has control characters", |r| {
            let kind = Some(v1::entity::Kind::Host(v1::HostCgroup { path: "/a\nb".into() }));
            r.entities.push(v1::Entity {
                index: 9,
                kind,
                born_boot_ns: 0,
            });
        }),
        ("cpu[0].run_ns: 1 after 100000000", |r| r.cpu[0].run_ns = 1),
        ("captured_boot_ns: 5 after", |r| r.captured_boot_ns = 5),
        ("ledger[0].ran_ns: 1 values for 0 runners", |r| {
            r.ledger[0].ran_ns = vec![1];
        }),
    ];
    for (reason, spoil) in table {
        let mut bad = next.clone();
        spoil(&mut bad);
        let receipt = agent.send(bad).await;
        assert_eq!(receipt.outcome(), v1::Outcome::Refused, "{receipt:?}");
        assert_eq!(receipt.sequence, next.sequence);
        assert!(receipt.reason.starts_with(reason), "{}", receipt.reason);
    }
    assert_eq!(
        agent.send(next).await.outcome(),
        v1::Outcome::Accepted,
        "the stream goes on"
    );
    let mut stray = agent.interval(&[], &[]);
    stray.cpu.push(v1::CpuSample {
        entity: 77,
        run_ns: 1,
        ..v1::CpuSample::default()
    });
    assert!(agent.send(stray).await.announce_all);

    let text = http(running.http_addr, "/metrics").await;
    for line in [
        "partywall_aggregator_reports_total{outcome=\"refused\"} 6",
        "partywall_aggregator_reports_refused_total{reason=\"wrong_node\"} 1",
        "partywall_aggregator_reports_refused_total{reason=\"wrong_cluster\"} 0",
        "partywall_aggregator_reports_refused_total{reason=\"bad_name\"} 2",
        "partywall_aggregator_losses_total{cluster=\"default\",stage=\"ingest\",reason=\"unknown_entity\",unit=\"samples\"} 1",
    ] {
        assert!(text.contains(line), "lacks {line}\n{text}");
    }
    documented(&text);

    // A message beyond the limit ends its own stream only.
    let mut big = Agent::connect(&running, "node-d").await;
    let mut report = big.interval(&[], &[]);
    report.boot_id = "x".repeat(partywall_proto::MAX_MESSAGE_BYTES + 1);
    big.reports.send(report).await.unwrap();
    assert!(big.receipts.message().await.is_err());
    let more = agent.interval(&[(a, 1)], &[]);
    assert_eq!(agent.send(more).await.outcome(), v1::Outcome::Accepted);
    running.stop().await.unwrap();
}

#[tokio::test]
async fn files_are_followed_and_a_broken_one_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let running = running(dir.path(), Some("tenants: [{name: acme, namespaces: [blue]}]\n")).await;
    let cluster = dir.path().join("cluster/all.yaml");
    let names = async || {
        snapshot(&running)
            .await
            .tenants
            .into_iter()
            .map(|t| t.name)
            .collect::<Vec<_>>()
    };
    let until = async |about: &str, wanted: &[&str]| {
        eventually(about, async || {
            let names = names().await;
            wanted
                .iter()
                .all(|w| names.iter().any(|n| n == w))
                .then_some(names)
        })
        .await
    };
    std::fs::write(&cluster, pod("blue", "web", "1")).unwrap();
    until("the policy's tenant", &["acme"]).await;

    // Replaced in place, as editors do.
    let staged = dir.path().join("policy.new");
    std::fs::write(&staged, "tenants: [{name: initech, namespaces: [blue]}]\n").unwrap();
    std::fs::rename(&staged, dir.path().join("policy.yaml")).unwrap();
    let tenants = until("the changed policy", &["initech"]).await;
    assert!(!tenants.contains(&"acme".to_owned()));

    std::fs::write(
        dir.path().join("policy.yaml"),
        "tenants: []\nnoisy_neighbour: {min_slowdown: .nan}\n",
    )
    .unwrap();
    std::fs::write(&cluster, pod("blue", "web", "-1")).unwrap();
    std::fs::write(dir.path().join("cluster/more.yaml"), pod("green", "x", "1")).unwrap();
    let tenants = until("the good file", &["green"]).await;
    assert!(
        tenants.contains(&"initech".to_owned()),
        "the policy and the pod are as they were: {tenants:?}"
    );
    let ready = eventually("both errors", async || {
        let ready = http(running.http_addr, "/readyz").await;
        (ready.contains("min_slowdown") && ready.contains("all.yaml")).then_some(ready)
    })
    .await;
    assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");
    for needle in [
        "line 2: noisy_neighbour.min_slowdown",
        ".nan",
        "requests.cpu",
        "-1",
        "is negative",
    ] {
        assert!(ready.contains(needle), "lacks {needle}\n{ready}");
    }
    let text = http(running.http_addr, "/metrics").await;
    for line in [
        "partywall_policy_reload_failures_total 1",
        "partywall_policy_in_force 0",
    ] {
        assert!(text.contains(line), "lacks {line}\n{text}");
    }
    documented(&text);
    assert!(
        text.contains("partywall_aggregator_cluster_files_broken{cluster=\"default\"} 1"),
        "{text}"
    );

    std::fs::write(
        dir.path().join("policy.yaml"),
        "tenants: [{name: umbrella, namespaces: [blue]}]\n",
    )
    .unwrap();
    std::fs::write(&cluster, pod("blue", "web", "2")).unwrap();
    until("the repaired files", &["umbrella"]).await;
    eventually("no complaints", async || {
        http(running.http_addr, "/readyz")
            .await
            .contains("\"degraded\":[]")
            .then_some(())
    })
    .await;
    let text = http(running.http_addr, "/metrics").await;
    assert!(text.contains("partywall_policy_in_force 1"), "{text}");
    running.stop().await.unwrap();
}

#[tokio::test]
async fn one_that_is_dropped_follows_nothing_and_listens_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let running = running(dir.path(), None).await;
    let (grpc, http) = (running.grpc_addr, running.http_addr);
    drop(running);
    for address in [grpc, http] {
        eventually("a closed port", async || {
            tokio::net::TcpStream::connect(address)
                .await
                .is_err()
                .then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn start_says_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("policy.yaml");
    std::fs::write(&path, "windows:\n  length_seconds: -5\n").unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = Config {
        grpc_listen: any,
        http_listen: any,
        insecure_plaintext: true,
        policy: Some(path),
        ..Config::default()
    };
    let error = format!("{:#}", start(config.clone()).await.expect_err("must be refused"));
    assert!(
        error.contains("policy.yaml: line 2: windows.length_seconds: -5"),
        "{error}"
    );

    let taken = tokio::net::TcpListener::bind(any).await.unwrap();
    let config = Config {
        policy: None,
        grpc_listen: taken.local_addr().unwrap(),
        ..config
    };
    let error = format!("{:#}", start(config).await.expect_err("must be refused"));
    assert!(
        error.contains("--grpc-listen") && error.contains("in use"),
        "{error}"
    );
}

/// red/client on node-a connects to blue/web on node-b, and both agents say so.
#[tokio::test]
async fn a_flat_network_is_named_listed_and_exported() {
    let dir = tempfile::tempdir().unwrap();
    let running = running(dir.path(), None).await;
    let at = |namespace: &str, name: &str, node: &str, address: &str| {
        pod(namespace, name, "1").replace("node-a", node)
            + &format!("status: {{podIPs: [{{ip: {address}}}]}}\n")
    };
    std::fs::write(
        dir.path().join("cluster/all.yaml"),
        at("red", "client", "node-a", "10.0.0.1") + &at("blue", "web", "node-b", "10.0.1.1"),
    )
    .unwrap();
    eventually("the cluster data", async || {
        let tenants = snapshot(&running).await.tenants;
        tenants.iter().any(|t| t.name == "red").then_some(())
    })
    .await;
    let began = Instant::now();
    let sides = [
        (
            "node-a",
            "uid-red-client",
            [10, 0, 0, 1],
            [10, 0, 1, 1],
            v1::Role::Opened,
        ),
        (
            "node-b",
            "uid-blue-web",
            [10, 0, 1, 1],
            [10, 0, 0, 1],
            v1::Role::Accepted,
        ),
    ];
    for (node, uid, local, peer, role) in sides {
        let mut agent = Agent::connect(&running, node).await;
        let entity = agent.pod(uid);
        let mut report = agent.interval(&[(entity, 1)], &[]);
        report.flows = vec![v1::Flow {
            index: 1,
            entity,
            local: local.to_vec().into(),
            peer: peer.to_vec().into(),
            protocol: 6,
            port: 80,
            role: role.into(),
        }];
        let opens = role == v1::Role::Opened;
        report.flow_samples = vec![v1::FlowSample {
            flow: 1,
            traffic: Some(v1::Traffic {
                sent_packets: 5,
                sent_bytes: if opens { 1_000 } else { 300 },
                received_packets: 5,
                received_bytes: if opens { 300 } else { 1_000 },
                opened: u64::from(opens),
                established: 1,
                ..v1::Traffic::default()
            }),
        }];
        let receipt = agent.send(report).await;
        assert_eq!(receipt.outcome(), v1::Outcome::Accepted, "{receipt:?}");
    }
    let fired = eventually("a firing breach", async || {
        let breaches = snapshot(&running).await.breaches;
        let firing = |b: &v1::Breach| b.state() == v1::BreachState::Firing;
        breaches.into_iter().find(firing)
    })
    .await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(
        (fired.kind(), fired.tenant.as_str(), fired.against.as_str()),
        (v1::BreachKind::FlatNetwork, "red", "blue")
    );
    let ask = async |request| query(&running).await.get_flows(request).await;
    let request = v1::GetFlowsRequest {
        cross_tenant: true,
        from: "red/".into(),
        to: "blue/web".into(),
        verdicts: vec![v1::Verdict::Open.into()],
        ..v1::GetFlowsRequest::default()
    };
    let flow = ask(request.clone()).await.unwrap().into_inner().flows.remove(0);
    assert_eq!(
        (
            flow.protocol.as_str(),
            flow.port,
            flow.verdict(),
            flow.seen_by.as_str()
        ),
        ("TCP", 80, v1::Verdict::Open, "both")
    );
    assert_eq!(flow.traffic.unwrap().sent_bytes, 1_000);
    assert_eq!(flow.from.unwrap().pod, "client");
    for other in [
        v1::GetFlowsRequest {
            from: "blue".into(),
            ..request.clone()
        },
        v1::GetFlowsRequest {
            verdicts: vec![v1::Verdict::Leaked.into()],
            ..request.clone()
        },
    ] {
        assert!(ask(other).await.unwrap().into_inner().flows.is_empty());
    }
    let wrong = v1::GetFlowsRequest {
        verdicts: vec![99],
        ..request
    };
    let refused = ask(wrong).await.unwrap_err();
    assert!(refused.message().contains("verdicts[0]: 99"), "{refused}");
    let between = snapshot(&running).await.traffic.remove(0);
    assert_eq!((between.bytes, between.connections), (1_300, 1));
    let text = http(running.http_addr, "/metrics").await;
    for line in [
        "partywall_traffic_bytes_total{cluster=\"default\",from=\"red\",to=\"blue\",verdict=\"open\"} 1300",
        "partywall_traffic_packets_total{cluster=\"default\",from=\"red\",to=\"blue\",verdict=\"open\"} 10",
        "partywall_traffic_connections_total{cluster=\"default\",from=\"red\",to=\"blue\",verdict=\"open\"} 1",
        "partywall_traffic_unattributed_bytes_total{cluster=\"default\",reason=\"opener_unknown\"} 0",
        "partywall_traffic_unattributed_packets_total{cluster=\"default\",reason=\"source_unconfirmed\"} 0",
        "partywall_aggregator_flow_records{cluster=\"default\"} 2",
    ] {
        assert!(text.contains(line), "lacks {line}\n{text}");
    }
    documented(&text);
    running.stop().await.unwrap();
}

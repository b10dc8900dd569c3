//! The page's files and answers over a real socket. What a browser makes of them is tested in one (`cargo xtask test --only page`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use partywall_aggregator::config::Config;
use partywall_aggregator::start;
use serde_json::Value;
use support::{Agent, documented, eventually, http, pod, running, snapshot};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Head and body of `GET path` with one more header. Version 1.0, so that no answer comes in chunks.
async fn get(addr: SocketAddr, path: &str, header: &str) -> (String, String) {
    let mut stream = tokio::net::TcpStream::connect(addr).await.unwrap();
    let request = format!("GET {path} HTTP/1.0\r\nHost: x\r\n{header}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.to_lowercase(), body.to_owned())
}

async fn json(addr: SocketAddr, path: &str) -> Value {
    let (head, body) = get(addr, path, "a: b").await;
    assert!(head.contains("application/json"), "{head}");
    serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"))
}

fn etag(head: &str) -> &str {
    let line = head.lines().find_map(|line| line.strip_prefix("etag: "));
    line.unwrap_or_else(|| panic!("no etag: {head}"))
}

#[tokio::test]
async fn a_name_of_somebody_elses_reads_nothing() {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = Config {
        grpc_listen: any,
        http_listen: any,
        insecure_plaintext: true,
        http_hosts: vec!["wall.example".to_owned()],
        ..Config::default()
    };
    let running = start(config).await.unwrap();
    for (host, code) in [
        ("evil.example", 421),
        ("evil.example:7442", 421),
        ("wall.example", 200),
        ("localhost:7442", 200),
        ("127.0.0.1:7442", 200),
    ] {
        for path in ["/", "/metrics", "/healthz"] {
            let mut stream = tokio::net::TcpStream::connect(running.http_addr).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            assert!(
                text.starts_with(&format!("HTTP/1.1 {code} ")),
                "{host}{path}: {text}"
            );
        }
    }
    running.stop().await.unwrap();
}

#[tokio::test]
async fn files_are_guarded_and_sent_once() {
    let dir = tempfile::tempdir().unwrap();
    let running = running(dir.path(), None).await;
    for (path, kind) in [
        ("/", "text/html"),
        ("/page.css", "text/css"),
        ("/page.js", "text/javascript"),
        ("/icon.svg", "image/svg+xml"),
    ] {
        let (head, body) = get(running.http_addr, path, "a: b").await;
        assert!(head.starts_with("http/1.0 200"), "{path}: {head}");
        for needle in [
            format!("content-type: {kind}"),
            "content-security-policy: default-src 'none'; script-src 'self'; ".to_owned(),
            "x-content-type-options: nosniff".to_owned(),
            "referrer-policy: no-referrer".to_owned(),
            "cache-control: no-cache".to_owned(),
        ] {
            assert!(head.contains(&needle), "{path} lacks {needle}: {head}");
        }
        assert!(!body.is_empty());
        let weak = format!("If-None-Match: \"else\", W/{}", etag(&head));
        let (head, body) = get(running.http_addr, path, &weak).await;
        assert!(
            head.starts_with("http/1.0 304") && body.is_empty(),
            "{path}: {head}"
        );
        assert!(head.contains("content-security-policy"), "{head}");
    }
    let text = http(running.http_addr, "/else").await;
    assert!(
        text.starts_with("HTTP/1.1 404") && text.contains("/, /metrics, "),
        "{text}"
    );
    running.stop().await.unwrap();
}

#[tokio::test]
async fn answers_say_what_the_snapshot_says() {
    let dir = tempfile::tempdir().unwrap();
    let running = running(dir.path(), None).await;
    std::fs::write(
        dir.path().join("cluster/all.yaml"),
        pod("blue", "web", "500m") + &pod("red", "batch", "100m"),
    )
    .unwrap();
    let mut agent = Agent::connect(&running, "node-a").await;
    let (web, batch) = (agent.pod("uid-blue-web"), agent.pod("uid-red-batch"));
    let breach = eventually("a breach in the page's answer", async || {
        let report = agent.interval(&[(web, 300), (batch, 1_500)], &[(web, batch, 400)]);
        agent.send(report).await;
        tokio::time::sleep(Duration::from_millis(900)).await;
        let all = json(running.http_addr, "/api/snapshot").await;
        let breaches = all["clusters"][0]["breaches"].as_array().unwrap().clone();
        breaches.into_iter().find(|b| b["state"] == "firing")
    })
    .await;
    assert_eq!(
        (&breach["kind"], &breach["tenant"], &breach["against"]),
        (&"NoisyNeighbour".into(), &"red".into(), &"blue".into())
    );
    assert_eq!(breach["culprits"][0]["pod"], "red/batch");
    let stolen = breach["evidence"].as_array().unwrap();
    assert!(
        stolen.iter().any(|figure| figure[0] == "stolen_cores"),
        "{breach}"
    );

    // Nothing is reported any more: both are asked for the same.
    let truth = snapshot(&running).await;
    let all = json(running.http_addr, "/api/snapshot").await;
    let cluster = &all["clusters"][0];
    let parties = cluster["ledger"]["parties"].as_array().unwrap();
    let cells = cluster["ledger"]["cells"].as_array().unwrap();
    for cell in truth.ledger.iter().filter(|cell| cell.cores > 0.0) {
        let number = |name: &str| parties.iter().position(|party| party == name).unwrap();
        let (waiter, runner) = (number(&cell.waiter), number(&cell.runner));
        let found = cells.iter().find(|c| c[0] == waiter && c[1] == runner).unwrap();
        assert!(
            (found[2].as_f64().unwrap() - cell.cores).abs() < 1e-6,
            "{found} is not {cell:?}"
        );
    }
    let names: Vec<&str> = cluster["tenants"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tenant| tenant["name"].as_str().unwrap())
        .collect();
    let wanted: Vec<&str> = truth.tenants.iter().map(|tenant| &*tenant.name).collect();
    assert_eq!(names, wanted);

    let tenant = json(running.http_addr, "/api/tenant?cluster=default&name=blue").await;
    assert_eq!(tenant["pods"][0]["name"], "web");
    let node = json(running.http_addr, "/api/node?name=node-a").await;
    assert_eq!(node["pods"].as_array().unwrap().len(), 2);
    let flows = json(running.http_addr, "/api/flows?from=red&to=blue").await;
    assert_eq!(flows["flows"], Value::Array(Vec::new()));
    let history = json(running.http_addr, "/api/history").await;
    assert_eq!(
        (&history["source"], &history["is_cut"]),
        (&"memory".into(), &false.into())
    );
    for (path, needle) in [
        ("/api/tenant?name=nobody", "nobody"),
        ("/api/node?name=", "node"),
        ("/api/flows?cluster=east", "east"),
    ] {
        let (head, body) = get(running.http_addr, path, "a: b").await;
        assert!(head.starts_with("http/1.0 404"), "{path}: {head}");
        assert!(body.contains(needle), "{path}: {body}");
    }
    running.stop().await.unwrap();
}

#[tokio::test]
async fn a_tenant_is_told_as_it_was_judged_last() {
    let dir = tempfile::tempdir().unwrap();
    let running = running(dir.path(), None).await;
    let all = dir.path().join("cluster/all.yaml");
    std::fs::write(&all, pod("blue", "web", "500m")).unwrap();
    let mut agent = Agent::connect(&running, "node-a").await;
    let mut ran = vec![(agent.pod("uid-blue-web"), 300)];
    for wanted in [&["web"][..], &["more", "web"]] {
        eventually("the tenant's pods", async || {
            let report = agent.interval(&ran, &[]);
            agent.send(report).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
            // Asked for in this order, the second is never the older one; a first question for it makes what is kept for the next.
            let judged =
                json(running.http_addr, "/api/snapshot").await["clusters"][0]["judged_unix_ms"].clone();
            let (head, body) = get(running.http_addr, "/api/tenant?name=blue", "a: b").await;
            if !head.starts_with("http/1.0 200") {
                return None;
            }
            let tenant: Value = serde_json::from_str(&body).unwrap();
            assert!(
                tenant["judged_unix_ms"].as_u64() >= judged.as_u64(),
                "{tenant} is older than {judged}"
            );
            let pods = tenant["pods"].as_array().unwrap();
            let mut names: Vec<&str> = pods.iter().map(|pod| pod["name"].as_str().unwrap()).collect();
            names.sort_unstable();
            (names == wanted).then_some(())
        })
        .await;
        std::fs::write(&all, pod("blue", "web", "500m") + &pod("blue", "more", "100m")).unwrap();
        ran.push((agent.pod("uid-blue-more"), 100));
    }
    running.stop().await.unwrap();
}

#[tokio::test]
async fn one_answer_serves_until_something_is_judged_anew() {
    let dir = tempfile::tempdir().unwrap();
    let running = running(dir.path(), Some("windows: {fast_seconds: 5, step_seconds: 5}\n")).await;
    let (head, body) = eventually("two answers between two judgements", async || {
        let (head, body) = get(running.http_addr, "/api/snapshot", "a: b").await;
        let same = format!("If-None-Match: {}", etag(&head));
        let (again, empty) = get(running.http_addr, "/api/snapshot", &same).await;
        (again.starts_with("http/1.0 304") && empty.is_empty()).then_some((head, body))
    })
    .await;
    assert!(body.contains("\"judged_unix_ms\""), "{body}");
    let old = etag(&head).to_owned();
    eventually("another answer", async || {
        let (head, _) = get(
            running.http_addr,
            "/api/snapshot",
            &format!("If-None-Match: {old}"),
        )
        .await;
        head.starts_with("http/1.0 200").then_some(())
    })
    .await;
    running.stop().await.unwrap();
}

#[tokio::test]
async fn without_the_page_there_are_metrics_and_probes_alone() {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let running = start(Config {
        grpc_listen: any,
        http_listen: any,
        insecure_plaintext: true,
        page: false,
        ..Config::default()
    })
    .await
    .unwrap();
    for path in ["/", "/page.js", "/api/snapshot"] {
        let text = http(running.http_addr, path).await;
        assert!(
            text.starts_with("HTTP/1.1 404") && text.ends_with("/metrics, /healthz or /readyz\n"),
            "{path}: {text}"
        );
    }
    let metrics = http(running.http_addr, "/metrics").await;
    assert!(metrics.starts_with("HTTP/1.1 200"));
    documented(&metrics);
    running.stop().await.unwrap();
}

//! `partywall explain` and `partywall headroom` against a real aggregator that a real client reports to.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::time::{Duration, Instant};

use support::{Cluster, complaint, json, stdout};

const PATIENCE: Duration = Duration::from_secs(30);

/// Of red's breach against blue, once it fires.
async fn fingerprint(cluster: &Cluster) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let document = json(&cluster.ask(&["breaches", "--json"]).await);
        let breaches = document["breaches"].as_array().unwrap().clone();
        if let Some(breach) = breaches.iter().find(|breach| breach["state"] == "firing") {
            return breach["fingerprint"].as_str().unwrap().to_owned();
        }
        assert!(Instant::now() < deadline, "nothing fired: {document:#}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_breach_is_explained_by_the_beginning_of_its_fingerprint() {
    let cluster = Cluster::start().await;
    let _reports = cluster.report().await;
    let whole = fingerprint(&cluster).await;
    let listed = stdout(&cluster.ask(&["breaches"]).await);
    assert!(listed.contains(&whole[..8]), "its ID is listed: {listed}");

    let told = cluster.ask(&["explain", &whole[..6]]).await;
    let text = stdout(&told);
    assert_eq!(told.status.code(), Some(0), "{text}");
    for wanted in [
        "firing NoisyNeighbour",
        "What happened",
        "it fired, having held for 2 s",
        "Who ran while blue/web waited",
        "red/batch",
        "noisy_neighbour.min_slowdown",
        "What would have to change (any one of these; nothing is applied)",
        "kind: Pod",
        "no owner of it is known",
    ] {
        assert!(text.contains(wanted), "{wanted:?} is not in:\n{text}");
    }
    let document = json(&cluster.ask(&["explain", &whole, "--json"]).await);
    assert_eq!(document["breach"]["fingerprint"], whole.as_str());
    let sum: f64 = document["ledger"]
        .as_array()
        .unwrap()
        .iter()
        .map(|slice| slice["cores"].as_f64().unwrap())
        .sum();
    let wait = document["breach"]["evidence"]["wait_cores"].as_f64().unwrap();
    assert!((sum - wait).abs() < 1e-9, "{sum} of {wait}");
    let yaml = stdout(&cluster.ask(&["explain", &whole, "--yaml-only"]).await);
    assert!(
        yaml.starts_with("# 1 of 2: red (request)") && yaml.contains("\n---\n"),
        "{yaml}"
    );

    for (typed, code, why) in [
        ("ffff0000ffff0000", 1, "none that lives"),
        ("xyz", 2, "hexadecimal"),
        ("", 2, "hexadecimal"),
    ] {
        let refused = cluster.ask(&["explain", typed]).await;
        assert!(complaint(&refused).contains(why), "{typed}");
        assert_eq!(refused.status.code(), Some(code), "{typed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_beginning_that_two_share_names_both() {
    let cluster = Cluster::with(&["eu-1"]).await;
    let _own = cluster.report().await;
    let _other = cluster.report_of("eu-1").await;
    let deadline = Instant::now() + PATIENCE;
    let fingerprints = loop {
        let document = json(&cluster.ask(&["breaches", "--json"]).await);
        let all: Vec<String> = document["breaches"]
            .as_array()
            .unwrap()
            .iter()
            .map(|breach| breach["fingerprint"].as_str().unwrap().to_owned())
            .collect();
        if all.len() == 2 {
            break all;
        }
        assert!(Instant::now() < deadline, "two were awaited: {document:#}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    // What a person would have typed too shortly: as many digits as they share, where they share any.
    let shared = fingerprints[0]
        .bytes()
        .zip(fingerprints[1].bytes())
        .take_while(|(a, b)| a == b)
        .count();
    if shared > 0 {
        let refused = cluster.ask(&["explain", &fingerprints[0][..shared]]).await;
        let line = complaint(&refused);
        assert!(fingerprints.iter().all(|f| line.contains(f)), "{line}");
        assert_eq!(refused.status.code(), Some(2));
    }
    // The other cluster's is not found in this one.
    for (fingerprint, cluster_name) in
        [(0, "default"), (0, "eu-1"), (1, "default"), (1, "eu-1")].map(|(i, c)| (&fingerprints[i], c))
    {
        let asked = cluster
            .ask(&["explain", fingerprint, "--cluster", cluster_name, "--json"])
            .await;
        let found = asked.status.code() == Some(0);
        if found {
            assert_eq!(json(&asked)["breach"]["cluster"], cluster_name);
        } else {
            assert_eq!(asked.status.code(), Some(1));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn headroom_says_what_it_does_not_know() {
    let cluster = Cluster::start().await;
    let empty = stdout(&cluster.ask(&["headroom"]).await);
    assert!(empty.starts_with("no node is known"), "{empty}");
    let _reports = cluster.report().await;
    fingerprint(&cluster).await;
    let text = stdout(&cluster.ask(&["headroom"]).await);
    for wanted in [
        "there is no Node object of node-a",
        "no Node object names a zone",
        "The mark is at 80 %",
    ] {
        assert!(text.contains(wanted), "{wanted:?} is not in:\n{text}");
    }
    let document = json(&cluster.ask(&["headroom", "--json"]).await);
    let cpu = &document["pools"][0]["cpu"];
    assert!(
        (cpu["used_now"].as_f64().unwrap() - 1.7).abs() < 0.1,
        "{document:#}"
    );
    assert!(cpu["capacity"].is_null());
}

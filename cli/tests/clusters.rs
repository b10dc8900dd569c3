//! The built program against a real aggregator that serves two clusters, in which everything bears the same names.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use support::{Cluster, complaint, json, partywall, stdout};

const PATIENCE: Duration = Duration::from_secs(30);

/// Words of the line that begins with these.
fn row<'a>(text: &'a str, begin: &[&str]) -> Vec<&'a str> {
    let rows = text
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.into_iter()
        .find(|row| row.starts_with(begin))
        .unwrap_or_else(|| panic!("no line begins with {begin:?} in\n{text}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clusters_are_told_apart_and_asked_for_by_name() {
    let both = Cluster::with(&["eu-1"]).await;
    // Only there does somebody report.
    let _reports = both.report_of("eu-1").await;
    let deadline = Instant::now() + PATIENCE;
    let firing = loop {
        let document = json(&both.ask(&["breaches", "--json"]).await);
        let breaches = document["breaches"].as_array().unwrap();
        if let Some(breach) = breaches.iter().find(|breach| breach["state"] == "firing") {
            break breach.clone();
        }
        assert!(Instant::now() < deadline, "nothing fired: {document:#}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    assert_eq!(
        (&firing["cluster"], &firing["tenant"], &firing["against"]),
        (&"eu-1".into(), &"red".into(), &"blue".into())
    );

    let all = stdout(&both.ask(&["tenants"]).await);
    assert!(all.starts_with("CLUSTER  TENANT "), "{all}");
    for (cluster, pods) in [("default", "0"), ("eu-1", "1")] {
        assert_eq!(row(&all, &[cluster, "blue"])[2], pods, "{all}");
    }
    let stolen = |text: &str, cluster: &[&str]| {
        row(text, &[cluster, &["blue"]].concat())[cluster.len() + 6].to_owned()
    };
    assert_eq!(stolen(&all, &["default"]), "·", "{all}");
    assert_ne!(stolen(&all, &["eu-1"]), "·", "{all}");

    let one = stdout(&both.ask(&["tenants", "--cluster", "default"]).await);
    assert!(one.starts_with("TENANT ") && !one.contains("eu-1"), "{one}");
    assert_eq!(stolen(&one, &[]), "·", "{one}");
    let quiet = stdout(&both.ask(&["breaches", "--cluster", "default"]).await);
    assert!(
        quiet.starts_with("no breach\n") && quiet.contains("cluster default"),
        "{quiet}"
    );
    let loud = stdout(&both.ask(&["breaches"]).await);
    assert_eq!(
        row(&loud, &["eu-1", "firing"])[2..5],
        ["NoisyNeighbour", "red", "blue"],
        "{loud}"
    );
    let once = stdout(&both.ask(&["top", "--once"]).await);
    assert!(once.contains(" · 2 clusters · 1 node · "), "{once}");
    assert_eq!(
        row(&once, &["eu-1", "blue/web"])[2..4],
        ["blue", "node-a"],
        "{once}"
    );
    let document = json(&both.ask(&["top", "--json", "--cluster", "eu-1"]).await);
    assert_eq!(document["clusters"].as_array().unwrap().len(), 1);
    assert_eq!(document["clusters"][0]["name"], "eu-1");
    assert_eq!(document["nodes"][0]["cluster"], "eu-1");
    assert!(
        document["nodes"][0]["clock_offset_seconds"]
            .as_f64()
            .unwrap()
            .abs()
            < 2.0
    );

    // A line of a stream says whose it is.
    let mut child = partywall(&["breaches", "--watch", "--aggregator", &both.grpc.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = tokio::task::spawn_blocking(move || lines.map(Result::unwrap).next().unwrap());
    let line = tokio::time::timeout(PATIENCE, line).await.unwrap().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(
        line.contains("NoisyNeighbour red against blue in eu-1: "),
        "{line}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_there_is_not_is_an_error_that_names_those_that_there_are() {
    let both = Cluster::with(&["eu-1"]).await;
    for command in [
        &["tenants"][..],
        &["tenants", "--explain", "blue"],
        &["top", "--once"],
        &["top", "--json"],
        &["breaches"],
        &["breaches", "--watch"],
        &["flows"],
        &["flows", "--watch"],
        &["policy", "suggest"],
    ] {
        let output = both.ask(&[command, &["--cluster", "us-\u{1b}9"]].concat()).await;
        let line = complaint(&output);
        assert_eq!(
            line, "partywall: cluster: \"us-\\u{1b}9\" is not known; there is default, eu-1\n",
            "{command:?}"
        );
        assert_eq!(output.status.code(), Some(1), "{command:?}");
        assert!(output.stdout.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_is_explained_rule_by_rule() {
    let both = Cluster::with(&["eu-1"]).await;
    let text = stdout(&both.ask(&["tenants", "--explain", "blue"]).await);
    assert!(
        text.starts_with(
            "namespace blue of cluster default is tenant blue's: no rule names another, so it is its own tenant\n\n\
             RULE       OUTCOME  DETAIL\n"
        ),
        "{text}"
    );
    assert_eq!(text.lines().count(), 10, "{text}");
    assert_eq!(row(&text, &["system"])[1], "silent");
    assert_eq!(
        row(&text, &["namespace", "named"])[2..5],
        ["no", "rule", "before"]
    );

    let document = json(
        &both
            .ask(&["tenants", "--explain", "red", "--cluster", "eu-1", "--json"])
            .await,
    );
    assert_eq!(
        (
            &document["cluster"],
            &document["tenant"],
            &document["resolved_by"]
        ),
        (&"eu-1".into(), &"red".into(), &"namespace".into())
    );
    assert_eq!(document["rules"].as_array().unwrap().len(), 7);
    assert_eq!(document["rules"][6]["outcome"], "named");

    let nowhere = both.ask(&["tenants", "--explain", "ornage"]).await;
    assert_eq!(
        complaint(&nowhere),
        "partywall: namespace: \"ornage\" is in no object of cluster \"default\" and in no rule of the policy\n"
    );
    assert_eq!(nowhere.status.code(), Some(1));
}

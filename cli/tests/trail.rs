//! `partywall history` and `partywall audit` against a real aggregator that keeps its trail.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Cluster, complaint, json, stdout};

const PATIENCE: Duration = Duration::from_secs(60);

/// Until the trail tells that red's breach against blue fired.
async fn fired(cluster: &Cluster) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let output = cluster.ask(&["history", "--json"]).await;
        let entries = json(&output);
        if let Some(entry) = entries.as_array().unwrap().first() {
            return entry.clone();
        }
        assert!(Instant::now() < deadline, "nothing is in the trail");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fired_is_told_verified_and_copied() {
    let mut cluster = Cluster::remembering().await;
    let reports = cluster.report().await;
    let entry = fired(&cluster).await;
    let breach = &entry["breach"];
    assert_eq!(
        (&breach["kind"], &breach["tenant"], &breach["against"]),
        (&"NoisyNeighbour".into(), &"red".into(), &"blue".into())
    );
    assert!(entry["fired_sequence"].as_u64().unwrap() > 0 && entry["end_unknown"] == "");
    let text = stdout(
        &cluster
            .ask(&["history", "--from", "-1h", "--tenant", "blue"])
            .await,
    );
    assert!(
        text.contains("fires still") && text.contains("red/batch took"),
        "{text}"
    );
    let none = stdout(&cluster.ask(&["history", "--kind", "fenceleak"]).await);
    assert!(none.starts_with("nothing fired in that time"), "{none}");
    let csv = stdout(&cluster.ask(&["history", "--csv"]).await);
    assert!(
        csv.starts_with("fired,resolved,") && csv.contains(",NoisyNeighbour,default,red,blue,"),
        "{csv}"
    );

    // The chain, and the head that it had.
    let verified = cluster.ask(&["audit", "verify", "--json"]).await;
    assert_eq!(verified.status.code(), Some(0));
    let verified = json(&verified);
    let head = verified["head"].as_str().unwrap().to_owned();
    assert!(
        verified["breaches"].as_u64().unwrap() >= 1 && verified["starts"] == 1,
        "{verified:#}"
    );
    let again = cluster.ask(&["audit", "verify", "--head", &head]).await;
    assert!(stdout(&again).contains("the head that was noted is in it"));
    let (sequence, hash) = head.split_once(':').unwrap();
    let other: String = hash.chars().map(|c| if c == '0' { '1' } else { '0' }).collect();
    let refused = cluster
        .ask(&["audit", "verify", "--head", &format!("{sequence}:{other}")])
        .await;
    assert!(complaint(&refused).contains("another hash than was noted"));
    assert_eq!(refused.status.code(), Some(1));

    // A copy, and what is done to it.
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().to_str().unwrap();
    let copied = cluster
        .ask(&["audit", "export", "--format", "jsonl", "--out", out])
        .await;
    assert_eq!(copied.status.code(), Some(0));
    assert!(complaint(&copied).contains("the head is"));
    let file = dir.path().join("trail.jsonl");
    let file = file.to_str().unwrap();
    let verified = cluster
        .ask(&["audit", "verify", "--file", file, "--head", &head])
        .await;
    assert_eq!(verified.status.code(), Some(0), "{verified:?}");
    let lines = std::fs::read_to_string(file).unwrap();
    std::fs::write(file, lines.replace("NoisyNeighbour", "SystemNoise")).unwrap();
    let broken = cluster.ask(&["audit", "verify", "--file", file]).await;
    assert!(
        complaint(&broken).contains("is not what its body says"),
        "{broken:?}"
    );
    assert_eq!(broken.status.code(), Some(1));
    let partial = ["audit", "export", "--format", "jsonl", "--from", "-1h"];
    let partial = cluster.ask(&partial).await;
    assert!(complaint(&partial).contains("--from") && partial.status.code() == Some(2));

    let csv = stdout(&cluster.ask(&["audit", "export", "--format", "csv"]).await);
    assert!(
        csv.lines()
            .any(|line| line.contains(",breach,default,NoisyNeighbour,firing,red,blue,")),
        "{csv}"
    );
    for format in ["openreports", "policyreport"] {
        let made = cluster
            .ask(&[
                "audit", "export", "--format", format, "--from", "-1h", "--out", out,
            ])
            .await;
        assert_eq!(made.status.code(), Some(0), "{made:?}");
        let red = std::fs::read_to_string(dir.path().join("red.yaml")).unwrap();
        let red: Value = serde_saphyr::from_str(&red).unwrap();
        let noisy = red["results"]
            .as_array()
            .unwrap()
            .iter()
            .find(|r| r["rule"] == "NoisyNeighbour")
            .unwrap();
        assert_eq!(
            (&noisy["result"], &noisy["resources"][0]["name"]),
            (&"fail".into(), &"batch".into())
        );
        assert_eq!(red["summary"]["fail"], 1);
        assert!(dir.path().join("blue.yaml").exists());
    }

    // Nobody reports flows there: what crossed is not known, and that is said.
    let asked = cluster
        .ask(&["audit", "--from", "-1h", "--pair", "red,blue"])
        .await;
    let text = stdout(&asked);
    assert_eq!(asked.status.code(), Some(5), "{text}");
    assert!(text.starts_with("unknown: ") && text.contains("gap of"), "{text}");
    let asked = cluster
        .ask(&["audit", "--from", "-1h", "--pair", "red,blue", "--json"])
        .await;
    assert_eq!(json(&asked)["answer"], "unknown");
    assert_eq!(asked.status.code(), Some(5));

    // A breach that is in the trail alone is explained from there.
    let fingerprint = breach["fingerprint"].as_str().unwrap();
    let told = stdout(&cluster.ask(&["explain", fingerprint]).await);
    assert!(told.contains("Who ran while blue/web waited"), "it lives: {told}");
    reports.abort();
    cluster.restart().await;
    let told = stdout(&cluster.ask(&["explain", &fingerprint[..10]]).await);
    for wanted in [
        "NoisyNeighbour",
        "noisy_neighbour.min_stolen_cores",
        "only what the trail keeps of it is known",
    ] {
        assert!(told.contains(wanted), "{wanted:?} is not in:\n{told}");
    }
    // The chain goes on where the one before ended.
    let verified = cluster.ask(&["audit", "verify", "--head", &head, "--json"]).await;
    assert_eq!(json(&verified)["starts"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn times_and_tenants_are_checked_as_typed() {
    let cluster = Cluster::start().await;
    for (arguments, code, wanted) in [
        (&["audit", "--from", "yesterday"][..], 2, "--from <TIME>"),
        (&["audit", "--pair", "red,blue"], 2, "--from <TIME>"),
        (&["audit", "--from", "now", "--to", "-1h"], 2, "not before --to"),
        (&["audit", "--from", "-1h", "--pair", "red"], 2, "write FROM,TO"),
        (&["history", "--kind", "Noise"], 2, "NoisyNeighbour"),
        (&["audit", "verify", "--head", "x"], 2, "SEQUENCE:HASH"),
        (
            &["audit", "verify", "--file", "/nowhere/at-all"],
            2,
            "/nowhere/at-all",
        ),
        (&["history"], 1, "keeps no trail"),
        (&["audit", "--from", "-1h"], 4, "keeps no trail"),
        (&["audit", "verify"], 4, "keeps no trail"),
    ] {
        let output = cluster.ask(arguments).await;
        let line = complaint(&output);
        assert!(line.contains(wanted), "{arguments:?}: {line}");
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {line}");
    }
}

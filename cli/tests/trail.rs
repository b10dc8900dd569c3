//! `partywall history` and `partywall audit` against a real aggregator that keeps its trail.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::path::Path;
use std::process::Output;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use partywall_aggregator::trail::Offline;
use partywall_aggregator_core::traffic::Verdict;
use partywall_aggregator_core::trail::{Moved, SLOT_NS, Taken};
use partywall_proto::v1;
use serde_json::Value;
use support::{Cluster, complaint, json, stdout};

const PATIENCE: Duration = Duration::from_secs(60);
const SECOND_NS: u64 = 1_000_000_000;

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

fn now_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(now.as_nanos()).unwrap()
}

/// So many breaches fired, one a second, the last a minute ago.
fn fires(dir: &Path, breaches: u64) {
    let begins_ns = now_ns() - (breaches + 60) * SECOND_NS;
    let mut past = Offline::open(dir, "default", begins_ns).unwrap();
    for n in 0..breaches {
        let at_ns = begins_ns + n * SECOND_NS;
        let breach = v1::Breach {
            fingerprint: format!("{n:016x}"),
            cluster: "default".into(),
            kind: v1::BreachKind::FlatNetwork.into(),
            state: v1::BreachState::Firing.into(),
            tenant: "red".into(),
            summary: format!("breach {n}"),
            since_unix_ns: at_ns,
            firing_unix_ns: at_ns,
            ..v1::Breach::default()
        };
        past.judged(Taken::default(), vec![Arc::new(breach)], at_ns);
    }
    past.write(now_ns()).unwrap();
}

/// The numbers of what is told, and what is said beside it.
fn told(output: &Output) -> (Vec<u64>, String) {
    let number = |entry: &Value| entry["breach"]["summary"].as_str().unwrap()[7..].parse().unwrap();
    let numbers = json(output).as_array().unwrap().iter().map(number).collect();
    (numbers, String::from_utf8(output.stderr.clone()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_past_is_told_in_pages() {
    // Two and a half times what is asked for at once.
    let cluster = Cluster::with_past(|dir| fires(dir, 2_500)).await;
    let all: Vec<u64> = (0..2_500).collect();
    for limit in ["0", "2500", "9999"] {
        let whole = cluster.ask(&["history", "--json", "--limit", limit]).await;
        assert_eq!(told(&whole), (all.clone(), String::new()), "--limit {limit}");
    }

    // Cut: it says how to see more, and that is what follows.
    let mut seen = Vec::new();
    let mut before: Vec<String> = Vec::new();
    for wanted in [1_100, 1_100, 300] {
        let mut asked = vec!["history", "--json", "--limit", "1100"];
        asked.extend(before.iter().map(String::as_str));
        let (numbers, said) = told(&cluster.ask(&asked).await);
        assert_eq!(numbers.len(), wanted);
        seen.splice(0..0, numbers);
        let more = said.split_once("there are older ones: ");
        assert_eq!(more.is_some(), wanted == 1_100, "{said}");
        before = more
            .map(|(_, flags)| flags.split_whitespace().map(str::to_owned).collect())
            .unwrap_or_default();
    }
    assert_eq!(seen, all);

    let refused = cluster.ask(&["history", "--before", "yesterday"]).await;
    assert!(
        complaint(&refused).contains("before: \"yesterday\""),
        "{refused:?}"
    );
    assert_eq!(refused.status.code(), Some(2));
    // Objects of report APIs hold the newest thousand, and know of all.
    let made = cluster
        .ask(&["audit", "export", "--format", "policyreport"])
        .await;
    let made = stdout(&made);
    let (_, left_out) = made.split_once("partywall/left-out: ").unwrap();
    let left_out: u64 = left_out
        .lines()
        .next()
        .unwrap()
        .trim_matches('"')
        .parse()
        .unwrap();
    assert!(left_out >= 1_500, "{left_out}");
}

/// In each of `tenants` reached each, itself not, four hours ago.
fn all_reach_all(dir: &Path, tenants: u64) {
    let first = now_ns() / SLOT_NS - 4 * 360;
    let mut past = Offline::open(dir, "default", first * SLOT_NS).unwrap();
    let moved = |from: u64, to: u64| Moved {
        from: format!("t{from:02}").into(),
        to: format!("t{to:02}").into(),
        verdict: Verdict::Open,
        delivered: true,
        bytes: 100,
        packets: 2,
        connections: 1,
        when: vec![(first + 7, first + 7)],
    };
    for slot in first + 1..now_ns() / SLOT_NS - 3 {
        let mut taken = Taken::default();
        if slot == first + 7 {
            let pairs = (0..tenants).flat_map(|from| (0..tenants).map(move |to| (from, to)));
            taken.moved.extend(
                pairs
                    .filter(|(from, to)| from != to)
                    .map(|(from, to)| moved(from, to)),
            );
        }
        past.judged(taken, Vec::new(), (slot + 1) * SLOT_NS + 6 * SECOND_NS);
    }
    past.write(now_ns()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn more_pairs_than_one_answer_holds_are_refused_and_copied_all_the_same() {
    // 66 times 65: more than 4,096.
    let cluster = Cluster::with_past(|dir| all_reach_all(dir, 66)).await;
    let refused = cluster.ask(&["audit", "--from", "-5h"]).await;
    let line = complaint(&refused);
    assert_eq!(refused.status.code(), Some(4), "{line}");
    assert!(
        line.contains("pairs of tenants or more: name one of the tenants, or less time"),
        "{line}"
    );
    assert!(stdout(&refused).is_empty(), "a part would look like all");

    let one = cluster
        .ask(&["audit", "--from", "-5h", "--tenant", "t07", "--json"])
        .await;
    assert_eq!(one.status.code(), Some(1));
    let pairs = json(&one)["pairs"].as_array().unwrap().clone();
    assert_eq!(pairs.iter().filter(|pair| pair["reached"] == "yes").count(), 130);

    let csv = stdout(&cluster.ask(&["audit", "export", "--format", "csv"]).await);
    assert_eq!(
        csv.lines().filter(|line| line.contains(",crossing,")).count(),
        66 * 65
    );
    for format in ["openreports", "policyreport"] {
        let made = cluster
            .ask(&["audit", "export", "--format", format, "--from", "-5h"])
            .await;
        assert_eq!(made.status.code(), Some(0), "{format}: {made:?}");
    }
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

//! The demo for real: root, cgroup v2 and a kernel that the agent can run on are needed, and their lack is a failure.
//!
//! One test: two demos at once would be neighbours of each other, on the same CPU.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

fn demo(arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_partywall"))
        .arg("demo")
        .args(arguments)
        .env("TMPDIR", temporary())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the built program")
}

/// A directory of this test's own: whatever a demo leaves in it, it left.
fn temporary() -> &'static str {
    env!("CARGO_TARGET_TMPDIR")
}

fn left_in_temporary() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(temporary())
        .expect("the directory")
        .flatten()
        .map(|entry| entry.path());
    entries
        .filter(|path| path.to_string_lossy().contains("partywall-demo-"))
        .collect()
}

/// The pods' cgroups there are, by path.
fn pods() -> BTreeSet<PathBuf> {
    fn walk(directory: &Path, found: &mut BTreeSet<PathBuf>) {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                found.insert(entry.path());
                walk(&entry.path(), found);
            }
        }
    }
    let mut found = BTreeSet::new();
    walk(
        &partywall_workload::cgroup2_mount()
            .expect("cgroup v2")
            .join("kubepods.slice"),
        &mut found,
    );
    found
}

/// Sends `name` when the demo has printed a line with `wanted`; gives its exit code and what it said.
fn interrupted_at(wanted: &str, name: &str) -> (Option<i32>, String) {
    let before = pods();
    let mut child = demo(&[]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let reached = lines.by_ref().any(|line| line.unwrap().contains(wanted));
    assert!(
        reached,
        "{wanted:?} was never said: {:?}",
        child.wait_with_output()
    );
    assert!(
        pods().difference(&before).count() > 0,
        "it has made cgroups by now"
    );
    assert!(
        Command::new("kill")
            .args([&format!("-{name}"), &child.id().to_string()])
            .status()
            .unwrap()
            .success()
    );
    // To its end: a closed pipe would end it, too.
    lines.for_each(drop);
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn shows_its_case_and_never_leaves_a_trace() {
    without_ip_and_nft_it_does_not_begin();
    an_interrupted_demo_cleans_up();
    a_reader_that_left_is_no_proof_and_still_cleans_up();
    names_red_and_nobody_else_and_leaves_no_trace();
}

fn names_red_and_nobody_else_and_leaves_no_trace() {
    let output = demo(&["--seconds", "10", "--json"]).wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let document: serde_json::Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {stderr}{}", String::from_utf8_lossy(&output.stdout)));
    assert_eq!(output.status.code(), Some(0), "{stderr}{document:#}");
    assert_eq!(stderr, "", "nothing went wrong, the end included");
    assert_eq!(document["proved"], true);
    let seconds = document["seconds_to_firing"].as_f64().unwrap();
    assert!(
        (0.0..=5.0).contains(&seconds),
        "{seconds} s from red's start to a firing breach"
    );
    assert!(document["seconds_to_resolved"].as_f64().is_some());
    let breaches = document["breaches"].as_array().unwrap();
    let case = breaches
        .iter()
        .find(|breach| breach["tenant"] == "red" && breach["against"] == "blue")
        .unwrap();
    assert_eq!(case["kind"], "NoisyNeighbour");
    assert!(
        case["evidence"]["stolen_cores"].as_f64().unwrap() >= 0.01,
        "{case:#}"
    );
    let cell = |waiter: &str, runner: &str| {
        let cells = document["ledger"].as_array().unwrap().iter();
        cells
            .filter(|cell| cell["waiter"] == waiter && cell["runner"] == runner)
            .map(|cell| cell["cores"].as_f64().unwrap())
            .sum::<f64>()
    };
    assert!(cell("blue", "red") > cell("blue", "green"), "{document:#}");
    names_the_connection_and_suggests_its_end(&document);
    assert!(document["agent"]["memory_bytes"].as_u64().unwrap() > 0);
    assert_eq!(document["left_behind"], serde_json::json!([]));
    assert_eq!(left_in_temporary(), Vec::<PathBuf>::new());
}

fn names_the_connection_and_suggests_its_end(document: &serde_json::Value) {
    let breaches = document["breaches"].as_array().unwrap();
    let flat: Vec<_> = breaches
        .iter()
        .filter(|breach| breach["kind"] == "FlatNetwork")
        .collect();
    assert_eq!(flat.len(), 1, "red's connection and nothing else: {flat:#?}");
    assert_eq!(
        (&flat[0]["tenant"], &flat[0]["against"]),
        (&"red".into(), &"blue".into())
    );
    assert_eq!(flat[0]["evidence"]["port"], 8080.0);
    assert!(flat[0]["evidence"]["bytes"].as_f64().unwrap() > 0.0);
    let reach = &document["flat_network"];
    let seconds = reach["seconds_to_firing"].as_f64().unwrap();
    assert!(
        (0.0..=5.0).contains(&seconds),
        "{seconds} s from red's connection to a firing breach"
    );
    let flow = &reach["flow"];
    assert_eq!(
        (&flow["from"]["pod"], &flow["to"]["pod"]),
        (&"batch".into(), &"web".into())
    );
    assert_eq!(
        (&flow["verdict"], &flow["seen_by"]),
        (&"open".into(), &"both".into())
    );
    assert!(
        flow["traffic"]["received_bytes"].as_u64().unwrap() > 0,
        "{flow:#}"
    );
    let policies = reach["suggestion"]["policies"].as_array().unwrap();
    assert_eq!(policies.len(), 1, "{policies:#?}");
    assert_eq!(policies[0]["metadata"]["namespace"], "blue");
    assert_eq!(policies[0]["spec"]["podSelector"]["matchLabels"]["app"], "web");
    assert_eq!(reach["suggestion"]["counts"]["closed"], 1);
}

/// Before anything is made, and with both packages at once.
fn without_ip_and_nft_it_does_not_begin() {
    let before = pods();
    // A shell would do: only that they are not found matters.
    let empty = Path::new(temporary()).join("no-programs");
    std::fs::create_dir_all(&empty).unwrap();
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c"])
        .arg("for d in /usr/sbin /sbin; do mount --bind \"$1\" $d || exit 99; done; PATH=$1 exec \"$2\" demo")
        .args([
            "sh".as_ref(),
            empty.as_os_str(),
            env!("CARGO_BIN_EXE_partywall").as_ref(),
        ])
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(4), "{stderr}");
    assert!(stderr.contains("apt-get install iproute2 nftables"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(output.stdout.is_empty());
    assert_eq!(pods(), before);
}

fn an_interrupted_demo_cleans_up() {
    for (wanted, name) in [("Three tenants", "INT"), ("waited", "TERM")] {
        let (code, stderr) = interrupted_at(wanted, name);
        assert_eq!(code, Some(130), "{stderr}");
        assert_eq!(stderr, "partywall: interrupted; everything was removed\n");
        assert_eq!(left_in_temporary(), Vec::<PathBuf>::new());
    }
}

fn a_reader_that_left_is_no_proof_and_still_cleans_up() {
    let mut child = demo(&[]);
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains("stdout was closed") && stderr.contains("everything was removed"),
        "{stderr}"
    );
    assert_eq!(left_in_temporary(), Vec::<PathBuf>::new());
}

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
    assert!(document["agent"]["memory_bytes"].as_u64().unwrap() > 0);
    assert_eq!(document["left_behind"], serde_json::json!([]));
    assert_eq!(left_in_temporary(), Vec::<PathBuf>::new());
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

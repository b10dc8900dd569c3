//! The built program against a real aggregator that a real client reports to.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use support::{Cluster, complaint, json, partywall, stdout};

/// A breach fires within five seconds; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(30);

/// Until red's breach against blue fires.
async fn firing(cluster: &Cluster) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let output = cluster.ask(&["breaches", "--json"]).await;
        let document = json(&output);
        if document["breaches"]
            .as_array()
            .unwrap()
            .iter()
            .any(|breach| breach["state"] == "firing")
        {
            return;
        }
        assert!(Instant::now() < deadline, "nothing fired: {document:#}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_shows_the_neighbour_that_was_named() {
    let cluster = Cluster::start().await;
    let _reports = cluster.report().await;
    firing(&cluster).await;

    let breaches = cluster.ask(&["breaches"]).await;
    let text = stdout(&breaches);
    let row: Vec<&str> = text.lines().nth(1).expect("a row").split_whitespace().collect();
    assert_eq!(
        row[..6],
        ["firing", "NoisyNeighbour", "red", "blue", "blue/web", "node-a"],
        "{text}"
    );
    assert!(
        text.lines().nth(2).expect("a finding").contains("red/batch"),
        "{text}"
    );

    let by_json = json(&cluster.ask(&["breaches", "--json", "--tenant", "blue"]).await);
    let breach = &by_json["breaches"][0];
    assert_eq!(
        (&breach["kind"], &breach["tenant"], &breach["against"]),
        (&"NoisyNeighbour".into(), &"red".into(), &"blue".into())
    );
    let stolen = breach["evidence"]["stolen_cores"].as_f64().expect("a figure");
    assert!(
        (0.25..=0.35).contains(&stolen),
        "0.3 cores were reported, {stolen} came back"
    );

    let tenants = json(&cluster.ask(&["tenants", "--json"]).await);
    let tenant = |name: &str| {
        let all = tenants["tenants"].as_array().unwrap();
        all.iter()
            .find(|tenant| tenant["name"] == name)
            .unwrap_or_else(|| panic!("no {name} in {tenants:#}"))
            .clone()
    };
    assert_eq!(tenant("blue")["entitled_cores"], 0.5);
    assert_eq!(tenant("red")["entitled_cores"], 0.1);
    let used = tenant("red")["used_cores"].as_f64().unwrap();
    assert!((1.4..=1.6).contains(&used), "{used}");
    let text = stdout(&cluster.ask(&["tenants"]).await);
    assert!(
        text.starts_with("TENANT") && !text.contains('\x1b'),
        "plain in a pipe: {text}"
    );
    assert!(
        text.lines().nth(1).is_some_and(|line| line.starts_with("blue")),
        "most stolen from first: {text}"
    );

    let once = stdout(&cluster.ask(&["top", "--once"]).await);
    for wanted in [
        "1 firing",
        "Tenants\n",
        "Pods\n",
        "Ledger: ",
        "Breaches\n",
        "blue/web",
        "red/batch",
        "1 node ",
    ] {
        assert!(once.contains(wanted), "{wanted:?} is not in:\n{once}");
    }
    let document = json(&cluster.ask(&["top", "--json"]).await);
    let cell = document["ledger"]
        .as_array()
        .unwrap()
        .iter()
        .find(|cell| cell["waiter"] == "blue" && cell["runner"] == "red");
    let cores = cell
        .and_then(|cell| cell["cores"].as_f64())
        .unwrap_or_else(|| panic!("no cell in {document:#}"));
    assert!((0.25..=0.35).contains(&cores), "{cores}");
    assert_eq!(document["nodes"][0]["agent"]["memory_bytes"], 20 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_cluster_is_silent_with_its_coverage() {
    let cluster = Cluster::start().await;
    let output = cluster.ask(&["breaches"]).await;
    assert_eq!(output.status.code(), Some(0));
    let text = stdout(&output);
    assert!(
        text.starts_with("no breach\n") && text.contains("no agent has reported"),
        "{text}"
    );
    assert_eq!(json(&cluster.ask(&["breaches", "--json"]).await)["covered"], 0.0);
    let unknown = cluster.ask(&["breaches", "--tenant", "ornage\x1b[2J"]).await;
    let line = complaint(&unknown);
    assert!(
        line.contains("--tenant \"ornage\\") && line.contains("no such tenant") && !line.contains('\x1b'),
        "{line}"
    );
    assert_eq!(unknown.status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_are_suggested_from_what_the_aggregator_saw() {
    let cluster = Cluster::start().await;
    let suggested = cluster.ask(&["policy", "suggest"]).await;
    assert_eq!(suggested.status.code(), Some(0));
    assert!(stdout(&suggested).contains("0 policies from 0 flows, none was ever seen"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_port_is_not_the_query_port() {
    let cluster = Cluster::start().await;
    let output = cluster
        .ask(&["tenants", "--aggregator", &cluster.http.to_string()])
        .await;
    assert!(complaint(&output).contains(&cluster.http.to_string()));
    assert_eq!(output.status.code(), Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_left_ends_it_quietly() {
    let cluster = Cluster::start().await;
    for arguments in [vec!["tenants"], vec!["breaches", "--json"], vec!["top", "--once"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = partywall(&arguments);
        command
            .args(["--aggregator", &cluster.grpc.to_string()])
            .stdout(writer)
            .stderr(Stdio::piped());
        let output = tokio::task::spawn_blocking(move || command.output().unwrap())
            .await
            .unwrap();
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "", "{arguments:?}");
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
    }
}

/// The lines of a watch, read on a thread of their own.
fn watch(cluster: &Cluster) -> (Child, tokio::sync::mpsc::Receiver<serde_json::Value>) {
    let mut child = partywall(&[
        "breaches",
        "--watch",
        "--json",
        "--aggregator",
        &cluster.grpc.to_string(),
    ])
    .stdout(Stdio::piped())
    .stderr(Stdio::piped())
    .spawn()
    .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (sender, receiver) = tokio::sync::mpsc::channel(64);
    std::thread::spawn(move || {
        for line in lines {
            let change = serde_json::from_str(&line.unwrap()).expect("one object a line");
            if sender.blocking_send(change).is_err() {
                return;
            }
        }
    });
    (child, receiver)
}

async fn ended(mut child: Child) -> (Option<i32>, String) {
    tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        (child.wait().unwrap().code(), text)
    })
    .await
    .unwrap()
}

fn signal(child: &Child, name: &str) {
    let done = std::process::Command::new("kill")
        .args([&format!("-{name}"), &child.id().to_string()])
        .status();
    assert!(done.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_tells_pending_then_firing_and_ends_on_a_signal() {
    let cluster = Cluster::start().await;
    let (child, mut changes) = watch(&cluster);
    let _reports = cluster.report().await;
    let mut states = Vec::new();
    while states.last().is_none_or(|state| state != "firing") {
        let change = tokio::time::timeout(PATIENCE, changes.recv())
            .await
            .expect("in time")
            .expect("a change");
        assert_eq!(
            (&change["tenant"], &change["against"]),
            (&"red".into(), &"blue".into())
        );
        states.push(change["state"].as_str().unwrap().to_owned());
    }
    assert_eq!(states.first().map(String::as_str), Some("pending"), "{states:?}");
    signal(&child, "INT");
    assert_eq!(ended(child).await, (Some(0), String::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_whose_aggregator_goes_says_so() {
    let mut cluster = Cluster::start().await;
    let (child, mut changes) = watch(&cluster);
    let reports = cluster.report().await;
    // Its first line proves that it is connected.
    tokio::time::timeout(PATIENCE, changes.recv())
        .await
        .expect("in time")
        .expect("a change");
    reports.abort();
    cluster.stop().await;
    let (code, text) = ended(child).await;
    assert_eq!(code, Some(3), "{text}");
    assert!(
        text.lines().count() == 1 && text.contains(&cluster.grpc.to_string()),
        "{text}"
    );
}

/// `partywall top` on a terminal: util-linux' script gives it one and hands on what it draws.
fn on_a_terminal(cluster: &Cluster) -> Child {
    let top = format!(
        "stty rows 30 cols 120; exec {} top --aggregator http://{}",
        env!("CARGO_BIN_EXE_partywall"),
        cluster.grpc
    );
    std::process::Command::new("script")
        .args(["--quiet", "--return", "--flush", "--command", &top, "/dev/null"])
        .env("TERM", "xterm-256color")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("script, of util-linux")
}

/// Reads what is drawn until `wanted` appears in it, then goes on to the end on a thread of its own.
fn drawn_until(child: &mut Child, wanted: &str) -> std::thread::JoinHandle<String> {
    let mut screen = child.stdout.take().unwrap();
    let mut drawn = String::new();
    let deadline = Instant::now() + PATIENCE;
    let mut buffer = [0; 4096];
    while !drawn.contains(wanted) {
        let length = screen.read(&mut buffer).unwrap();
        assert!(
            length > 0 && Instant::now() < deadline,
            "{wanted:?} never appeared in {drawn:?}"
        );
        drawn.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    std::thread::spawn(move || {
        let mut rest = Vec::new();
        // A terminal whose last user left answers with an error instead of an end.
        let _ = screen.read_to_end(&mut rest);
        drawn + &String::from_utf8_lossy(&rest)
    })
}

const ENTER_SCREEN: &str = "\x1b[?1049h";
const LEAVE_SCREEN: &str = "\x1b[?1049l";
const SHOW_CURSOR: &str = "\x1b[?25h";

fn assert_restored(drawn: &str) {
    assert!(drawn.contains(ENTER_SCREEN));
    let after = drawn.rsplit(LEAVE_SCREEN).next().unwrap();
    assert!(
        drawn.contains(LEAVE_SCREEN) && drawn.contains(SHOW_CURSOR),
        "{drawn:?}"
    );
    assert!(!after.contains(ENTER_SCREEN));
}

/// What stood on the screen after each frame: only what changes is drawn, so that the bytes alone hold no whole sentence.
fn screens(drawn: &str) -> String {
    let [rows, columns] = [30, 120].map(|n| std::num::NonZeroU16::new(n).unwrap());
    let mut terminal = vt100::Parser::new(rows, columns, 0);
    let mut screens = String::new();
    // Each frame ends by hiding the cursor.
    for frame in drawn.split_inclusive("\x1b[?25l") {
        terminal.process(frame.as_bytes());
        screens += &terminal.screen().contents();
        screens.push('\n');
    }
    screens
}

#[tokio::test(flavor = "multi_thread")]
async fn top_draws_obeys_keys_and_puts_the_terminal_back() {
    let cluster = Cluster::start().await;
    let mut child = on_a_terminal(&cluster);
    let drawn = tokio::task::block_in_place(|| drawn_until(&mut child, "Partywall"));
    let mut keys = child.stdin.take().unwrap();
    for key in ["2", "3", "4", "?", "x", "/red\r", "\x1b", "s", "p", "q"] {
        keys.write_all(key.as_bytes()).unwrap();
        // A lone escape is told from a sequence by what follows it.
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    assert_eq!(ended(child).await.0, Some(0));
    let drawn = drawn.join().unwrap();
    assert_restored(&drawn);
    let screens = screens(&drawn);
    for wanted in ["nobody waited", "words and keys", "filter: red", "PAUSED"] {
        assert!(
            screens.contains(wanted),
            "{wanted:?} was never seen in\n{screens}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn top_says_that_it_lost_the_aggregator_and_restores_the_terminal_when_told_to_end() {
    let mut cluster = Cluster::start().await;
    let mut child = on_a_terminal(&cluster);
    let drawn = tokio::task::block_in_place(|| drawn_until(&mut child, "Partywall"));
    cluster.stop().await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    // script's child is the program itself: the shell was replaced.
    let program = std::process::Command::new("pgrep")
        .args(["--parent", &child.id().to_string()])
        .output()
        .unwrap();
    let pid = String::from_utf8(program.stdout).unwrap().trim().to_owned();
    assert!(
        std::process::Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(ended(child).await.0, Some(0));
    let drawn = drawn.join().unwrap();
    assert_restored(&drawn);
    let screens = screens(&drawn);
    assert!(screens.contains("LOST"), "{screens}");
}

#[tokio::test(flavor = "multi_thread")]
async fn top_without_a_terminal_says_what_to_use_instead() {
    let cluster = Cluster::start().await;
    let output = cluster.ask(&["top"]).await;
    assert!(complaint(&output).contains("--once"));
    assert_eq!(output.status.code(), Some(1));
}

//! What the program says and how it ends when nobody answers, or the command line makes no sense.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};

fn partywall(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_partywall"));
    command
        .args(arguments)
        .stdin(Stdio::null())
        .env_remove("PARTYWALL_AGGREGATOR")
        .env_remove("PARTYWALL_TLS_CA")
        .env_remove("PARTYWALL_TLS_CERT")
        .env_remove("PARTYWALL_TLS_KEY")
        .env_remove("NO_COLOR");
    command
}

fn run(arguments: &[&str]) -> Output {
    partywall(arguments).output().expect("an output")
}

/// What it said on stderr: exactly one line.
fn complaint(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).expect("UTF-8");
    assert_eq!(text.lines().count(), 1, "one line was wanted: {text:?}");
    assert!(text.starts_with("partywall: "), "{text}");
    text
}

#[test]
fn nonsense_is_one_line_and_exit_code_2() {
    for (arguments, wanted) in [
        (vec!["tops"], "top"),
        (vec!["top", "--ones"], "--once"),
        (vec!["demo", "--seconds", "1"], "6..=3600"),
        (vec!["demo", "--seconds", "many"], "many"),
        (vec!["up", "--http-listen", "nowhere"], "nowhere"),
        (vec!["breaches", "--watch", "--all"], "--all"),
        (
            vec!["tenants", "--aggregator", "https://a:1"],
            "https needs --tls-ca",
        ),
        (vec!["up", "--cluster", "eu-1"], "--cluster"),
        (vec!["tenants", "--aggregator", "a b"], "a b"),
        (vec!["tenants", "--aggregator", "http://a"], "port"),
        (
            vec!["history", "--from", "2026-11-21T14:00[Europe/Berlin]"],
            "'2026-11-21T14:00[Europe/Berlin]' for '--from <TIME>': what a time zone means",
        ),
    ] {
        let output = run(&arguments);
        let line = complaint(&output);
        assert!(line.contains(wanted), "{arguments:?}: {line}");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn nobody_there_is_one_line_and_exit_code_3() {
    let closed = TcpListener::bind("127.0.0.1:0")
        .expect("a port")
        .local_addr()
        .expect("an address")
        .to_string();
    for command in [
        vec!["tenants"],
        vec!["breaches"],
        vec!["breaches", "--watch"],
        vec!["top"],
        vec!["top", "--once"],
    ] {
        let output = run(&[command, vec!["--aggregator", &closed]].concat());
        let line = complaint(&output);
        assert!(
            line.contains(&format!("no aggregator at http://{closed}: connection refused")),
            "{line}"
        );
        assert!(line.contains("partywall up"), "says what to do: {line}");
        assert_eq!(output.status.code(), Some(3));
    }
}

#[test]
fn the_environment_names_the_aggregator_too() {
    let closed = TcpListener::bind("127.0.0.1:0")
        .expect("a port")
        .local_addr()
        .expect("an address")
        .to_string();
    let output = partywall(&["tenants"])
        .env("PARTYWALL_AGGREGATOR", &closed)
        .output()
        .expect("an output");
    assert!(complaint(&output).contains(&closed));
}

#[test]
fn a_server_that_is_no_aggregator_is_said_to_be_none() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    // A web server: it answers whatever comes in HTTP/1.1 and closes.
    std::thread::spawn(move || {
        while let Ok((mut peer, _)) = listener.accept() {
            let _ = peer.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n");
        }
    });
    let output = run(&["tenants", "--aggregator", &address]);
    let line = complaint(&output);
    assert!(line.contains(&address) && line.contains("gRPC"), "{line}");
    assert_eq!(output.status.code(), Some(3));
}

#[test]
fn help_shows_where_to_start_and_is_plain_in_a_pipe() {
    let output = run(&["--help"]);
    let help = String::from_utf8(output.stdout).expect("UTF-8");
    assert_eq!(output.status.code(), Some(0));
    for wanted in [
        "sudo partywall demo",
        "partywall top",
        "Exit codes",
        "PARTYWALL_AGGREGATOR",
    ] {
        assert!(help.contains(wanted), "{wanted} is not in:\n{help}");
    }
    assert!(!help.contains('\x1b'));
    let none = run(&[]);
    assert_eq!(none.status.code(), Some(2), "nothing asked for");
    assert!(
        String::from_utf8(none.stderr)
            .expect("UTF-8")
            .contains("sudo partywall demo")
    );
}

#[test]
fn completion_scripts_are_ones_that_the_shell_takes() {
    let output = run(&["completions", "bash"]);
    assert_eq!(output.status.code(), Some(0));
    let mut bash = Command::new("bash")
        .arg("-n")
        .stdin(Stdio::piped())
        .spawn()
        .expect("bash");
    bash.stdin
        .take()
        .expect("stdin")
        .write_all(&output.stdout)
        .expect("written");
    assert!(bash.wait().expect("an end").success());
    assert!(
        String::from_utf8(output.stdout)
            .expect("UTF-8")
            .contains("breaches")
    );
}

/// Until a question was asked: HTTP/2's preface, and frames up to the first HEADERS.
fn asked(peer: &mut TcpStream) {
    let mut preface = [0; 24];
    peer.read_exact(&mut preface).expect("a preface");
    loop {
        let mut head = [0; 9];
        peer.read_exact(&mut head).expect("a frame");
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        peer.read_exact(&mut payload).expect("its payload");
        if head[3] == 1 {
            return;
        }
    }
}

#[test]
fn a_watch_ends_on_a_signal_while_it_waits_for_an_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let child = partywall(&["flows", "--watch", "--aggregator", &address])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a child");
    let (mut peer, _) = listener.accept().expect("a connection");
    asked(&mut peer);
    // And nobody answers.
    let interrupt = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(interrupt.expect("kill").success());
    let output = child.wait_with_output().expect("an output");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn a_file_that_is_no_chain_is_told_from_one_that_is_broken() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).expect("a file");
        path
    };
    for (path, code, wanted) in [
        (dir.path().to_owned(), 2, "Is a directory"),
        (dir.path().join("none"), 2, "No such file"),
        (file("empty", b""), 4, "there is no record to verify"),
        (
            file("bytes", b"\xff\n"),
            1,
            "line 1: stream did not contain valid UTF-8",
        ),
        (file("text", b"{}\n"), 1, "line 1: no record of an export"),
    ] {
        let path = path.to_str().expect("UTF-8");
        let output = run(&["audit", "verify", "--file", path]);
        let line = complaint(&output);
        assert!(line.contains(&format!("--file {path}: ")), "{line}");
        assert!(line.contains(wanted), "{wanted:?} is not in {line}");
        assert_eq!(output.status.code(), Some(code), "{line}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn the_exit_code_stays_where_nobody_reads_why() {
    let closed = TcpListener::bind("127.0.0.1:0")
        .expect("a port")
        .local_addr()
        .expect("an address")
        .to_string();
    for (arguments, code) in [
        (&[][..], 2),
        (&["tops"], 2),
        (&["tenants", "--aggregator", &closed], 3),
        (&["audit", "--from", "-1h", "--aggregator", &closed], 3),
    ] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = partywall(arguments).stderr(writer).output().expect("an output");
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
    }
}

#[test]
fn a_reader_that_left_ends_it_quietly() {
    for arguments in [vec!["--help"], vec!["completions", "zsh"]] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = partywall(&arguments)
            .stdout(writer)
            .stderr(Stdio::piped())
            .output()
            .expect("an output");
        assert_eq!(
            String::from_utf8(output.stderr).expect("UTF-8"),
            "",
            "{arguments:?}"
        );
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
    }
}

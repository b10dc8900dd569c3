//! What the program says and how it ends when nobody answers, or the command line makes no sense.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::io::Write;
use std::net::TcpListener;
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

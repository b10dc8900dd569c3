//! `partywall policy check`: what it says, its document, and how it ends. Only files; nothing listens anywhere.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

const CLUSTER: &str = r#"
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Namespace, metadata: {name: blue, labels: {capsule.clastix.io/tenant: navy}}}
- {apiVersion: v1, kind: Namespace, metadata: {name: red}}
- {apiVersion: v1, kind: Namespace, metadata: {name: odd}}
- apiVersion: v1
  kind: Pod
  metadata: {name: db, namespace: blue, uid: u-db, labels: {app: db}}
  spec: {nodeName: node-a, containers: [{name: db, ports: [{name: pg, containerPort: 5432}]}]}
  status: {phase: Running, podIP: 10.0.0.1, hostIP: 192.0.2.1}
- apiVersion: v1
  kind: Pod
  metadata: {name: done, namespace: blue, uid: u-done}
  spec: {nodeName: node-a, containers: [{name: done}]}
  status: {phase: Failed}
- apiVersion: v1
  kind: Pod
  metadata: {name: web, namespace: red, uid: u-web, labels: {app: web}}
  spec: {nodeName: node-b, containers: [{name: web}]}
  status: {phase: Running, podIP: 10.0.0.2, hostIP: 192.0.2.2}
- apiVersion: v1
  kind: Pod
  metadata: {name: pod, namespace: odd, uid: u-odd}
  spec: {nodeName: node-b, containers: [{name: odd}]}
  status: {phase: Running, podIP: 10.0.0.3, hostIP: 192.0.2.2}
- apiVersion: v1
  kind: Service
  metadata: {name: pg, namespace: blue}
  spec: {clusterIP: 10.96.0.9, selector: {app: db}, ports: [{port: 5432}]}
- apiVersion: networking.k8s.io/v1
  kind: NetworkPolicy
  metadata: {name: deny, namespace: blue}
  spec: {podSelector: {}}
- apiVersion: networking.k8s.io/v1
  kind: NetworkPolicy
  metadata: {name: pg, namespace: blue}
  spec:
    podSelector: {matchLabels: {app: db}}
    ingress: [{from: [{ipBlock: {cidr: 203.0.113.0/24}}, {namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}], ports: [{port: pg}]}]
- {apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: l7, namespace: odd}}
"#;

fn cluster() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("all.yaml"), CLUSTER).unwrap();
    dir
}

fn check(dir: &TempDir, arguments: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_partywall"))
        .args(["policy", "check", "--cluster-from"])
        .arg(dir.path())
        .args(arguments.split_whitespace())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn document(dir: &TempDir, arguments: &str) -> Value {
    let output = check(dir, &format!("{arguments} --json"));
    serde_json::from_str(&said(&output)).unwrap()
}

#[test]
fn the_exit_code_is_the_verdict_and_the_text_says_why() {
    let dir = cluster();
    for (arguments, code, wanted) in [
        (
            "--from red/web --to blue/db --port 5432/TCP",
            0,
            &[
                "allowed: red/web (tenant red) to blue/db (tenant navy), 5432/TCP",
                "egress of red/web: no policy isolates it for egress",
                "ingress of blue/db: admitted by blue/pg ingress[0] (from[1], ports[0])",
                "from[1]: pods with app=web of every namespace",
                "ports[0]: pg/TCP",
            ][..],
        ),
        (
            "--from red/web --to blue/db --port pg",
            0,
            &["allowed: ", "5432/TCP"],
        ),
        (
            "--from 203.0.113.7 --to blue/db --port 5432",
            0,
            &["203.0.113.7 (outside)", "from[0]: addresses in 203.0.113.0/24"],
        ),
        (
            "--from red/web --to 203.0.113.9 --port 443",
            0,
            &["open: ", "no policy bears upon either end"],
        ),
        ("--from blue/db --to red/web --port 80", 0, &["open: "]),
        (
            "--from node:node-a --to blue/db --port 1",
            0,
            &[
                "open: node node-a (tenant system)",
                "the node it runs on is always allowed",
            ],
        ),
        (
            "--from 10.0.0.2 --to blue/db --port 5432",
            0,
            &["allowed: red/web (tenant red)"],
        ),
        (
            "--from red/web --to blue/db --port 80",
            1,
            &[
                "denied: ",
                "isolated for ingress by blue/deny, blue/pg, and no rule admits it",
                "blue/deny: has no ingress rules",
                "blue/pg: ingress[0] does not name the port",
            ],
        ),
        (
            "--from red/web --to blue/db --port 5432/udp",
            1,
            &["5432/UDP", "does not name the port"],
        ),
        (
            "--from red/web --to blue/db --port ICMP",
            1,
            &["denied: ", ", ICMP", "note: NetworkPolicy is defined for TCP"],
        ),
        (
            "--from node:node-b --to blue/db --port 5432",
            1,
            &["ingress[0] does not name the peer"],
        ),
        (
            "--from odd/pod --to blue/db --port 5432",
            5,
            &[
                "unknown: ",
                "kinds that are not evaluated: CiliumNetworkPolicy.cilium.io odd/l7",
            ],
        ),
    ] {
        let output = check(&dir, arguments);
        let text = said(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments}\n{text}");
        for part in wanted {
            assert!(text.contains(part), "{arguments}: {part:?} is not in\n{text}");
        }
        assert_eq!(
            check(&dir, &format!("{arguments} --json")).status.code(),
            Some(code)
        );
    }
}

#[test]
fn the_document_has_every_step() {
    let dir = cluster();
    let allowed = document(&dir, "--from red/web --to blue/db --port 5432");
    assert_eq!(allowed["verdict"], "allowed");
    assert_eq!(
        allowed["to"],
        json!({"kind": "pod", "name": "blue/db", "tenant": "navy", "host_network": false})
    );
    assert_eq!(
        (&allowed["protocol"], &allowed["port"]),
        (&json!("TCP"), &json!(5432))
    );
    assert_eq!(allowed["egress"]["stand"], "free");
    assert_eq!(
        allowed["ingress"]["by"],
        json!({
            "policy": "blue/pg", "rule": 0, "peer": 1, "peer_is": "pods with app=web of every namespace",
            "port": 0, "port_is": "pg/TCP"
        })
    );
    let denied = document(&dir, "--from red/web --to blue/db --port 80");
    assert_eq!(denied["ingress"]["stand"], "denies");
    assert_eq!(
        denied["ingress"]["policies"],
        json!([
            {"policy": "blue/deny", "says": "no_rules", "rules": []},
            {"policy": "blue/pg", "says": "misses", "rules": [{"rule": 0, "names_peer": true, "names_port": false}]}
        ])
    );
    let unknown = document(&dir, "--from odd/pod --to 203.0.113.9 --port ICMP");
    assert_eq!(
        (&unknown["verdict"], &unknown["port"]),
        (&json!("unknown"), &Value::Null)
    );
    assert_eq!(
        unknown["to"],
        json!({"kind": "address", "name": "203.0.113.9", "tenant": null, "host_network": false})
    );
}

#[test]
fn a_matrix_has_every_pair_and_says_what_a_single_check_says() {
    let dir = cluster();
    let matrix = document(&dir, "--matrix --port 5432");
    assert_eq!(matrix["counts"], json!({"allowed": 1, "open": 1, "unknown": 4}));
    let pairs = matrix["pairs"].as_array().unwrap();
    assert_eq!(pairs.len(), 6);
    for pair in pairs {
        let (from, to) = (pair["from"].as_str().unwrap(), pair["to"].as_str().unwrap());
        let single = document(&dir, &format!("--from {from} --to {to} --port 5432"));
        assert_eq!(pair["verdict"], single["verdict"], "{from} {to}");
    }
    let output = check(&dir, "--matrix --port 80 --namespace red --namespace blue");
    assert_eq!(output.status.code(), Some(0), "a matrix is no verdict");
    let text = said(&output);
    let rows: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["#", "FROM", "TENANT", "→1", "→2"]);
    assert_eq!(rows[1], ["1", "blue/db", "navy", "-", "open"]);
    assert_eq!(rows[2], ["2", "red/web", "red", "no", "-"]);
    assert!(text.contains("80/TCP: 1 denied, 1 open"), "{text}");
    let named = document(&dir, "--matrix --port pg --namespace red --namespace blue");
    assert_eq!(
        named["pairs"][0],
        json!({"from": "blue/db", "to": "red/web", "verdict": null})
    );
}

#[test]
fn an_address_of_a_pod_with_two_says_which_family_is_used() {
    let dir = cluster();
    let dual = CLUSTER
        .replace("podIP: 10.0.0.1,", "podIPs: [{ip: 10.0.0.1}, {ip: \"fd00::1\"}],")
        .replace("podIP: 10.0.0.2,", "podIPs: [{ip: 10.0.0.2}, {ip: \"fd00::2\"}],")
        .replace(
            "{namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}",
            "{ipBlock: {cidr: \"fd00::/64\"}}",
        );
    std::fs::write(dir.path().join("all.yaml"), dual).unwrap();
    for (to, code) in [("fd00::1", 0), ("10.0.0.1", 1), ("blue/db", 5)] {
        let output = check(&dir, &format!("--from red/web --to {to} --port 5432"));
        assert_eq!(output.status.code(), Some(code), "{to}: {}", said(&output));
    }
}

#[test]
fn a_policy_file_names_the_tenants() {
    let dir = cluster();
    let file = dir.path().join("policy.conf");
    std::fs::write(&file, "tenants: [{name: crimson, namespaces: [red]}]\n").unwrap();
    let text = said(&check(
        &dir,
        &format!(
            "--from red/web --to blue/db --port 5432 --policy {}",
            file.display()
        ),
    ));
    assert!(text.contains("red/web (tenant crimson)"), "{text}");
    std::fs::write(&file, "tennants: []\n").unwrap();
    let output = check(
        &dir,
        &format!(
            "--from red/web --to blue/db --port 5432 --policy {}",
            file.display()
        ),
    );
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn what_cannot_be_used_is_one_line_and_exit_code_2() {
    let dir = cluster();
    for (arguments, needles) in [
        (
            "--from red/wep --to blue/db --port 80",
            &["--from", "red/wep", "pods of red are: web"][..],
        ),
        (
            "--from red/web --to rad/db --port 80",
            &["--to", "\"rad\"", "blue, odd, red"],
        ),
        (
            "--from red/web --to blue/done --port 80",
            &["blue/done has ended"],
        ),
        (
            "--from web --to blue/db --port 80",
            &["--from", "\"web\"", "NAMESPACE/POD"],
        ),
        ("--from node:node-c --to blue/db --port 80", &["node-c"]),
        (
            "--from red/web --to 10.96.0.9 --port 5432",
            &["ClusterIP of service blue/pg", "blue/db"],
        ),
        (
            "--from red/web --to blue/db --port http",
            &["no port named \"http\"", "pg (5432/TCP)"],
        ),
        (
            "--from red/web --to 203.0.113.9 --port http",
            &["no port named", "number"],
        ),
        ("--from red/web --to blue/db --port 0", &["--port", "\"0\""]),
        (
            "--from red/web --to blue/db --port 80/HTTP",
            &["HTTP", "TCP, UDP, SCTP, ICMP"],
        ),
        ("--from red/web --port 80", &["--to"]),
        ("--from red/web --to blue/db", &["--port"]),
        ("--matrix --from red/web --port 80", &["cannot be used with"]),
        ("--matrix --port 80 --namespace rad", &["--namespace", "rad"]),
        (
            "--from red/web --to blue/db --port 80 --policy /nowhere",
            &["/nowhere"],
        ),
    ] {
        let output = check(&dir, arguments);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments}: {text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(output.stdout.is_empty());
        for needle in needles {
            assert!(text.contains(needle), "{arguments}: {needle:?} is not in {text}");
        }
    }
}

#[test]
fn half_a_cluster_is_no_answer() {
    let dir = cluster();
    std::fs::write(
        dir.path().join("more.yaml"),
        CLUSTER.replace("203.0.113.0/24", "203.0.113.0/42"),
    )
    .unwrap();
    let output = check(&dir, "--from red/web --to blue/db --port 80");
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    for needle in [
        "more.yaml",
        "line ",
        "NetworkPolicy \"blue/pg\"",
        "ipBlock.cidr",
        "203.0.113.0/42",
    ] {
        assert!(text.contains(needle), "{needle:?} is not in {text}");
    }
    std::fs::remove_dir_all(dir.path()).unwrap();
    let output = check(&dir, "--from red/web --to blue/db --port 80");
    assert_eq!(
        output.status.code(),
        Some(2),
        "a directory that is not there denies nothing"
    );
}

#[test]
fn an_object_that_is_there_twice_is_no_answer() {
    let dir = cluster();
    let other = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: deny, namespace: blue}, spec: {podSelector: {}, ingress: [{}]}}";
    std::fs::write(dir.path().join("older.yaml"), other).unwrap();
    for arguments in ["--from red/web --to blue/db --port 80", "--matrix --port 80"] {
        let output = check(&dir, arguments);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        let where_ = dir.path().display().to_string();
        for needle in ["--cluster-from", &where_, "NetworkPolicy blue/deny", "older.yaml"] {
            assert!(text.contains(needle), "{needle:?} is not in {text}");
        }
    }
}

#[test]
fn a_reader_that_left_does_not_turn_a_denial_into_success() {
    let dir = cluster();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = Command::new(env!("CARGO_BIN_EXE_partywall"))
        .args([
            "policy",
            "check",
            "--from",
            "red/web",
            "--to",
            "blue/db",
            "--port",
            "80",
            "--cluster-from",
        ])
        .arg(dir.path())
        .stdout(writer)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stderr.is_empty());
}

#[test]
fn a_cluster_without_any_policy_is_remarked_upon() {
    let dir = cluster();
    let bare = CLUSTER
        .split("- apiVersion: networking.k8s.io/v1")
        .next()
        .unwrap();
    std::fs::write(dir.path().join("all.yaml"), bare).unwrap();
    let text = said(&check(&dir, "--from red/web --to blue/db --port 80"));
    assert!(
        text.contains("open: ") && text.contains("no policy in the directory"),
        "{text}"
    );
    let text = said(&check(&dir, "--matrix --port 80"));
    assert!(
        text.contains("note: there is no policy in the directory"),
        "{text}"
    );
    let matrix = document(&dir, "--matrix --port 80");
    assert_eq!(matrix["notes"].as_array().unwrap().len(), 1);
}

#[test]
fn a_matrix_of_nobody_is_no_answer() {
    let dir = cluster();
    let ended = CLUSTER.replace("phase: Running", "phase: Succeeded");
    for objects in [
        ended.as_str(),
        "{apiVersion: v1, kind: Namespace, metadata: {name: red}}",
    ] {
        std::fs::write(dir.path().join("all.yaml"), objects).unwrap();
        let output = check(&dir, "--matrix --port 80");
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(
            text.contains("no pod") && text.contains(&dir.path().display().to_string()),
            "{text}"
        );
    }
}

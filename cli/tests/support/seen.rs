//! A cluster of files and the flows seen in it, for `policy suggest` and `policy diff`.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) const CLUSTER: &str = r#"
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Namespace, metadata: {name: blue, labels: {capsule.clastix.io/tenant: navy}}}
- {apiVersion: v1, kind: Namespace, metadata: {name: blue-jobs, labels: {capsule.clastix.io/tenant: navy}}}
- {apiVersion: v1, kind: Namespace, metadata: {name: red}}
- {apiVersion: v1, kind: Namespace, metadata: {name: green}}
- {apiVersion: v1, kind: Namespace, metadata: {name: odd}}
- {apiVersion: v1, kind: Namespace, metadata: {name: kube-system}}
- {apiVersion: v1, kind: Node, metadata: {name: node-a}, status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}}
- {apiVersion: v1, kind: Node, metadata: {name: node-b}, status: {addresses: [{type: InternalIP, address: 192.0.2.2}]}}
- {apiVersion: v1, kind: Pod, metadata: {name: db-0, namespace: blue, uid: u-db, labels: {app: db, tier: "1", controller-revision-hash: db-7f, statefulset.kubernetes.io/pod-name: db-0}}, spec: {nodeName: node-a, containers: [{name: c}]}, status: {phase: Running, podIP: 10.0.0.1, hostIP: 192.0.2.1}}
- {apiVersion: v1, kind: Pod, metadata: {name: web-7f-a, namespace: blue, uid: u-web-a, labels: {app: web, pod-template-hash: 7f}}, spec: {nodeName: node-a, containers: [{name: c}]}, status: {phase: Running, podIP: 10.0.0.2, hostIP: 192.0.2.1}}
- {apiVersion: v1, kind: Pod, metadata: {name: web-7f-b, namespace: blue, uid: u-web-b, labels: {app: web, pod-template-hash: 7f}}, spec: {nodeName: node-b, containers: [{name: c}]}, status: {phase: Running, podIP: 10.0.0.3, hostIP: 192.0.2.2}}
- {apiVersion: v1, kind: Pod, metadata: {name: canary, namespace: blue, uid: u-canary, labels: {app: web, track: canary}}, spec: {nodeName: node-b, containers: [{name: c}]}, status: {phase: Running, podIP: 10.0.0.4, hostIP: 192.0.2.2}}
- {apiVersion: v1, kind: Pod, metadata: {name: vault, namespace: blue, uid: u-vault, labels: {app: vault}}, spec: {nodeName: node-a, containers: [{name: c}]}, status: {phase: Running, podIP: 10.0.0.5, hostIP: 192.0.2.1}}
- {apiVersion: v1, kind: Pod, metadata: {name: job-x, namespace: blue-jobs, uid: u-job, labels: {job-name: job-x, controller-uid: c1}}, spec: {nodeName: node-b, containers: [{name: c}]}, status: {phase: Succeeded}}
- {apiVersion: v1, kind: Pod, metadata: {name: client, namespace: red, uid: u-red, labels: {app: client}}, spec: {nodeName: node-b, containers: [{name: c}]}, status: {phase: Running, podIP: 10.0.1.1, hostIP: 192.0.2.2}}
- {apiVersion: v1, kind: Pod, metadata: {name: api, namespace: green, uid: u-green, labels: {app.kubernetes.io/name: api, app.kubernetes.io/version: "1.2"}}, spec: {nodeName: node-a, containers: [{name: c}]}, status: {phase: Running, podIP: 10.0.2.1, hostIP: 192.0.2.1}}
- {apiVersion: v1, kind: Pod, metadata: {name: agent, namespace: green, uid: u-host, labels: {app: agent}}, spec: {nodeName: node-b, hostNetwork: true, containers: [{name: c}]}, status: {phase: Running, podIP: 192.0.2.2, hostIP: 192.0.2.2}}
- {apiVersion: v1, kind: Pod, metadata: {name: pod, namespace: odd, uid: u-odd}, spec: {nodeName: node-b, containers: [{name: c}]}, status: {phase: Running, podIP: 10.0.3.1, hostIP: 192.0.2.2}}
- {apiVersion: v1, kind: Pod, metadata: {name: dns-1, namespace: kube-system, uid: u-dns, labels: {k8s-app: kube-dns}}, spec: {nodeName: node-a, containers: [{name: c}]}, status: {phase: Running, podIP: 10.0.9.1, hostIP: 192.0.2.1}}
- {apiVersion: v1, kind: Pod, metadata: {name: prom-0, namespace: kube-system, uid: u-prom, labels: {app: "yes"}}, spec: {nodeName: node-b, containers: [{name: c}]}, status: {phase: Running, podIP: 10.0.9.2, hostIP: 192.0.2.2}}
- apiVersion: v1
  kind: Service
  metadata: {name: api, namespace: green}
  spec: {clusterIP: 10.96.0.9, selector: {app.kubernetes.io/name: api}, ports: [{port: 80, targetPort: 8080}]}
- apiVersion: networking.k8s.io/v1
  kind: NetworkPolicy
  metadata: {name: vault, namespace: blue}
  spec: {podSelector: {matchLabels: {app: vault}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]}
- {apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: l7, namespace: odd}}
"#;

pub(crate) fn cluster() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("all.yaml"), CLUSTER).unwrap();
    dir
}

/// tenant, namespace, pod, uid, node, address, kind
type End = [&'static str; 7];

const DB: End = ["navy", "blue", "db-0", "u-db", "node-a", "10.0.0.1", ""];
const WEB_A: End = ["navy", "blue", "web-7f-a", "u-web-a", "node-a", "10.0.0.2", ""];
const WEB_B: End = ["navy", "blue", "web-7f-b", "u-web-b", "node-b", "10.0.0.3", ""];
const VAULT: End = ["navy", "blue", "vault", "u-vault", "node-a", "10.0.0.5", ""];
const JOB: End = ["navy", "blue-jobs", "job-x", "u-job", "node-b", "10.0.0.9", ""];
const RED: End = ["red", "red", "client", "u-red", "node-b", "10.0.1.1", ""];
const API: End = ["green", "green", "api", "u-green", "node-a", "10.0.2.1", ""];
const SERVICE: End = ["green", "green", "api", "", "", "10.96.0.9", "service"];
const HOST: End = ["green", "green", "agent", "u-host", "node-b", "192.0.2.2", ""];
const ODD: End = ["odd", "odd", "pod", "u-odd", "node-b", "10.0.3.1", ""];
const GONE: End = ["red", "red", "old", "u-old", "node-b", "10.0.1.7", ""];
const DNS: End = [
    "system",
    "kube-system",
    "dns-1",
    "u-dns",
    "node-a",
    "10.0.9.1",
    "",
];
const PROM: End = [
    "system",
    "kube-system",
    "prom-0",
    "u-prom",
    "node-b",
    "10.0.9.2",
    "",
];
const NODE_A: End = ["system", "", "", "", "node-a", "192.0.2.1", "node"];
const NODE_B: End = ["system", "", "", "", "node-b", "192.0.2.2", "node"];
const OUTSIDE: End = ["<outside>", "", "", "", "", "203.0.113.7", "outside"];

/// The document of `partywall flows --json`.
pub(crate) fn flows() -> Value {
    let end = |e: End| {
        json!({"tenant": e[0], "namespace": e[1], "pod": e[2], "uid": e[3], "node": e[4], "address": e[5],
            "kind": e[6], "unattributed": ""})
    };
    let list = [
        (RED, DB, "TCP", 5432, "open", true),
        (WEB_A, DB, "TCP", 5432, "within", true),
        (WEB_B, DB, "TCP", 5432, "within", true),
        (JOB, DB, "TCP", 5432, "within", true),
        (PROM, DB, "TCP", 9187, "within", true),
        (API, WEB_A, "TCP", 8080, "allowed", true),
        (API, WEB_B, "TCP", 8080, "allowed", true),
        (RED, WEB_A, "TCP", 8081, "open", true),
        (RED, WEB_A, "UDP", 8125, "open", true),
        (RED, WEB_A, "TCP", 22, "blocked", false),
        (NODE_A, WEB_A, "TCP", 8080, "within", true),
        (NODE_B, WEB_A, "TCP", 8080, "within", true),
        (OUTSIDE, WEB_B, "TCP", 8080, "within", true),
        (API, WEB_B, "ICMP", 0, "allowed", true),
        (HOST, WEB_A, "TCP", 8082, "allowed", true),
        (WEB_A, VAULT, "TCP", 8200, "within", true),
        (RED, VAULT, "TCP", 8200, "leaked", true),
        (RED, HOST, "TCP", 9100, "open", true),
        (RED, ODD, "TCP", 80, "unknown", true),
        (GONE, API, "TCP", 8080, "open", true),
        (RED, SERVICE, "TCP", 80, "open", true),
        (WEB_A, DNS, "UDP", 53, "within", true),
        (WEB_A, OUTSIDE, "TCP", 443, "within", true),
    ];
    let flow = |(i, (from, to, protocol, port, verdict, delivered)): (
        usize,
        (End, End, &str, u32, &str, bool),
    )| {
        let n = u64::try_from(i).unwrap() + 1;
        let counts = if protocol == "TCP" && delivered { n } else { 0 };
        json!({
            "from": end(from), "to": end(to), "protocol": protocol, "port": port, "verdict": verdict,
            "reason": "", "seen_by": "both", "delivered": delivered, "bytes_per_second": 0.0,
            "first_seen_unix_seconds": 1785412000.0, "last_seen_unix_seconds": 1785412271.0 + n as f64,
            "traffic": {"sent_packets": n, "sent_bytes": 1000 * n, "received_packets": n, "received_bytes": 24 * n,
                "opened": counts, "established": counts, "refused": 0, "reset": 0, "timed_out": 0},
        })
    };
    let flows: Vec<Value> = list.into_iter().enumerate().map(flow).collect();
    json!({"judged_unix_seconds": 1785412300.0, "window_seconds": 10.0, "left_out": 0, "flows": flows})
}

pub(crate) fn write_flows(dir: &TempDir, flows: &Value) -> String {
    let file = dir.path().join("flows.saved");
    std::fs::write(&file, flows.to_string()).unwrap();
    file.display().to_string()
}

pub(crate) fn policy(command: &str, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_partywall"))
        .args(["policy", command])
        .args(arguments)
        .stdin(Stdio::null())
        .env_remove("PARTYWALL_AGGREGATOR")
        .output()
        .unwrap()
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub(crate) fn said(output: &Output) -> String {
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    String::from_utf8(output.stdout.clone()).unwrap()
}

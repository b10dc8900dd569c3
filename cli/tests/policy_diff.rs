//! `partywall policy diff`: what it says, its document, and how it ends.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "support/seen.rs"]
mod seen;

use std::process::Output;

use seen::{CLUSTER, cluster, flows, policy, said, text, write_flows};
use serde_json::{Value, json};
use tempfile::TempDir;

fn changed(objects: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("changed.yaml"), objects).unwrap();
    dir
}

fn named(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
         metadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
    )
}

fn diff(objects: &str, flows: &Value, more: &[&str]) -> Output {
    let (dir, changed) = (cluster(), changed(objects));
    let file = write_flows(&dir, flows);
    let mut arguments = vec![
        "--cluster-from",
        text(dir.path()),
        "--changed",
        text(changed.path()),
        "--flows",
        &file,
    ];
    arguments.extend(more);
    policy("diff", &arguments)
}

/// Only flows from a pod, so that what is asked stays small.
fn only(from: &str, to: &str) -> Value {
    let mut all = flows();
    let is = |flow: &Value| flow["from"]["pod"] == from && flow["to"]["pod"] == to;
    all["flows"].as_array_mut().unwrap().retain(is);
    assert!(!all["flows"].as_array().unwrap().is_empty());
    all
}

#[test]
fn the_exit_code_says_whether_something_is_newly_denied() {
    let deny = named("blue", "deny", "{podSelector: {}}");
    let vault = named(
        "blue",
        "vault",
        "{podSelector: {matchLabels: {app: vault}}, ingress: [{}]}",
    );
    let foreign =
        "{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: l7, namespace: blue}}\n";
    let green = named("green", "deny", "{podSelector: {}}");
    for (objects, flows, more, code, wanted) in [
        (
            &deny,
            flows(),
            &[][..],
            1,
            &["denied", "ingress: isolated by blue/deny, no rule admits it"][..],
        ),
        (
            &deny,
            only("client", "db-0"),
            &[],
            1,
            &["red/client", "blue/db-0", "5432/TCP", "open", "1 newly denied"],
        ),
        // Denied before, and the same policy replaced.
        (
            &vault,
            only("client", "vault"),
            &[],
            0,
            &["0 newly denied, 1 newly allowed", "blue/vault ingress[0]"],
        ),
        // Another receiver's.
        (
            &deny,
            only("client", "agent"),
            &[],
            0,
            &["0 newly denied", "1 as before"],
        ),
        (&vault, only("web-7f-a", "vault"), &[], 0, &["1 as before"]),
        (
            &foreign.to_owned(),
            only("client", "db-0"),
            &[],
            5,
            &["1 unknown", "CiliumNetworkPolicy.cilium.io blue/l7"],
        ),
        // Unknown as before, and nothing changed there.
        (&deny, only("client", "pod"), &[], 0, &["1 as before"]),
        (
            &named("odd", "deny", "{podSelector: {}}"),
            only("client", "pod"),
            &[],
            5,
            &["1 unknown"],
        ),
        (
            &green,
            only("old", "api"),
            &[],
            5,
            &["not looked at: 1 flow: red/old is not among the cluster's pods"],
        ),
        (
            &String::new(),
            only("client", "vault"),
            &["--replace"],
            0,
            &["1 newly allowed", "no longer isolated by blue/vault"],
        ),
        (
            &deny,
            json!({"judged_unix_seconds": 1.0, "window_seconds": 1.0, "left_out": 0, "flows": []}),
            &[],
            5,
            &["no flow was seen"],
        ),
        // By way of a Service: the pod behind it.
        (
            &named("green", "deny", "{podSelector: {}}"),
            only("client", "api"),
            &[],
            1,
            &["80/TCP", "green/deny"],
        ),
    ] {
        let output = diff(objects, &flows, more);
        let told = said(&output);
        assert_eq!(output.status.code(), Some(code), "{told}");
        for part in wanted {
            assert!(told.contains(part), "{part:?} is not in\n{told}");
        }
        let with_json: Vec<&str> = more.iter().copied().chain(["--json"]).collect();
        let output = diff(objects, &flows, &with_json);
        assert_eq!(output.status.code(), Some(code));
        serde_json::from_str::<Value>(&said(&output)).unwrap();
    }
}

#[test]
fn flows_that_were_not_listed_are_no_all_clear() {
    let green = named("green", "deny", "{podSelector: {}}");
    let deny = named("blue", "deny", "{podSelector: {}}");
    for (objects, left_out, code) in [(&green, 0, 0), (&green, 3, 5), (&deny, 3, 1)] {
        let mut flows = only("client", "db-0");
        flows["left_out"] = left_out.into();
        let output = diff(objects, &flows, &[]);
        let told = said(&output);
        assert_eq!(output.status.code(), Some(code), "{told}");
        assert_eq!(
            told.contains("the aggregator knew 3 more flows"),
            left_out > 0,
            "{told}"
        );
    }
}

#[test]
fn an_attempt_that_never_came_through_is_no_loss() {
    let mut probe = only("client", "web-7f-a");
    probe["flows"].as_array_mut().unwrap().retain(|f| f["port"] == 22);
    let output = diff(&named("blue", "deny", "{podSelector: {}}"), &probe, &[]);
    assert_eq!(output.status.code(), Some(0));
    assert!(said(&output).contains("1 newly denied"));
}

#[test]
fn the_document_has_both_verdicts_and_who_says_so() {
    let deny = named(
        "blue",
        "deny",
        "{podSelector: {matchLabels: {app: db}}, egress: []}",
    );
    let output = diff(&deny, &only("client", "db-0"), &["--json"]);
    let document: Value = serde_json::from_str(&said(&output)).unwrap();
    let change = &document["changes"][0];
    assert_eq!(
        (&change["change"], &change["before"], &change["after"]),
        (&json!("newly_denied"), &json!("open"), &json!("denied"))
    );
    assert_eq!(change["by"], "ingress: isolated by blue/deny, no rule admits it");
    assert_eq!(document["unchanged"], 0);
}

#[test]
fn a_namespace_that_is_labelled_anew_counts() {
    let open = "{podSelector: {matchLabels: {app: vault}}, ingress: [{from: [{namespaceSelector: {matchLabels: {vault: ok}}}]}]}";
    let label = "---\n{apiVersion: v1, kind: Namespace, metadata: {name: red, labels: {vault: ok}}}\n";
    let output = diff(
        &format!("{}{label}", named("blue", "vault", open)),
        &only("client", "vault"),
        &[],
    );
    assert!(said(&output).contains("1 newly allowed"));
}

/// blue's web to its database: no policy here bears upon it.
fn with(flows: Vec<Value>) -> Value {
    let mut all = only("web-7f-a", "db-0");
    all["flows"].as_array_mut().unwrap().extend(flows);
    all
}

#[test]
fn what_is_in_use_and_cannot_be_looked_at_is_no_all_clear() {
    let to_service = || {
        let mut flow = only("client", "api")["flows"][0].clone();
        flow["to"]["namespace"] = "default".into();
        flow["to"]["pod"] = "kubernetes".into();
        flow["to"]["address"] = "10.96.0.1".into();
        flow
    };
    let unnamed = || {
        let mut flow = only("old", "api")["flows"][0].clone();
        flow["from"] = json!({"tenant": "<unknown>", "namespace": "", "pod": "", "uid": "", "node": "",
            "address": "10.0.1.8", "kind": "", "unattributed": "source_unconfirmed"});
        flow
    };
    let attempt = || {
        let mut flow = unnamed();
        flow["delivered"] = false.into();
        flow
    };
    let gone = || only("old", "api")["flows"][0].clone();
    let red = named("red", "deny", "{podSelector: {}, policyTypes: [Egress]}");
    let green = named("green", "deny", "{podSelector: {}}");
    let behind = named("default", "deny", "{podSelector: {}}");
    let pod = "---\n{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: default, uid: u-p}, spec: {containers: [{name: c}]}}\n";
    let said_so = "not looked at, but delivered, and with other policies after: 1 flow;";
    for (objects, flow, code) in [
        (&red, to_service(), 5),
        (&green, to_service(), 0),
        (&behind, to_service(), 5),
        (&green, unnamed(), 5),
        (&red, unnamed(), 0),
        (&green, attempt(), 0),
        (&green, gone(), 0),
    ] {
        let (dir, changed) = (cluster(), changed(objects));
        std::fs::write(dir.path().join("default.yaml"), pod).unwrap();
        let file = write_flows(&dir, &with(vec![flow.clone()]));
        let mut arguments = vec![
            "--cluster-from",
            text(dir.path()),
            "--changed",
            text(changed.path()),
            "--flows",
            &file,
        ];
        let output = policy("diff", &arguments);
        let told = said(&output);
        assert_eq!(output.status.code(), Some(code), "{objects}{flow}\n{told}");
        assert!(
            told.contains("0 newly denied, 0 newly allowed, 1 not looked at, 1 as before"),
            "{told}"
        );
        assert_eq!(told.contains(said_so), code == 5, "{told}");
        arguments.push("--json");
        let document: Value = serde_json::from_str(&said(&policy("diff", &arguments))).unwrap();
        assert_eq!(document["undecided"], u64::from(code == 5));
    }
}

#[test]
fn a_policy_that_selects_nobody_is_told_and_one_of_no_namespace_is_no_all_clear() {
    let nobody = "{podSelector: {matchLabels: {app: later}}}";
    let new = "---\n{apiVersion: v1, kind: Namespace, metadata: {name: bleu}}\n";
    let foreign =
        "---\n{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: l7, namespace: bleu}}\n";
    let deny = named("bleu", "deny", "{podSelector: {}}");
    let note = "note: NetworkPolicy bleu/deny selects no pod in --cluster-from";
    let missing = "there is no namespace \"bleu\"";
    for (objects, code, wanted) in [
        (deny.clone(), 5, &[note, missing][..]),
        (format!("{deny}{new}"), 0, &[note]),
        (
            named("blue", "later", nobody),
            0,
            &["note: NetworkPolicy blue/later selects no pod"],
        ),
        (
            foreign.to_owned(),
            5,
            &["CiliumNetworkPolicy.cilium.io bleu/l7", missing],
        ),
        // Also where there is nothing else to say.
        (named("blue", "vault", "{podSelector: {}}"), 1, &[]),
    ] {
        let output = diff(&objects, &with(Vec::new()), &[]);
        let told = said(&output);
        assert_eq!(output.status.code(), Some(code), "{objects}\n{told}");
        assert!(wanted.iter().all(|w| told.contains(w)), "{told}");
        assert_eq!(told.contains("note: "), !wanted.is_empty(), "{told}");
        assert_eq!(told.contains(missing), code == 5, "{told}");
        let document: Value =
            serde_json::from_str(&said(&diff(&objects, &with(Vec::new()), &["--json"]))).unwrap();
        assert_eq!(document["misplaced"], u64::from(code == 5));
        assert_eq!(
            document["notes"].as_array().unwrap().is_empty(),
            wanted.is_empty()
        );
    }
}

#[test]
fn a_cluster_without_any_policy_is_remarked_upon() {
    let (dir, changed) = (cluster(), changed(&named("green", "deny", "{podSelector: {}}")));
    let bare = CLUSTER
        .split("- apiVersion: networking.k8s.io/v1")
        .next()
        .unwrap();
    std::fs::write(dir.path().join("all.yaml"), bare).unwrap();
    let file = write_flows(&dir, &with(Vec::new()));
    let arguments = [
        "--cluster-from",
        text(dir.path()),
        "--changed",
        text(changed.path()),
        "--flows",
        &file,
    ];
    let output = policy("diff", &arguments);
    assert_eq!(output.status.code(), Some(0));
    assert!(said(&output).contains("note: there is no policy in the directory at all"));
}

#[test]
fn what_cannot_be_used_is_one_line_and_exit_code_2() {
    for (objects, more, needle) in [
        ("", &[][..], "neither a policy nor a namespace"),
        (
            "{kind: NetworkPolicy, apiVersion: networking.k8s.io/v1}",
            &[],
            "changed.yaml",
        ),
        (
            "{apiVersion: v1, kind: ConfigMap, metadata: {name: x}}",
            &[],
            "--replace",
        ),
        (
            "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: deny}, spec: {podSelector: {}}}",
            &[],
            "changed.yaml: NetworkPolicy \"deny\" has no metadata.namespace",
        ),
        (
            "{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: l7}}",
            &[],
            "CiliumNetworkPolicy.cilium.io \"l7\" has no metadata.namespace",
        ),
        ("", &["--replace", "--flows"], "--flows"),
    ] {
        let output = diff(objects, &flows(), more);
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{line}");
        assert_eq!(line.lines().count(), 1, "{line}");
        assert!(line.contains(needle), "{needle:?} is not in {line}");
    }
}

#[test]
fn an_object_that_is_there_twice_is_no_answer() {
    let (dir, changed) = (cluster(), changed(&named("blue", "vault", "{podSelector: {}}")));
    let file = write_flows(&dir, &flows());
    let arguments = [
        "--cluster-from",
        text(dir.path()),
        "--changed",
        text(changed.path()),
        "--flows",
        &file,
    ];
    let once = changed.path().join("changed.yaml");
    for (option, twice) in [("--changed", &changed), ("--cluster-from", &dir)] {
        let more = twice.path().join("more.yaml");
        std::fs::copy(&once, &more).unwrap();
        let output = policy("diff", &arguments);
        std::fs::remove_file(more).unwrap();
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{line}");
        for needle in [option, "NetworkPolicy blue/vault", "more.yaml"] {
            assert!(line.contains(needle), "{needle:?} is not in {line}");
        }
    }
}

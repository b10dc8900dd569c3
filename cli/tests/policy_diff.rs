//! `partywall policy diff`: what it says, its document, and how it ends.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "support/seen.rs"]
mod seen;

use std::process::Output;

use seen::{cluster, flows, policy, said, text, write_flows};
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
